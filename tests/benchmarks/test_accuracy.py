"""The ImageNet evaluator: hand computations, all forms of data, damaged photos, models that do not fit."""

import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from keras_mnasnet import MnasNetA1, load, save
from keras_mnasnet.benchmarks import evaluate
from keras_mnasnet.benchmarks.accuracy import label_outputs, ranks
from keras_mnasnet.data import evaluation_batches, load_image, open_images
from keras_mnasnet.data.folders import imagenet_wnids
from keras_mnasnet.inference import Classifier, open_classifier
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.weights.checkpoint import Origin
from keras_mnasnet.weights.registry import source_preprocessing

PLACES = [0] * 5 + [3] * 4 + [10] * 3


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(checkpoint, folder of photos) where 5 photos are in the class that the model puts first, 4 fourth, 3 eleventh."""
    folder = tmp_path_factory.mktemp("evaluation")
    model = MnasNetA1(weights=None, width_multiplier=0.35, input_shape=(64, 64, 3))
    generator = np.random.default_rng(0)
    top = model.get_layer("predictions")
    top.set_weights([generator.normal(size=value.shape).astype(np.float32) for value in top.get_weights()])
    checkpoint = folder / "a1.safetensors"
    save(model, checkpoint)
    preprocessing = load(checkpoint).preprocessing
    for number, place in enumerate(PLACES):
        pixels = generator.integers(0, 256, (80 + number, 100, 3), np.uint8)
        photo = folder / f"{number}.jpg"
        photo.write_bytes(tf.io.encode_jpeg(pixels).numpy())
        scores = model.predict(load_image(photo, preprocessing)[None], verbose=0)[0]
        target = folder / "photos" / imagenet_wnids()[np.argsort(-scores, kind="stable")[place]]
        target.mkdir(parents=True, exist_ok=True)
        photo.rename(target / photo.name)
    for wnid in imagenet_wnids()[:2]:
        assert not (folder / "photos" / wnid).exists()
    return checkpoint, folder / "photos"


def forms(folder, target):
    """The photos of class folders as a folder, a tar and TFRecords."""
    images = open_images(folder)
    with tarfile.open(target / "photos.tar", "w") as tar:
        tar.add(folder, ".")
    records = target / "records"
    records.mkdir()
    with tf.io.TFRecordWriter(str(records / "validation-00000-of-00001")) as writer:
        for index in range(images.count):
            with open(images.where(index), "rb") as file:
                image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.read()]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(images.label_ids[index]) + 1]))
            features = tf.train.Features(feature={"image/encoded": image, "image/class/label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return [folder, target / "photos.tar", records]


def figures(result):
    return result.images, result.correct1, result.correct5, result.top1, result.top5, result.per_class


def test_a_checkpoint_on_every_form_of_data(built, tmp_path):
    checkpoint, folder = built
    classifier = open_classifier(checkpoint)
    found = [evaluate([classifier], data, batch_size=5)[0] for data in forms(folder, tmp_path)]
    assert figures(found[0])[:5] == (12, 5, 9, 5 / 12, 9 / 12)
    assert figures(found[0]) == figures(found[1]) == figures(found[2])
    result = found[0]
    assert sum(one.images for one in result.per_class) == 12
    assert sum(one.correct1 for one in result.per_class) == 5
    assert (result.kind, result.classes, result.background, result.bad) == ("keras", 1000, False, ())
    assert result.images_per_second == pytest.approx(12 / result.seconds)
    assert result.published_top1 is None
    assert result.preprocessing.size == 64


def test_a_training_run_is_its_folder(built, tmp_path):
    checkpoint, folder = built
    shutil.copy(checkpoint, tmp_path / "model.safetensors")
    run = str(tmp_path)
    (result,) = evaluate([run], folder, limit=3, preprocessing="timm")
    assert (result.model, result.images) == (run, 3)
    assert result.preprocessing == Preprocessing(64, "bicubic", resize=73)
    with pytest.raises(ValueError, match="training run's, with model.safetensors. Received: the folder"):
        evaluate([str(folder)], folder)


def scripted(outputs, scores, labels=None):
    """A classifier that gives every photo the same scores, and keeps the sizes of its batches."""
    seen = []

    def run(pixels, batch_size):
        seen.append(len(pixels))
        return np.tile(np.array(scores), (len(pixels), 1)), 1.0

    origin = Origin("test", "scripted")
    model = Classifier("scripted", "keras", 32, outputs, source_preprocessing("google", 32), "", run, origin, labels)
    return model, seen


def test_damaged_photos(built, tmp_path):
    _, folder = built
    classifier, _ = scripted(1000, range(1000))
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    whole = sorted(photos.rglob("*.jpg"))
    hurt = whole[-1]
    hurt.write_bytes(hurt.read_bytes()[:300])
    images = open_images(photos)
    with pytest.raises(ValueError, match=rf"At most max_bad=0 of the 12 images .* Received: 1 .*\n  {hurt}"):
        evaluate([classifier], images)
    (result,) = evaluate([classifier], images, max_bad=1)
    assert result.bad == (str(hurt),)
    assert result.images == 11
    whole[0].write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Received: 2 that cannot be decoded"):
        evaluate([classifier], images, max_bad=1, batch_size=3)
    for path in whole:
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="where none can be decoded"):
        evaluate([classifier], images, max_bad=12)


def test_models_with_one_preprocessing_share_a_pass():
    images = open_images("shapes:60@40", split="validation")
    classes = len(images.labels)
    (first, _), (second, seen) = scripted(classes, range(classes)), scripted(classes, [1] * classes)
    low, high = evaluate([first, second], images, batch_size=25)
    assert seen[1:] == [25, 25, 10]
    counts = np.bincount(images.label_ids, minlength=classes)
    assert (low.correct1, high.correct1) == (counts[-1], counts[0])
    assert low.seconds == 3.0


def test_a_background_and_few_classes(capfd):
    images = open_images("shapes:60@40", split="validation")
    classes = len(images.labels)
    model, _ = scripted(classes + 1, [2, 2, *[0] * (classes - 1)])
    (result,) = evaluate([model], "shapes:60@40", limit=20)
    assert result.background
    assert (result.data, result.split) == ("shapes:60@40", "validation")
    header = capfd.readouterr().err
    assert "model       scripted" in header
    assert f"data        shapes:60@40: photos 20; {classes} classes: checkerboard" in header
    evaluate(model, "shapes:60@40", limit=20, progress=False)
    assert not capfd.readouterr().err
    assert result.correct1 == 0
    assert result.images == 20
    assert (result.correct5 is None) == (classes <= 5)
    (result,) = evaluate([model], images, limit=20, labels_offset=0)
    assert result.correct1 == np.bincount(images.subset(np.arange(20) * images.count // 20).label_ids)[0]


def test_refusals(built):
    checkpoint, folder = built
    images = open_images("shapes:20@40")
    model, _ = scripted(3, [0, 0, np.nan], None)
    with pytest.raises(ValueError, match="scripted with 30 outputs and data with"):
        evaluate([scripted(30, [0])[0]], images)
    with pytest.raises(ValueError, match="scripted: Scores must be finite"):
        evaluate([scripted(len(images.labels), [np.nan] * len(images.labels))[0]], images)
    with pytest.raises(ValueError, match="at least one model"):
        evaluate([], images)
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate([model], images, batch_size=0)
    with pytest.raises(ValueError, match="`limit` must be 1 or more"):
        evaluate([model], "shapes", limit=0)
    with pytest.raises(ValueError, match="Did you mean 'google/a1-1.0-224'"):
        open_classifier("google/a1-1.0-22")
    with pytest.raises(ValueError, match="`preprocessing` must be a Preprocessing or one of google"):
        open_classifier(checkpoint, preprocessing="slim")
    weights = folder.parent / "x.weights.h5"
    weights.write_bytes(b"x")
    with pytest.raises(ValueError, match="a text file that begins with 'x'"):
        open_classifier(weights)


def test_pillow_pixels(tmp_path):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    names = []
    for number, (height, width) in enumerate([(150, 97), (64, 73), (301, 400), (40, 41)]):
        rough = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        photo = tmp_path / f"class{number}" / "a.jpg"
        photo.parent.mkdir()
        image.fromarray(rough).resize((width, height), image.Resampling.BICUBIC).save(photo, quality=90)
        names.append(photo)
    pillow = Preprocessing(64, "bilinear", resize=round(64 / 0.875), offset="down")
    pixels = next(iter(evaluation_batches(open_images(tmp_path), pillow, batch_size=4)))[0].numpy()
    for name, found in zip(names, pixels, strict=True):
        photo = image.open(name)
        short = min(photo.size)
        resized = photo.resize([73 * side // short for side in photo.size], image.Resampling.BILINEAR)
        left, top = ((side - 64) // 2 for side in resized.size)
        expected = np.asarray(resized.crop((left, top, left + 64, top + 64)), np.float32)
        assert np.abs(found - expected).max() <= 1
        assert np.mean(found != expected) < 0.01


def test_a_hosted_model_on_every_form_of_data(data, tmp_path):
    model = str(next((data / "coral").glob("*.tflite")))
    photos = sorted((data / "imagenet_250").glob("n*/*.JPEG"))[::21]
    for photo in photos:
        target = tmp_path / "photos" / photo.parent.name
        target.mkdir(parents=True)
        shutil.copy(photo, target)
    found = [evaluate([model], where, threads=1)[0] for where in forms(tmp_path / "photos", tmp_path)]
    assert figures(found[0]) == figures(found[1]) == figures(found[2])
    assert found[0].images == len(photos) == 12
    assert found[0].correct1 >= 9
    assert found[0].background


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_of_equal_scores_the_lower_output_goes_first(dtype):
    scores = np.array([[0, 7, 3, 7], [5, 5, 5, 5], [0, 0, 9, 0]], dtype)
    assert ranks(scores, np.array([1, 1, 1])).tolist() == [0, 1, 2]
    assert ranks(scores, np.array([3, 3, 3])).tolist() == [1, 3, 3]


def test_places_are_those_of_a_stable_descending_sort():
    scores = np.random.default_rng(0).integers(0, 6, (50, 9)).astype(np.uint8)
    order = np.argsort(-scores.astype(np.int64), axis=1, kind="stable")
    for output in range(9):
        expected = np.argmax(order == output, axis=1)
        assert ranks(scores, np.full(50, output)).tolist() == expected.tolist()


def test_a_background_is_ranked_and_never_right():
    outputs = label_outputs("m", 4, ["a", "b", "c"])
    assert outputs.tolist() == [1, 2, 3]
    scores = np.array([[9, 8, 1, 0], [0, 1, 8, 9], [7, 7, 0, 0]])
    assert ranks(scores, outputs[np.array([0, 2, 0])]).tolist() == [1, 0, 1]


def test_scores_that_are_not_finite():
    with pytest.raises(ValueError, match="must be finite"):
        ranks(np.array([[np.nan, 1.0]]), np.array([0]))


def test_labels_go_by_name_where_the_model_knows_its_classes():
    known = ("cat", "dog", "cow")
    assert label_outputs("m", 3, ["cow", "cat"], known=known).tolist() == [2, 0]
    assert label_outputs("m", 3, ["a", "b", "c"], known=known, offset=0).tolist() == [0, 1, 2]
    assert label_outputs("m", 3, ["a", "b"], offset=0).tolist() == [0, 1]
    with pytest.raises(ValueError, match="classes must be the model's. Received: m of cat, dog, cow and data with horse"):
        label_outputs("m", 3, ["cat", "dog", "horse"], known=known)


@pytest.mark.parametrize("outputs", [999, 1002, 10])
def test_other_numbers_of_classes(outputs):
    with pytest.raises(ValueError, match=f"m with {outputs:,} outputs and data with 1,000 classes"):
        label_outputs("m", outputs, [str(label) for label in range(1000)])


@pytest.mark.parametrize(("outputs", "offset"), [(3, 1), (4, 2), (4, -1), (5, 1), (2, 0)])
def test_offsets_that_do_not_fit(outputs, offset):
    with pytest.raises(ValueError, match="`labels_offset` must be 0, or 1"):
        label_outputs("m", outputs, ["a", "b", "c"], offset=offset)
