"""The spaces of networks: what is in them, that a network has one key, limits, and that all of it trains and exports."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
from search_fakes import rng, toy_space

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import A1, A2, A3, B1
from keras_mnasnet.search.latency import parse_device
from keras_mnasnet.search.networks import PRESETS, constrained, space, with_cost

PAPER, VERTEX, MBCONV, CELL, MACRO = (space(name) for name in ("paper", "vertex", "mbconv", "cell", "macro"))
FIELDS = ("expand", "kernel", "se", "filters", "repeats")


def choices(made, what):
    return [decision.choices for decision in made.decisions if decision.name.endswith("." + what)]


def member(network):
    """The candidate of `mbconv` that is a published network."""
    values = {f"block{stage}.{field}": getattr(network.blocks[stage - 1], field) for stage in range(2, 7) for field in FIELDS}
    return MBCONV.candidate(values)


def candidate_of(made, **changes):
    """Everything at its first choice but what is named, as block3_skip="pool"."""
    values = {decision.name: decision.choices[0] for decision in made.decisions}
    return made.candidate(values | {name.replace("_", "."): value for name, value in changes.items()})


def graph(network):
    """What is built, whatever its name and the wording of its blocks."""
    return network.stem, network.stem_stride, network.units()


def test_sizes():
    per_block = [np.prod(PAPER.counts[6 * block : 6 * block + 6]) for block in range(5)]
    assert per_block == [432] * 5
    assert PAPER.size == 432**5 == 15_045_919_506_432
    assert VERTEX.size == 144**2 * 216**5 == 9_749_755_840_167_936
    assert MBCONV.size == 72**3 * 96**2
    assert CELL.size == len(CELL.members) == 432
    assert MACRO.size == 6_561
    assert len(MACRO.members) == 3_969


def test_choices_of_the_paper():
    assert choices(PAPER, "op") == [("conv", "dconv", "mbconv3", "mbconv6")] * 5
    assert choices(PAPER, "kernel") == [(3, 5)] * 5
    assert choices(PAPER, "se") == [(0.0, 0.25)] * 5
    assert choices(PAPER, "skip") == [("none", "identity", "pool")] * 5
    assert choices(PAPER, "repeats") == [(1, 2, 3), (2, 3, 4), (3, 4, 5), (2, 3, 4), (2, 3, 4)]
    assert choices(PAPER, "filters") == [(18, 24, 30), (24, 32, 40), (48, 64, 80), (72, 96, 120), (120, 160, 200)]


def test_choices_of_vertex():
    assert choices(VERTEX, "op") == [("conv", "mbconv")] * 7
    assert choices(VERTEX, "expand") == [(1, 3, 6)] * 7
    assert choices(VERTEX, "repeats") == [(1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (2, 3, 4), (2, 3, 4), (1, 2)]
    assert choices(VERTEX, "filters")[::6] == [(12, 16, 20), (240, 320, 400)]
    other = space("vertex", reference="mnasnet_a1")
    assert choices(other, "repeats")[4] == (1, 2, 3)
    assert choices(other, "filters")[4] == (84, 112, 140)
    own = {f"block{n}.{field}": getattr(block, field) for n, block in enumerate(A1.blocks, 1) for field in FIELDS}
    found = other.build(other.candidate(own | {f"block{n}.op": "mbconv" for n in range(1, 8)}))
    assert found.same_network(A1)


@pytest.mark.parametrize("network", [A1, B1, A2, A3], ids=lambda network: network.name)
def test_mbconv_contains_the_published_networks(network):
    found = MBCONV.build(member(network))
    assert found.same_network(network)
    assert (found.params(), found.madds(), found.stem, found.head) == (network.params(), network.madds(), 32, 1280)
    # the last stage has no residual, because its channels change: Google's text for A1 leaves that unsaid, B1's says it
    last = dataclasses.replace(network.blocks[-1], skip=False)
    assert found.blocks == (*network.blocks[:-1], last)
    assert MBCONV.canonical(member(network)) == member(network)


def test_b1_is_there_to_the_letter():
    found = MBCONV.build(member(B1))
    assert dataclasses.replace(found, name="b1", provenance="published") == B1
    assert str(found).partition(": ")[2] == str(B1).partition(": ")[2]


def test_a_candidate_by_hand():
    found = PAPER.build(
        candidate_of(
            PAPER, block2_op="dconv", block2_filters=24, block3_skip="pool", block4_op="mbconv3", block4_se=0.25,
            block4_skip="identity", block5_op="mbconv6", block5_kernel=5, block5_repeats=4,
        )
    )  # fmt: skip
    assert str(found).partition(": ")[2] == (
        "stem32 r1_k3_s11_e1_i32_o16_noskip r1_k3_s22_e1_i16_o24_noskip r2_k3_s22_e1_i24_o24_pool_conv "
        "r3_k3_s22_e3_i24_o48_se0.25 r4_k5_s11_e6_i48_o72_noskip r2_k3_s22_e1_i72_o120_noskip_conv "
        "r1_k3_s11_e6_i120_o320_noskip head1280"
    )
    assert Architecture.parse(str(found)) == found


def test_a_cell_is_the_same_in_five_blocks():
    found = CELL.build(CELL.candidate({"cell.op": "mbconv3", "cell.kernel": 5, "cell.se": 0.25, "cell.skip": "identity",
                                       "cell.filters": 1.25, "cell.repeats": -1}))  # fmt: skip
    assert [str(block) for block in found.blocks[1:6]] == [
        "r1_k5_s22_e3_i16_o30_se0.25", "r2_k5_s22_e3_i30_o40_se0.25", "r3_k5_s22_e3_i40_o80_se0.25",
        "r2_k5_s11_e3_i80_o120_se0.25", "r2_k5_s22_e3_i120_o200_se0.25",
    ]  # fmt: skip
    assert (found.blocks[0], found.blocks[6].filters) == (B1.blocks[0], 320)


def test_macro_by_hand():
    found = MACRO.build((0, 1, 2, 0, 1, 1, 0, 0))
    assert found.name == "macro-01210100", "what does nothing comes last in its stage; the first layer is never nothing"
    assert (found.stem, found.stem_stride) == (32, 1)
    assert [str(block) for block in found.blocks] == [
        "r1_k1_s22_e1_i32_o64_noskip_linear", "r1_k3_s11_e3_i64_o64", "r1_k5_s22_e6_i64_o128", "r1_k3_s11_e3_i128_o128",
        "r1_k3_s22_e3_i128_o256",
    ]  # fmt: skip


def around(made, base, stage):
    """Every combination of what decides a stage's skip and operation, and the stage's input."""
    names = [decision.name for decision in made.decisions]
    open_ = [f"block{stage}.{what}" for what in ("op", "expand", "skip", "filters", "repeats")] + [f"block{stage - 1}.filters"]
    places = [names.index(name) for name in open_ if name in names]
    for chosen in itertools.product(*(range(made.counts[place]) for place in places)):
        candidate = list(base)
        for place, choice in zip(places, chosen, strict=True):
            candidate[place] = choice
        yield tuple(candidate)


def check_keys(made, candidates):
    """Equal keys <=> equal graphs <=> equal texts of the canonical forms; how many there are."""
    by_key, by_graph, by_text = {}, {}, {}
    for candidate in candidates:
        key, canonical, built = made.key(candidate), made.canonical(candidate), made.build(candidate)
        same = made.build(canonical)
        assert graph(same) == graph(built)
        assert same.name == built.name
        assert made.canonical(canonical) == canonical
        assert by_key.setdefault(key, (graph(built), str(same))) == (graph(built), str(same)), "one key, one network"
        assert by_graph.setdefault(graph(built), key) == key, "one network, one key"
        assert by_text.setdefault(" ".join(map(str, same.blocks)), key) == key
    return len(by_key)


@pytest.mark.parametrize(
    ("made", "stages"),
    [(PAPER, range(2, 7)), (space("paper", width=0.35), range(2, 7)), (space("paper", width=0.1, stem_stride=1), range(2, 7)),
     (VERTEX, (1, 4)), (space("vertex", width=0.5), (1, 7))],
    ids=["paper", "paper 0.35", "paper 0.1", "vertex", "vertex 0.5"],
)  # fmt: skip
def test_no_two_keys_for_one_network(made, stages):
    random = rng(0)
    for stage in stages:
        base = tuple(map(int, random.integers(made.counts)))
        assert check_keys(made, around(made, base, stage)) > 1
    check_keys(made, (made.sample(random) for _ in range(200)))


@pytest.mark.parametrize("width", [None, 0.35, 0.08])
def test_no_two_keys_for_one_network_of_one_cell(width):
    made = space("cell", width=width)
    assert check_keys(made, itertools.product(*map(range, made.counts))) == made.size


def test_no_two_keys_for_one_network_of_macro():
    assert check_keys(MACRO, itertools.product(range(3), repeat=8)) == 3_969


def test_dead_skips():
    names = [decision.name for decision in PAPER.decisions]
    skip = names.index("block2.skip")
    once, twice = candidate_of(PAPER, block2_skip="pool"), candidate_of(PAPER, block2_skip="pool", block2_repeats=2)
    assert PAPER.decisions[skip].choices[PAPER.canonical(once)[skip]] == "none", "16 channels do not become 18 by pooling"
    assert PAPER.canonical(twice) == twice
    narrow = space("paper", width=0.35)  # 8 channels in and out: pooling strides, the identity cannot
    pooled, kept = (candidate_of(narrow, block2_skip=each) for each in ("pool", "identity"))
    assert narrow.canonical(pooled) == pooled
    assert narrow.canonical(kept) == candidate_of(narrow, block2_skip="none")
    found = {PAPER.key(candidate_of(PAPER, block2_skip=each)) for each in ("none", "identity", "pool")}
    assert len(found) == 1


def test_width_and_stem():
    half = space("mbconv", width=0.5, stem_stride=1)
    assert half.options == {"width": 0.5, "stem_stride": 1}
    assert choices(half, "filters")[4] == (64, 80, 96, 104)
    found = half.build(half.candidate({f"block{n}.{field}": value for n in range(2, 7) for field, value in (
        ("expand", A1.blocks[n - 1].expand), ("kernel", A1.blocks[n - 1].kernel), ("se", A1.blocks[n - 1].se),
        ("filters", A1.scaled(0.5).blocks[n - 1].filters), ("repeats", A1.blocks[n - 1].repeats))}))  # fmt: skip
    assert found.same_network(A1.scaled(0.5).with_stem_stride(1))
    assert half.fingerprint() != MBCONV.fingerprint()
    assert len({space(name).fingerprint() for name in PRESETS}) == 6


def test_limits_are_those_of_the_networks():
    found = constrained(CELL, max_params=4_000_000, max_madds=120_000_000, resolution=96, classes=10)
    expected = []
    for candidate in CELL.members:
        network = CELL.build(candidate)
        if network.params(classes=10) <= 4_000_000 and network.madds(96, 96, classes=10) <= 120_000_000:
            expected.append(candidate)
    assert 0 < len(expected) < 432
    assert list(found.members) == expected
    assert found.sample(rng(0)) in expected
    assert found.options == {"max_params": 4_000_000, "max_madds": 120_000_000, "resolution": 96, "classes": 10}
    assert found.fingerprint() != CELL.fingerprint()
    assert constrained(CELL) is CELL
    again = pickle.loads(pickle.dumps(found))
    assert (again.members, again.fingerprint()) == (found.members, found.fingerprint())


def test_a_limit_on_latency():
    model = parse_device("pixel1")
    known = with_cost(MBCONV, model, resolution=224, classes=1000)
    assert known.cost(member(A1)) == model.latency_ms(A1, 224, 1000).latency_ms
    found = constrained(known, max_latency_ms=75.0)
    random = rng(0)
    drawn = [MBCONV.sample(random) for _ in range(60)]
    assert {found.is_allowed(candidate) for candidate in drawn} == {True, False}
    for candidate in drawn:
        assert found.is_allowed(candidate) == (model.latency_ms(MBCONV.build(candidate), 224, 1000).latency_ms <= 75)
    assert found.cost(found.sample(random)) <= 75


def test_limits_are_kept_by_other_limits():
    limits = {"max_params": 3_500_000, "max_madds": 250_000_000}
    slim, quick = (constrained(CELL, **{name: limit}) for name, limit in limits.items())
    both = constrained(slim, max_madds=limits["max_madds"])
    assert set(both.members) == set(slim.members) & set(quick.members) == set(constrained(CELL, **limits).members)
    assert 0 < len(both.members) < min(len(slim.members), len(quick.members))


def test_limits_that_cannot_be():
    with pytest.raises(ValueError, match="`max_params` must be above 0. Received: max_params=0"):
        constrained(CELL, max_params=0)
    with pytest.raises(ValueError, match="needs a space whose cost is known.*max_latency_ms=75 for 'cell' without a cost"):
        constrained(CELL, max_latency_ms=75)
    with pytest.raises(ValueError, match="constraint of 'cell' must let some candidates in. Received: none of 432"):
        constrained(CELL, max_params=1000).sample(rng(0))
    with pytest.raises(ValueError, match="must be one of networks. Received: 'toy', which builds none"):
        constrained(toy_space(), max_params=1000)
    with pytest.raises(ValueError, match="must be one of networks. Received: 'toy'"):
        with_cost(toy_space(), parse_device("madds"), resolution=32, classes=10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("papers", {}, "The search spaces are paper, vertex, mbconv, cell, macro, accel-nasbench. Received: space='papers'"),
        ("paper", {"depth": 1}, r"The options of the space 'paper' are \['width', 'stem_stride'\]. Received: \['depth'\]"),
        ("macro", {"width": 0.5}, r"The options of the space 'macro' are \[\]. Received: \['width'\]"),
        ("cell", {"width": 0}, r"`width` must be a number above 0 \(at most 10\) or None. Received: width=0"),
        ("cell", {"width": "1"}, "`width` must be a number above 0 .* Received: width='1'"),
        ("cell", {"width": True}, "Received: width=True"),
        ("mbconv", {"stem_stride": 3}, "`stem_stride` must be 1 or 2. Received: stem_stride=3"),
        ("vertex", {"reference": "b1"}, r"must be one of \('mobilenet_v2', 'mnasnet_a1'\). Received: reference='b1'"),
    ],
)
def test_unknown_presets_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        space(name, **options)


def test_every_operation_and_skip_trains_and_exports():
    import keras
    from ai_edge_litert.interpreter import Interpreter
    from models import shaken

    from keras_mnasnet import checkpoint_of
    from keras_mnasnet.export.graph import folded_weights, write_graph
    from keras_mnasnet.model import build

    made = space("paper", width=0.1, stem_stride=1)
    network = made.build(
        candidate_of(
            made, block2_op="conv", block2_skip="pool", block2_se=0.25, block3_op="dconv", block3_kernel=5, block3_skip="pool",
            block3_se=0.25, block4_op="conv", block4_kernel=5, block4_skip="identity", block5_op="mbconv3", block5_skip="pool",
            block6_op="dconv", block6_skip="none",
        )
    )  # fmt: skip
    units = network.units()
    assert {(unit.stride, unit.op) for unit in units if unit.pooled} >= {(2, "conv"), (1, "mbconv"), (2, "mbconv")}
    assert {(unit.kernel, unit.op) for unit in units} >= {(3, "conv"), (5, "conv"), (3, "mbconv"), (5, "mbconv")}
    assert {unit.op for unit in units if unit.se_filters} == {"conv", "mbconv"}
    assert any(unit.residual and unit.op == "conv" for unit in units)
    keras.utils.set_random_seed(0)
    model = build(network, input_shape=(32, 32, 3), classes=10)
    model.compile("sgd", "sparse_categorical_crossentropy")
    kernels = [v for v in model.trainable_variables if v.path.endswith("kernel") and "_se_" not in v.path]
    before = [kernel.numpy() for kernel in kernels]
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    assert np.isfinite(model.train_on_batch(images, np.arange(8)))
    still = [kernel.path for kernel, old in zip(kernels, before, strict=True) if np.array_equal(kernel.numpy(), old)]
    assert (still, len(kernels)) == ([], sum(layer.bn is not None for layer in network.layers()) + 1), "each has learnt"

    checkpoint = checkpoint_of(shaken(model))
    weights = folded_weights(checkpoint.architecture, checkpoint.tensors, classes=10, bn_epsilon=1e-3)
    content = write_graph(network, weights, height=32, width=32, classes=10)
    found = Interpreter(model_content=content, num_threads=1).get_signature_runner()(image=images[:1])["scores"]
    np.testing.assert_allclose(found, model(images[:1], training=False).numpy(), rtol=1e-4, atol=1e-6)
    assert found.max() < 0.999, "scores that are not saturated"
