import dataclasses
import subprocess
import sys

import pytest

from keras_mnasnet.architecture import Architecture, Block, round_filters
from keras_mnasnet.family import A1, A1_ROWS, A2, A3, B1, D1, D1_320, FAMILY, PUBLISHED, SMALL, as_architecture


@pytest.mark.parametrize(
    ("network", "params", "with_statistics", "madds"),
    [
        (A1, 3_887_038, 3_920_526, 311.58),
        (B1, 4_383_312, 4_421_232, 314.42),
        (SMALL, 2_030_264, 2_047_192, 68.34),
        (D1, 3_638_404, 3_686_428, 967.71),
        (D1_320, 6_932_240, 7_014_432, 1807.73),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_totals_of_published_networks(network, params, with_statistics, madds):
    assert network.params() == params
    assert network.params() + network.moving_statistics() == with_statistics
    assert round(network.madds() / 1e6, 2) == madds


def test_totals_at_320_pixels():
    assert round(D1.madds(320, 320) / 1e6, 2) == 1973.58
    assert round(D1_320.madds(320, 320) / 1e6, 2) == 3687.92


@pytest.mark.parametrize(("width", "size", "params_m", "madds_m"), [row[:4] for row in A1_ROWS])
def test_published_a1_rows(width, size, params_m, madds_m):
    network = A1.scaled(width)
    assert round(network.params() / 1e6, 1) == params_m
    assert network.madds(size, size) / 1e6 == pytest.approx(madds_m, rel=0.028)


@pytest.mark.parametrize(("width", "madds"), [(0.5, 104.46), (0.75, 215.49), (1.3, 526.36), (1.4, 588.80)])
def test_b1_widths(width, madds):
    assert round(B1.scaled(width).madds() / 1e6, 2) == madds


@pytest.mark.parametrize("network", [A2, A3], ids=lambda network: network.name)
def test_reconstructions_print_the_published_totals(network):
    printed = PUBLISHED[network.name]
    assert (round(network.params() / 1e6, 1), round(network.madds() / 1e6)) == (printed.params_m, printed.madds_m)
    assert network.provenance == "reconstructed"
    assert all(ours.se >= a1.se for ours, a1 in zip(network.blocks, A1.blocks, strict=True))


@pytest.mark.parametrize("network", FAMILY.values(), ids=lambda network: network.name)
@pytest.mark.parametrize("width", [None, 0.35, 0.75, 1.4])
def test_text_form_round_trip(network, width):
    network = network.scaled(width, 1.3).with_se(0.3)
    assert Architecture.parse(str(network)) == network
    for block in network.blocks:
        assert Block.parse(str(block)) == block


@pytest.mark.parametrize("ratio", [1 / 3, 1e-5, 0.1, 1, 1.0])
def test_any_ratio_survives_the_text_form(ratio):
    network = A1.with_se(ratio)
    assert Architecture.parse(str(network)) == network
    assert Architecture.parse(str(network)).units() == network.units()


def test_values_are_checked_and_hashable():
    network = Architecture("x", 16, [Block(1, 3, 1, 1, 16, 8)], 32)
    assert hash(network) == hash(Architecture.parse(str(network)))
    for changes in ({"stem": 8.5}, {"stem": True}, {"head": "q"}):
        with pytest.raises(ValueError, match="must be an integer >= 1"):
            dataclasses.replace(network, **changes)
    with pytest.raises(ValueError, match="repeats=True"):
        Block(True, 3, 1, 1, 16, 8)


def test_a_stated_difference_stays_a_difference_after_rounding():
    network = Architecture.parse("x: stem16 r1_k3_s11_e1_i32_o24 head32")
    assert not network.units()[0].residual
    assert not network.scaled(0.5).units()[0].residual


def test_googles_text_of_the_small_network():
    google = str(SMALL).replace("i8_o8_nofirstskip", "i16_o8")
    assert google != str(SMALL)
    assert Architecture.parse(google) == SMALL
    for width, residual in ((0.35, True), (0.5, True), (0.75, False), (1.4, False)):  # i16 and o8 round to the same at 0.5
        assert SMALL.scaled(width).units()[0].residual == residual


def test_first_residual_of_a_longer_stage():
    network = Architecture.parse("x: stem16 r3_k3_s11_e1_i16_o16 head32")
    without = network.with_first_residual(False)
    assert [unit.residual for unit in without.units()] == [False, True, True]
    assert without.params() == network.params()
    assert without.blocks[0] == dataclasses.replace(network.blocks[0], first_skip=False)
    assert Architecture.parse(str(without)) == without
    expanding = Architecture.parse("x: stem16 r3_k3_s11_e6_i16_o16_se0.25 head32").with_first_residual(False)
    assert [unit.residual for unit in expanding.units()] == [False, True, True]
    pooling = Architecture.parse("x: stem16 r2_k3_s22_e6_i16_o16_pool_nofirstskip head32")
    assert [unit.pooled for unit in pooling.units()] == [False, True]


def test_google_block_strings_print_back_unchanged():
    for text in (
        "r1_k3_s11_e1_i32_o16_noskip", "r3_k5_s22_e3_i24_o40_se0.25", "r4_k7_s22_e9_i24_o36", "r2_k3_s11_e1_i8_o8_nofirstskip",
    ):  # fmt: skip
        assert str(Block.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r2_k3_s22_e6_i16_o24_x3", "unknown token 'x3'"),
        ("r2_k3_s22_e6_i16_o24_swish", "unknown token 'swish'"),
        ("r2_k3.5_s22_e6_i16_o24", "unknown token 'k3.5'"),
        ("r2_k3_s22_e6_i16", r"without \['o'\]"),
        ("r2_r2_k3_s22_e6_i16_o24", "'r' twice"),
        ("r2_k3_s21_e6_i16_o24", "s11 or s22"),
        ("r0_k3_s11_e6_i16_o24", "repeats=0"),
        ("r1_k4_s11_e6_i16_o24", "must be odd"),
        ("r1_k3_s11_e6_i16_o24_se1.5", "between 0 and 1"),
        ("r2_k3_s11_e6_i16_o16_noskip_nofirstskip", "no first skip to leave out"),
        ("r2_k3_s11_e6_i16_o16_noskip_pool", "pooling is a skip"),
        ("", "unknown token ''"),
    ],
)
def test_bad_blocks_are_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        Block.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stem<channels> was expected"),
        ("x: stem32 r1_k3_s11_e1_i32_o16", "head<channels> was expected"),
        ("x: stem32 head1280", "at least one block"),
        ("x: stem32 r1_k3_s11_e6_i16_o16 head1280", "must take the 32 channels"),
        ("x: stem32 r1_k3_s11_e1_i32_o16 r1_k3_s11_e6_i24_o24 head1280", "must take the 16 channels"),
        ("x: stem0 r1_k3_s11_e1_i32_o16 head1280", "stem=0"),
        ("x: stem32 r1_k3_s11_e1_i32_o16 head0", "head=0"),
        ("x[guessed]: stem32 r1_k3_s11_e1_i32_o16 head1280", "provenance='guessed'"),
    ],
)
def test_bad_architectures_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Architecture.parse(text)


