"""The ImageNet evaluator: hand computations, all forms of data, damaged photos, models that do not fit."""

import dataclasses
import shutil
import tarfile
from html.parser import HTMLParser

import numpy as np
import pytest
import tensorflow as tf

from keras_mnasnet import MnasNetA1, load, save
from keras_mnasnet.benchmarks import evaluate, gallery
from keras_mnasnet.benchmarks.accuracy import label_outputs, ranks
from keras_mnasnet.data import evaluation_batches, load_image, open_images
from keras_mnasnet.data.folders import imagenet_wnids
from keras_mnasnet.inference import Classifier, open_classifier
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.weights.checkpoint import Origin
from keras_mnasnet.weights.registry import labels_of, source_preprocessing, spelled_as

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


def test_labels_name_the_outputs_and_the_data_may_have_fewer_of_them(capfd):
    """Of twelve outputs in another order ten are the data's; the best is none of them, the second is 'circle'."""
    images = open_images("shapes:60@40", split="validation")
    names = ["box", *reversed(images.labels), "cone"]
    scores = np.zeros(12)
    scores[0], scores[names.index("circle")] = 2, 1
    model, _ = scripted(12, scores)
    with pytest.raises(ValueError, match="12 outputs and data with 10 classes .* or name the model's outputs with labels="):
        evaluate(model, images, progress=False)
    with pytest.raises(ValueError, match="`labels` must name every class of the model. Received: 11 names for 12 classes"):
        evaluate(model, images, labels=names[1:], progress=False)
    with pytest.raises(ValueError, match="Received: 12 labels and labels_offset=1. Leave out one"):
        evaluate(model, images, labels=names, labels_offset=1)
    (result,) = evaluate(model, images, labels=names)
    assert "model    scripted, 12 classes (10 of them in the data)" in capfd.readouterr().err
    share = np.mean(images.label_ids == images.labels.index("circle"))
    assert (result.top1, result.top1_among, result.outputs, result.classes) == (0, share, 12, 10)
    assert not result.background
    (result,) = evaluate(model, images, labels=[*names[:-1], "disk"], progress=False)
    assert result.top1_among == share
    with pytest.raises(ValueError, match=r"1 of 10 classes are not: 'ring' \(near: 'rings'\)"):
        evaluate(model, images, labels=[{"ring": "rings"}.get(name, name) for name in names], progress=False)


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f" {data}"


HOSTILE = "<img src=x onerror=alert(1)>", "a\"b'c&lt;"


@pytest.fixture
def hostile(tmp_path):
    """Three photos of one class and two of another, with names that are HTML."""
    for label, count in zip(HOSTILE, (3, 2), strict=True):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((400, 600, 3), 50 * number, np.uint8)
            name = f'{number}"><script>alert(1)<\u2215script>.jpg'
            (tmp_path / "photos" / label / name).write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return tmp_path / "photos"


def test_the_page_of_errors(hostile, tmp_path):
    """What is decided differently, by confusion; then what all decide wrongly; names are text and nothing else."""
    first, second = (scripted(2, scores)[0] for scores in ([1, 0], [0, 1]))
    renamed = [dataclasses.replace(each, name=f"models/<b>{name}") for each, name in ((first, "x"), (second, "y"))]
    evaluate(renamed, hostile, errors=tmp_path / "page", progress=False)
    page = Page(tmp_path / "page" / "index.html")
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "svg", "b"}
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [each["alt"] for each in pictures] == [HOSTILE[0]] * 3 + [HOSTILE[1]] * 2
    assert all("onerror" not in each for each in pictures)
    for each in pictures:
        photo = tf.io.decode_jpeg((tmp_path / "page" / each["src"]).read_bytes())
        assert photo.shape == (213, 320, 3)
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["index.html", "photos"]
    text = " ".join(page.text.split())
    assert "Decided differently: 5 photos 2 confusions, the most frequent first" in text
    assert f"{HOSTILE[0]} <b>x: {HOSTILE[0]} ✓ <b>y: {HOSTILE[1]} ✗ 3 photos" in text
    assert "Decided wrongly, and alike: 0 photos" in text
    assert "script>.jpg <b>y: place\xa02" in page.text

    evaluate([first, dataclasses.replace(first)], hostile, errors=tmp_path / "alike", progress=False)
    text = " ".join(Page(tmp_path / "alike" / "index.html").text.split())
    assert "Decided differently: 0 photos" in text
    assert "Decided wrongly, and alike: 2 photos 1 confusion, the most frequent first" in text
    assert f"{HOSTILE[1]} taken for {HOSTILE[0]} ✗ 2 photos" in text


