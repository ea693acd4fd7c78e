"""A detector for boxes of your own: train it, then find and draw objects."""

from keras_mnasnet import detection

run = detection.train(
    "boxes.json", "boxes", "runs/boxes", from_model="cifar10", size=96, epochs=1, batch_size=2, validation=0
)  # fmt: skip
for photo in detection.predict("runs/boxes", ["boxes/1.png", "boxes/2.png"], output="drawn", score=0.01):
    print(photo.photo, photo.drawn, photo.objects[:1])
