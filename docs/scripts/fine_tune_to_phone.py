"""From a trained model to a file for a phone: fine-tune on photos, write an int8 `.tflite`, measure its latency."""

from keras_mnasnet import benchmarks, export, training

run = training.train("photos", "runs/photos", from_model="cifar10", recipe="finetune epochs=2 batch_size=16")
print(run.accuracy, run.labels)
report = export.export("runs/photos", "photos.tflite", quantize="int8", representative_data="photos")
print(report.comparisons[0].top1_agreement, report.facts.bytes)
for result in benchmarks.latency(["runs/photos", "photos.tflite"], runs=20).results:
    print(result.model, result.cpu.median_ms)
