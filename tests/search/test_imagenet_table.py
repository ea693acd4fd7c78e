"""A search whose accuracies are predicted from ImageNet trainings: the table, the regressor, and a study of it."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from keras_mnasnet.search import pixel1_ms, report, retrain, run, status
from keras_mnasnet.search.imagenet_table import (
    HeldOut,
    ImageNetTable,
    Pixel1ByStage,
    Regressor,
    TableEvaluator,
    features,
    kendall_tau,
    located_table,
)
from keras_mnasnet.search.networks import accel_nasbench
from keras_mnasnet.search.trials import Trial

SPACE = accel_nasbench()
COLUMNS = [*(f"block{stage}" for stage in range(7)), "val_top1"]
SMALL = {"target_ms": 60, "trials": 12, "algorithm": "evolution", "progress": False}


def rows(count=300, seed=0):
    """Trainings whose accuracy is a sum over stages and one product, in points."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        values = SPACE.values(SPACE.sample(rng))
        codes = [
            "".join(str(values[f"block{n}.{what}"]) for what in ("expand", "kernel", "repeats"))
            + str(int(values[f"block{n}.se"] > 0))
            for n in range(1, 8)
        ]
        top1 = 50 + sum(0.4 * int(code[0]) + 0.8 * int(code[2]) + int(code[3]) for code in codes)
        found.append([*codes, top1 + 0.1 * int(codes[4][0]) * int(codes[5][2]) + 0.1 * rng.standard_normal()])
    return found


def written(path, table, columns=COLUMNS):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        csv.writer(file).writerows([columns, *table])
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return written(tmp_path_factory.mktemp("table") / "trainings.csv.gz", rows())


def test_the_space_is_the_table_s():
    assert SPACE.size == 36**6 * 48
    network = SPACE.build(SPACE.candidate({
        **{f"block{n}.expand": 6 for n in range(1, 8)}, **{f"block{n}.kernel": 5 for n in range(1, 8)},
        **{f"block{n}.repeats": 2 for n in range(1, 8)}, **{f"block{n}.se": 0.25 for n in range(1, 8)},
    }))  # fmt: skip
    assert "stem32 r2_k5_s11_e6_i32_o16_se0.25 r2_k5_s22_e6_i16_o24_se0.25" in str(network)
    assert [block.filters for block in network.blocks] == [16, 24, 40, 80, 112, 192, 320]


def test_a_table_predicts_networks_it_was_not_fitted_on(table):
    found = ImageNetTable.read(table)
    assert found.candidates.shape == (300, 28)
    error = found.held_out()
    assert error.r2 > 0.95
    assert error.kendall_tau > 0.85
    assert 0.1 < error.rmse_points < 0.6
    new = rows(50, seed=1)
    candidates = ImageNetTable.read(written(table.with_name("new.csv"), new)).candidates
    off = found.fitted().predict(features(candidates)) - [row[-1] for row in new]
    assert abs(off).mean() < 0.6, "networks of other draws, in points"


def test_the_held_out_predictions_are_those_of_fits_without_the_fold(table):
    found = ImageNetTable.read(table)
    x, folds = features(found.candidates), found.folds()
    held = Regressor.held_out(x, found.top1, folds)
    part = folds == 3
    made, kernels, square = Regressor._prepared(x, found.top1, 0)
    weights = np.linalg.solve(square + kernels[~part].T @ kernels[~part], kernels[~part].T @ (found.top1[~part] - made.mean))
    np.testing.assert_allclose(held[part], made.mean + kernels[part] @ weights, atol=1e-6)


def test_pixel1_is_a_sum_over_stages():
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(5)]
    expected = [pixel1_ms(SPACE.build(candidate)) for candidate in drawn]
    assert [Pixel1ByStage()(candidate) for candidate in drawn] == pytest.approx(expected)
    assert Pixel1ByStage().of(drawn) == pytest.approx(expected)


def test_errors_by_hand():
    assert kendall_tau(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(4 / 6)
    assert kendall_tau(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(2 / (2 * 3) ** 0.5)
    assert kendall_tau(np.ones(3), np.arange(3.0)) == 0
    found = HeldOut.of(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]))
    assert (found.r2, found.kendall_tau, found.mean_points) == (0.5, 1, 0.3333)


def test_a_search_goes_on_exactly_and_says_that_nothing_was_trained(table, tmp_path):
    data = f"accel-nasbench:{table}"
    whole = list(run(data, study=tmp_path / "whole.study", **SMALL))
    assert len(whole) == 12
    broken = tmp_path / "broken.study"
    list(run(data, study=broken, **{**SMALL, "trials": 5}))
    parts = list(run(study=broken, trials=12, progress=False))
    assert len(parts) == 7
    assert [each.trial.values for each in parts] == [each.trial.values for each in whole[5:]]
    assert parts[-1].best.reward == whole[-1].best.reward
    meta = status(broken).meta
    assert (meta.space, meta.device, meta.recipe) == ("accel-nasbench", "pixel1", None)
    assert meta.evaluation["table"]["trainings"] == 300
    assert meta.evaluation["table"]["held_out"]["r2"] > 0.95
    found = report(broken, tmp_path / "page", pictures=False)
    page = Path(found.files["report.html"] if "report.html" in found.files else next(iter(found.files.values()))).read_text()
    assert "none was trained" in page
    with pytest.raises(ValueError, match="Training needs photos. Received: accel-nasbench:.* Name photos with --data"):
        retrain(broken, tmp_path / "best")