def test_rounding_rule():
    assert [round_filters(16, m) for m in (0.35, 0.5, 0.75, 1.0, 1.4)] == [8, 8, 16, 16, 24]
    assert round_filters(36, None) == 36
    assert round_filters(36, 1.0) == 40
    assert [block.filters for block in A1.scaled(1.4).blocks] == [24, 32, 56, 112, 160, 224, 448]
    assert [block.filters for block in B1.scaled(1.3).blocks] == [24, 32, 56, 104, 128, 248, 416]


def test_d1_keeps_36_channels_without_a_multiplier():
    assert D1.scaled(None).blocks[1].filters == 36
    assert D1.scaled(1.0).blocks[1].filters == 40
    assert D1.scaled(1.0).name == "d1-1"
    assert A1.scaled(1.0) is A1


def test_head_is_never_scaled():
    assert A1.scaled(0.35).head == A1.scaled(1.4).head == 1280


def test_depth_scales_inner_stages_and_rounds_up():
    assert [block.repeats for block in A1.scaled(None, 1.2).blocks] == [1, 3, 4, 5, 3, 4, 1]


def test_residuals_are_decided_after_rounding():
    residual = [index for index, unit in enumerate(A1.units()) if unit.residual]
    assert residual == [2, 4, 5, 7, 8, 9, 11, 13, 14]
    assert [i for i, unit in enumerate(B1.units()) if unit.residual] == [2, 3, 5, 6, 8, 9, 11, 13, 14, 15]
    assert B1.scaled(0.35).units()[10].residual
    assert [i for i, unit in enumerate(SMALL.units()) if unit.residual] == [3, 5, 6, 7, 8, 9, 10, 12, 13]


