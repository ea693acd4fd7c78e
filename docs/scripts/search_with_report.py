"""A search for networks on photos, its progress, its report, and the best network as a model."""

from keras_mnasnet import MnasNet, search

small = {"width": 0.1, "stem_stride": 1}
recipe = "proxy-5-epochs epochs=1 batch_size=16"
for progress in search.run(
    "photos", study="mine.study", space_options=small, device="madds", target_ms=2, size=32, recipe=recipe, trials=2,
    executor="local", estimate=False,
):  # fmt: skip
    print(progress.done, progress.best and progress.best.reward)
print(search.report("mine.study", "report"))
model = MnasNet(progress.best.architecture, classes=2, input_shape=(32, 32, 3))
