"""What every builder promises, once for all of them."""

import keras
import numpy as np
import pytest

import keras_mnasnet
from keras_mnasnet.family import FAMILY
from keras_mnasnet.model import build
from keras_mnasnet.spec import describe

BUILDERS = {
    "a1": keras_mnasnet.MnasNetA1,
    "a2": keras_mnasnet.MnasNetA2,
    "a3": keras_mnasnet.MnasNetA3,
    "b1": keras_mnasnet.MnasNetB1,
    "small": keras_mnasnet.MnasNetSmall,
    "d1": keras_mnasnet.MnasNetD1,
    "d1-320": keras_mnasnet.MnasNetD1_320,
}
LIKE_ANOTHER = ("a2", "a3", "d1-320")  # of the same layers as A1 and D1
builders = pytest.mark.parametrize(("name", "builder"), BUILDERS.items(), ids=list(BUILDERS))
kinds = pytest.mark.parametrize(
    ("name", "builder"),
    [pytest.param(*each, marks=[pytest.mark.nightly] * (each[0] in LIKE_ANOTHER), id=each[0]) for each in BUILDERS.items()],
)
WIDTH = 0.35
RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.float32)


def randomise(model: keras.Model) -> None:
    """Random statistics and biases, so that a wrong or missing layer shows."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            layer.set_weights([rng.uniform(0.5, 1.5, size) if i in (0, 3) else rng.normal(0, 0.3, size) for i in range(4)])


@builders
def test_full_network_has_the_architectures_parameters(name, builder):
    model = builder(weights=None)
    network = FAMILY[name]
    size = 320 if name == "d1-320" else 224
    assert model.input_shape == (None, size, size, 3)
    assert model.output_shape == (None, 1000)
    assert model.count_params() == network.params() + network.moving_statistics()
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == network.params()
    assert describe(model).architecture == network
    assert builder.__name__.lower().replace("_", "-") == f"mnasnet{name}"
    assert model.name == f"mnasnet_{name.replace('-', '_')}"


@builders
def test_no_top_any_size(name, builder):
    model = builder(include_top=False, weights=None, input_shape=(None, None, 3), width_multiplier=WIDTH)
    assert model.output_shape == (None, None, None, 1280)
    for height, width in ((32, 32), (97, 130)):
        out = model(pixels(1, height, width, 3))
        assert out.shape == (1, -(-height // 32), -(-width // 32), 1280)


@kinds
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling(name, builder, pooling):
    model = builder(include_top=False, weights=None, pooling=pooling, input_shape=(64, 64, 3), width_multiplier=WIDTH)
    assert model.output_shape == (None, 1280)


@kinds
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(name, builder, channels):
    model = builder(
        weights=None, input_shape=(33, 47, channels), include_preprocessing=False, classes=5, width_multiplier=WIDTH
    )
    out = np.asarray(model(RNG.normal(size=(2, 33, 47, channels)).astype(np.float32)))
    assert out.shape == (2, 5)
    np.testing.assert_allclose(out.sum(1), 1, rtol=1e-5)


@kinds
def test_input_tensor(name, builder):
    image = keras.Input((64, 48, 3), name="photo")
    model = builder(weights=None, input_tensor=image, classes=3, width_multiplier=WIDTH, name="mine")
    assert model.input is image
    assert model.name == "mine"
    flipped = keras.layers.RandomFlip()(image)
    assert builder(weights=None, input_tensor=flipped, classes=3, width_multiplier=WIDTH).inputs[0] is image


@kinds
def test_save_load_clone_give_the_same_outputs(name, builder, tmp_path):
    model = builder(weights=None, input_shape=(64, 64, 3), classes=7, width_multiplier=WIDTH, classifier_activation=None)
    randomise(model)
    x = pixels(2, 64, 64, 3)
    expected = np.asarray(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(loaded(x)), expected)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(np.asarray(clone(x)), expected)
    assert describe(loaded) == describe(clone) == describe(model)
    keras_mnasnet.save(model, tmp_path / "weights.safetensors")
    for path in (tmp_path / "weights.safetensors", tmp_path / "model.keras"):
        again = builder(weights=path, input_shape=(64, 64, 3), classes=7, width_multiplier=WIDTH, classifier_activation=None)
        np.testing.assert_array_equal(np.asarray(again(x)), expected)


@kinds
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_dtype_policies(name, builder, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = builder(weights=None, input_shape=(64, 64, 3), classes=5, width_multiplier=WIDTH)
        out = model(pixels(2, 64, 64, 3), training=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(out.dtype) == ("bfloat16" if policy == "bfloat16" else "float32")
    assert model.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
    assert np.isfinite(np.asarray(out, np.float32)).all()


@kinds
def test_symmetric_padding_and_same_agree_on_odd_sizes_only(name, builder):
    models = [
        builder(include_top=False, weights=None, pooling="avg", input_shape=(None, None, 3), width_multiplier=WIDTH, padding=p)
        for p in ("same", "symmetric")
    ]
    randomise(models[0])
    models[1].set_weights(models[0].get_weights())
    odd, even = pixels(1, 97, 65, 3), pixels(1, 64, 64, 3)
    same, symmetric = (np.asarray(m(odd)) for m in models)
    np.testing.assert_allclose(same, symmetric, atol=1e-5 * same.max())
    same, symmetric = (np.asarray(m(even)) for m in models)
    assert np.abs(same - symmetric).max() > 1e-2 * same.max()
    assert describe(models[1]).padding == "symmetric"


def test_equal_shapes_start_from_different_values():
    model = build(FAMILY["small"])
    first, second = (model.get_layer(f"block4{letter}_expand_conv").get_weights()[0] for letter in "bc")
    assert first.shape == second.shape
    assert np.abs(first - second).max() > 0.1
    deviation = model.get_layer("head_conv").get_weights()[0].std()
    assert deviation == pytest.approx(np.sqrt(2 / 1280), rel=0.02)


def test_layer_names_are_stable():
    names = {layer.name for layer in build(FAMILY["a1"]).layers}
    assert {
        "image", "imagenet_normalization", "stem_conv", "stem_bn", "stem_relu", "block1a_depthwise_conv", "block3b_expand_conv",
        "block3b_se_squeeze", "block3b_se_reduce", "block3b_se_expand", "block3b_se_gate", "block3b_se_excite",
        "block3b_project_conv", "block3b_project_bn", "block3b_add", "head_conv", "avg_pool", "top_dropout", "predictions",
    } <= names  # fmt: skip


def test_preprocessing_inside_equals_preprocess_input_outside():
    inside = keras_mnasnet.MnasNetA1(weights=None, input_shape=(64, 64, 3), width_multiplier=WIDTH, classes=4)
    outside = keras_mnasnet.MnasNetA1(
        weights=None, input_shape=(64, 64, 3), width_multiplier=WIDTH, classes=4, include_preprocessing=False
    )
    outside.set_weights(inside.get_weights())
    x = pixels(2, 64, 64, 3)
    kept = x.copy()
    np.testing.assert_allclose(np.asarray(inside(x)), np.asarray(outside(keras_mnasnet.preprocess_input(x))), atol=1e-5)
    np.testing.assert_array_equal(x, kept)


def test_preprocess_input_scales():
    black = keras_mnasnet.preprocess_input(np.zeros((1, 2, 2, 3), np.uint8))
    np.testing.assert_allclose(black[0, 0, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6)
    x = pixels(1, 4, 4, 3)
    tensor = keras_mnasnet.preprocess_input(keras.ops.convert_to_tensor(x))
    np.testing.assert_allclose(np.asarray(tensor), keras_mnasnet.preprocess_input(x), atol=1e-5)
    first = keras_mnasnet.preprocess_input(x.transpose(0, 3, 1, 2), data_format="channels_first")
    np.testing.assert_allclose(first.transpose(0, 2, 3, 1), keras_mnasnet.preprocess_input(x), atol=1e-5)
    for bad in (np.zeros((1, 4, 4, 1)), np.zeros(3), [1, 2, 3]):
        with pytest.raises(ValueError, match="3 channels"):
            keras_mnasnet.preprocess_input(bad)
    with pytest.raises(ValueError, match="`data_format` must be"):
        keras_mnasnet.preprocess_input(x, data_format="chanels_first")


def test_builders_ignore_the_global_data_format():
    keras.config.set_image_data_format("channels_first")
    try:
        model = keras_mnasnet.MnasNetSmall(weights=None, input_shape=(64, 32, 3), include_top=False)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model.output_shape == (None, 2, 1, 1280)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (31, 64, 3)}, ">= 32"),
        ({"input_shape": (64, 64)}, r"must be \(height, width, channels\)"),
        ({"input_shape": (3, 224, 224)}, r"channels last.*Received: .*Pass input_shape=\(224, 224, 3\)"),
        ({"input_shape": (3, 224, None)}, r"channels last.*Pass input_shape=\(224, None, 3\)"),
        ({"include_top": "False"}, "`include_top` must be True or False. Received: include_top='False'"),
        (
            {"include_preprocessing": "no"},
            "`include_preprocessing` must be True or False. .*='no'",
        ),
        ({"se": "False"}, "`se` must be None, True, False or a ratio"),
        ({"first_residual": "False"}, "`first_residual`.*Received: .*'False'"),
        ({"input_shape": (224, 224, 0)}, "channels"),
        ({"input_shape": (64, 64, 4)}, "include_preprocessing=False"),
        ({"input_shape": 224}, "height, width, channels"),
        ({"classes": 0}, "`classes` must be"),
        ({"pooling": "mean", "include_top": False}, "`pooling` must be"),
        ({"padding": "valid"}, "`padding` 'same' or 'symmetric'"),
        ({"dropout_rate": 1.0}, "`dropout_rate` must be"),
        ({"dropout_rate": None}, "`dropout_rate` must be"),
        ({"bn_momentum": "x"}, "`bn_momentum` in"),
        ({"classes": "ten"}, "`classes` must be"),
        ({"classes": True}, "`classes` must be"),
        ({"bn_epsilon": 0.0}, "`bn_epsilon` must be"),
        ({"width_multiplier": -1}, "`width_multiplier` must be"),
        ({"input_tensor": np.zeros((1, 64, 64, 3))}, "must be a Keras tensor"),
        ({"input_tensor": keras.Input((64, 3))}, r"must have the shape \[B, H, W, C\]"),
        ({"input_tensor": keras.Input((64, 64, 3)), "input_shape": (96, 96, 3)}, "must agree"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_mnasnet.MnasNetSmall(weights=None, **arguments)


def test_numpy_numbers_are_numbers():
    model = keras_mnasnet.MnasNetSmall(
        weights=None, classes=np.int64(5), input_shape=np.array([64, 32, 3]), width_multiplier=np.float32(0.5)
    )
    assert model.output_shape == (None, 5)


@pytest.mark.parametrize(
    "text",
    [
        "x: stem16 r3_k3_s11_e1_i8_o16 r2_k5_s22_e6_i16_o24 head32",
        "x: stem16 r3_k3_s11_e1_i16_o16 r2_k5_s22_e6_i16_o16_noskip head32",
        "x: stem8 r1_k3_s11_e1_i16_o8 r1_k3_s11_e3_i8_o8_noskip head32",
    ],
)
def test_describe_reads_residuals_back(text):
    network = keras_mnasnet.Architecture.parse(text)
    assert describe(build(network)).architecture.same_network(network)


def test_a_users_own_normalization_is_not_ours():
    image = keras.Input((64, 64, 3))
    own = keras.layers.Normalization(mean=[1.0] * 3, variance=[1.0] * 3, name="normalization")(image)
    model = keras_mnasnet.MnasNetSmall(weights=None, input_tensor=own, include_preprocessing=False)
    assert not describe(model).include_preprocessing
    assert describe(keras_mnasnet.MnasNetSmall(weights=None, input_tensor=own)).include_preprocessing


def test_describe_refuses_other_models():
    with pytest.raises(ValueError, match="must be one of keras_mnasnet's"):
        describe(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))


def test_describe_reads_any_ratio_back():
    for ratio in (0.1, 0.25, 0.3, 1 / 3, 0.5, 1.0):
        network = FAMILY["small"].with_se(ratio)
        assert describe(build(network)).architecture.same_network(network)


def test_decode_predictions(tmp_path):
    scores = np.zeros((2, 1000), np.float32)
    scores[0, 281], scores[0, 282], scores[1, 0] = 0.7, 0.2, 1.0
    best = keras_mnasnet.decode_predictions(scores, top=2)
    assert best[0] == [("n02123045", "tabby", pytest.approx(0.7)), ("n02123159", "tiger_cat", pytest.approx(0.2))]
    assert best[1][0][:2] == ("n01440764", "tench")
    assert keras_mnasnet.decode_predictions(np.array([[0.1, 0.9]]), labels=["cat", "dog"]) == [
        [("1", "dog", 0.9), ("0", "cat", 0.1)]
    ]
    with pytest.raises(ValueError, match=r"\[B, 1000\].*Received: shape=\(1, 3\).*labels="):
        keras_mnasnet.decode_predictions(np.zeros((1, 3)))
    for top in (0, True, "3"):
        with pytest.raises(ValueError, match="`top` must be"):
            keras_mnasnet.decode_predictions(scores, top=top)
    order = keras_mnasnet.decode_predictions(np.array([[5, 255, 0]], np.uint8), labels=list("abc"))[0]
    assert [name for _, name, _ in order] == ["b", "a", "c"]
    with pytest.raises(ValueError, match="NaN"):
        keras_mnasnet.decode_predictions(np.full((1, 2), np.nan), labels=["a", "b"])
    with pytest.raises(ValueError, match=r"\[B, 1\]. Received: shape=\(1, 3\)"):  # a text is one name
        keras_mnasnet.decode_predictions(np.zeros((1, 3)), labels="cat")


def test_public_names_resolve():
    for name in keras_mnasnet.__all__:
        assert getattr(keras_mnasnet, name) is not None
    with pytest.raises(AttributeError, match="attribute MnasNetC1"):
        keras_mnasnet.MnasNetC1  # noqa: B018


@pytest.mark.parametrize("x", ["photo.jpg", 3, None, {}])
def test_preprocess_input_says_what_it_takes(x):
    with pytest.raises(ValueError, match=r"takes RGB pixels 0..255 as an array or tensor.*keras_mnasnet.predict"):
        keras_mnasnet.preprocess_input(x)