def test_small_first_residual_can_be_chosen():
    timm = SMALL.with_first_residual(True)
    assert timm.units()[0].residual
    assert not timm.same_network(SMALL)
    assert timm.with_first_residual(False).same_network(SMALL)
    assert timm.params() == SMALL.params()
    with pytest.raises(ValueError, match="first_residual=True"):
        A1.with_first_residual(True)


def test_squeeze_and_excite_can_be_switched():
    assert [unit.se_filters for unit in A1.units() if unit.se_filters] == [6, 10, 10, 20, 28, 28, 40, 40]
    assert [unit.se_filters for unit in SMALL.units() if unit.se_filters] == [4, 8, 8, 8, 8, 8, 8, 8, 22, 22]
    assert not any(unit.se_filters for unit in A1.with_se(False).units())
    assert all(unit.se_filters for unit in B1.with_se(True).units() if unit.stage > 1)
    assert A1.with_se(None) is A1
    assert A1.with_se(0.5).units()[-1].se_filters == 80
    for bad in (0, 1.5, "yes", -0.1):
        with pytest.raises(ValueError, match="`se` must be"):
            A1.with_se(bad)


@pytest.mark.parametrize("bad", [0, -1, "x", float("nan"), float("inf")])
def test_bad_multipliers(bad):
    with pytest.raises(ValueError, match="width_multiplier"):
        A1.scaled(bad)
    with pytest.raises(ValueError, match="depth_multiplier"):
        A1.scaled(None, bad)


def test_layer_table_adds_up():
    rows = A1.layers(225, 193, classes=10)
    assert sum(row.params for row in rows) == A1.params(classes=10)
    assert sum(row.madds for row in rows) == A1.madds(225, 193, classes=10)
    assert (rows[0].height, rows[0].width) == (113, 97)
    assert rows[0].name == "stem_conv"
    assert rows[-1].name == "predictions"
    assert A1.layers(classes=0)[-1].name == "head_conv"


def test_stages_of_more_than_26_layers_have_names():
    block = dataclasses.replace(A1.blocks[1], repeats=28)
    units = Architecture("deep", 32, (A1.blocks[0], block)).units()
    assert [unit.name for unit in units[26:]] == ["block2z", "block2aa", "block2ab"]


def test_networks_by_name():
    assert as_architecture("MnasNet-A1") is as_architecture("a1") is as_architecture(A1) is A1
    assert as_architecture("MnasNetD1_320") is D1_320
    assert as_architecture(str(B1)) == B1
    with pytest.raises(ValueError, match=r"Received: 'smal'. Did you mean 'small'\?"):
        as_architecture("smal")
    with pytest.raises(ValueError, match="of type int"):
        as_architecture(3)


def test_only_the_standard_library_and_the_loader_of_names_are_loaded():
    code = (
        "import sys; before = set(sys.modules); import keras_mnasnet.family; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names - {'keras_mnasnet', 'lazy_loader'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