def test_many_errors_are_cut_and_counted(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST", 2)
    monkeypatch.setattr(gallery, "MOST_OF_GROUP", 2)
    evaluate([scripted(2, scores)[0] for scores in ([1, 0], [0, 1])], hostile, errors=tmp_path / "page", progress=False)
    page = Page(tmp_path / "page" / "index.html")
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 2
    assert "3 photos, 2 shown" in page.text
    assert "Not shown: 2 photos of 1 confusion less frequent." in page.text


def test_no_half_a_page(hostile, tmp_path, monkeypatch):
    model, _ = scripted(2, [1, 0])
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(gallery, "_head", lambda *_: 1 / 0)
    for name in ("new/page", "empty"):
        with pytest.raises(ZeroDivisionError):
            evaluate(model, hostile, errors=tmp_path / name, progress=False)
    assert not (tmp_path / "new" / "page").exists()
    assert not list((tmp_path / "empty").iterdir())
    with pytest.raises(ValueError, match="A folder must be new or empty. Received: .*photos, which is not"):
        evaluate(model, hostile, errors=hostile, progress=False)


def test_imagenets_names_with_synonyms_are_imagenets():
    """As most files of labels have them; matched by wnid, with a background or without."""
    names = [name.replace("_", " ") for name in labels_of("google", 1000)]
    synonyms = [f"{name}, Latin name" for name in names]
    wnids = imagenet_wnids()
    assert spelled_as(synonyms, wnids) == tuple(wnids)
    assert spelled_as(["background", *synonyms], wnids[:3])[1:] == tuple(wnids)
    assert spelled_as(synonyms, synonyms[:5]) == tuple(synonyms)
    assert spelled_as(["other", *synonyms[1:]], wnids)[0] == "other"


def test_the_names_of_wnids_are_shown(tmp_path):
    for wnid in imagenet_wnids()[:2]:
        (tmp_path / "photos" / wnid).mkdir(parents=True)
        (tmp_path / "photos" / wnid / "1.jpg").write_bytes(tf.io.encode_jpeg(np.zeros((50, 50, 3), np.uint8)).numpy())
    evaluate(scripted(1000, range(1000, 0, -1))[0], tmp_path / "photos", errors=tmp_path / "page", progress=False)
    page = Page(tmp_path / "page" / "index.html")
    assert "goldfish taken for tench ✗ 1 photo" in " ".join(page.text.split())
    assert [attributes.get("class") for tag, attributes in page.elements if tag == "img"] == ["small"]


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
    wanted = "must be one of the model's. Received: m of cat, dog, cow, and data of which 1 of 3 classes are not: 'horse'. .*"
    with pytest.raises(ValueError, match=f"{wanted}labels_offset=0 .*--labels FILE"):
        label_outputs("m", 3, ["cat", "dog", "horse"], known=known)
    with pytest.raises(
        ValueError, match=r"1 of 2 classes are not: 'Cows_' \(near: 'cow'\). Rename the data's classes, or pass labels="
    ):
        label_outputs("m", 3, ["Cows_", "cat"], known=known)
    assert label_outputs("m", 4, ["crane", "cat", "crane"], known=("crane", "cat", "crane")).tolist() == [1, 2, 3]
    assert label_outputs("m", 3, ["cat"], known=("crane", "cat", "crane")).tolist() == [1]
    with pytest.raises(ValueError, match="'crane', which stands twice"):
        label_outputs("m", 3, ["crane"], known=("crane", "cat", "crane"))


@pytest.mark.parametrize("outputs", [999, 1002, 10])
def test_other_numbers_of_classes(outputs):
    with pytest.raises(ValueError, match=f"m with {outputs:,} outputs and data with 1,000 classes"):
        label_outputs("m", outputs, [str(label) for label in range(1000)])


@pytest.mark.parametrize(("outputs", "offset"), [(3, 1), (4, 2), (4, -1), (5, 1), (2, 0)])
def test_offsets_that_do_not_fit(outputs, offset):
    with pytest.raises(ValueError, match="`labels_offset` must be 0, or 1"):
        label_outputs("m", outputs, ["a", "b", "c"], offset=offset)
