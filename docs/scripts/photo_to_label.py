"""Photos to labels: a model that ships with the package, what it says of itself, and what it sees."""

from keras_mnasnet import load, predict

checkpoint = load("cifar10")
print(checkpoint.architecture.name, checkpoint.size, checkpoint.labels)
print(checkpoint.preprocessing, checkpoint.origin)
for prediction in predict(checkpoint, ["ship.png", "airplane.png"], top=3):
    print(prediction.photo, prediction.classes)