def test_a_study_refuses_another_table_or_noise(table, tmp_path):
    own = tmp_path / "own.csv"
    own.write_bytes(gzip.decompress(table.read_bytes()))
    study = tmp_path / "mine.study"
    list(run(f"accel-nasbench:{own}", study=study, **SMALL))
    with pytest.raises(ValueError, match="goes on with the settings of its start. Received: evaluation=.*noise_points"):
        run(f"accel-nasbench:{own}", study=study, table_noise=0, progress=False)
    written(own, rows(seed=2))
    with pytest.raises(ValueError, match="goes on with the table of its start. Received: .*own.csv with SHA-256"):
        list(run(study=study, trials=14, progress=False))


def test_noise_is_of_a_network_and_a_seed(table):
    def accuracy(noise, seed=0):
        sha256 = ImageNetTable.read(table).sha256
        evaluate = TableEvaluator(
            data=located_table(f"accel-nasbench:{table}"), sha256=sha256, resolution=224, noise=noise, seed=seed
        )
        candidate = SPACE.sample(np.random.default_rng(0))
        return evaluate(Trial(0, values=SPACE.values(candidate), architecture=str(SPACE.build(candidate)))).accuracy

    plain = accuracy(0)
    assert accuracy(0.15) == accuracy(0.15) != accuracy(0.15, seed=1)
    assert 0 < abs(accuracy(0.15) - plain) < 0.008


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "cifar10"}, "Nothing is trained .* Received: recipe="),
        ({"size": 96}, "at 224 pixels. Received: size=96"),
        ({"space": "mbconv"}, "predict networks of the space accel-nasbench. Received: space 'mbconv'"),
        ({"table_noise": -1}, "`table_noise` must be 0 to 100 percentage points. Received: table_noise=-1"),
    ],
)
def test_what_belongs_to_trainings_is_refused(table, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(f"accel-nasbench:{table}", study=tmp_path / "mine.study", **SMALL, **options)
    assert not (tmp_path / "mine.study").exists()


def test_noise_belongs_to_a_table(tmp_path):
    with pytest.raises(ValueError, match="`table_noise` belongs to predicted accuracies. Received: table_noise=0.1"):
        run("shapes", study=tmp_path / "mine.study", table_noise=0.1, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [[*t[0][:6], "6521", "nan"], *t[1:]], "row 1: ValueError: val_top1=nan"),
        (lambda t: [["7520", *t[0][1:]], *t[1:]], "row 1: ValueError: `block1.expand` must be one of"),
        (lambda t: [*t[:4], ["65", *t[4][1:]]], "row 5: ValueError"),
        (lambda t: [["6529", *t[0][1:]]], "row 1: IndexError"),
        (lambda t: [t[0][:7]], "row 1: TypeError"),
        (lambda t: t[:19], "19 different networks, of which 20 are needed"),
        (lambda t: [], "0 different networks"),
    ],
)
def test_wrong_tables(tmp_path, change, message):
    path = written(tmp_path / "wrong.csv", change(rows(25)))
    with pytest.raises(ValueError, match=f"must be a CSV file, gzipped or not, .* Received: .*wrong.csv: .*{message}"):
        ImageNetTable.read(path)


def test_damaged_tables(table, tmp_path):
    path = tmp_path / "wrong.csv.gz"
    for content in (
        table.read_bytes()[:-20],
        b"\x1f\x8bxx",
        "é,".encode(),
        written(tmp_path / "x.csv", rows(25), ["a"] * 8).read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a CSV file, gzipped or not"):
            ImageNetTable.read(path)
    with pytest.raises(OSError, match="missing"):
        run(f"accel-nasbench:{tmp_path / 'missing.csv'}", study=tmp_path / "mine.study", **SMALL)


def test_parameters_are_those_of_the_published_trainings():
    folder = os.environ.get("KERAS_MNASNET_DATA")
    path = Path(folder or ".", "accel-nasbench/accel-nasbench.csv.gz")
    if not folder or not path.is_file():
        pytest.skip("needs accel-nasbench in KERAS_MNASNET_DATA")
    found = ImageNetTable.read(path)
    assert len(found.top1) == 5138
    with gzip.open(path, "rt") as file:
        for candidate, row in zip(found.candidates[:40], csv.DictReader(file), strict=False):
            assert SPACE.build(tuple(candidate.tolist())).params() / 1e6 == pytest.approx(float(row["params_m"]), abs=6e-6)
