"""The report of a study: what is on it, that it stands alone, and that a browser shows it."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import A1, B1
from keras_mnasnet.search.charts import Chart, Dots, Level, Mark, svg, ticks
from keras_mnasnet.search.latency import pixel1_ms
from keras_mnasnet.search.reporting import gather, write
from keras_mnasnet.search.rewards import Reward, pareto_front
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Failure, Measurement, StudyMeta, Trial
from keras_mnasnet.utils.system import machine

REWARD = Reward("soft", 75.0)
SIZE, CLASSES = 224, 10


def network(rng):
    blocks = list(A1.blocks)
    for place in range(1, 6):
        blocks[place] = dataclasses.replace(
            blocks[place], kernel=int(rng.choice([3, 5])), expand=int(rng.choice([3, 6])), repeats=int(rng.integers(1, 4))
        )
    return Architecture("found", 32, tuple(blocks))


def make_study(path, *, trials=60, device="pixel1", networks=True, entropy=True, reward=REWARD, stem_stride=2, **changes):
    """A study as a search leaves it; accuracy grows with what a network costs, and with luck."""
    rng = np.random.default_rng(0)
    options = {
        "space": "mbconv", "fingerprint": "0" * 16, "algorithm": "ppo" if entropy else "thompson", "reward": reward.to_json(),
        "seed": 0, "device": device, "data": "shapes", "recipe": {"name": "proxy-5-epochs", "epochs": 5},
        "evaluation": {"resolution": SIZE, "classes": CLASSES}, "environment": machine(),
    }  # fmt: skip
    with Study.create(path, StudyMeta(**options | changes)) as study:
        for number in range(trials):
            found = (A1 if number == 7 else network(rng)).with_stem_stride(stem_stride)
            latency = pixel1_ms(found, SIZE, classes=CLASSES)
            accuracy = float(0.5 + 0.002 * latency + 0.0006 * number + rng.normal(0, 0.01))
            failure = Failure("nan", "the loss of step 3 is NaN <b>") if number % 20 == 19 else None
            measurement = Measurement(
                accuracy, latency, device, found.params(classes=CLASSES), found.madds(SIZE, SIZE, classes=CLASSES),
                {"training_steps": 30.0, "build": 2.0}, failure, trial=number, worker="worker 0", started=1e9 + 40 * number,
                finished=1e9 + 40 * number + 33,
            )  # fmt: skip
            text = str(found) if networks else None
            with study.transaction() as writer:
                writer.add(Trial(number, (number,), {"choice": number}, f"{number:016x}", "pending", architecture=text))
                writer.started(number, "worker 0", 1e9)
                writer.measured(measurement)
                score = None if failure else reward(accuracy, latency)
                writer.finished(measurement, latency, score)
                writer.told([number], {"entropy": 20 * 0.97**number, "baseline": 0.6} if entropy else None)
        with study.transaction() as writer:
            writer.add(Trial(trials, (trials,), {"choice": trials}, f"{trials:016x}", "pending"))
    return path


@pytest.fixture
def study(tmp_path):
    with Study.open(make_study(tmp_path / "mine.study"), read_only=True) as opened:
        yield opened


def test_front():
    assert pareto_front([(0.5, 10), (0.6, 20), (0.55, 25), (0.6, 20), (0.4, 5), (0.4, 10)]) == [4, 0, 1]
    assert pareto_front([]) == []


def test_ticks():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(69.3, 71.1, 4) == [69.5, 70, 70.5, 71]
    assert ticks(3, 3) == [3]
    assert ticks(0, 0.0003, 3) == [0, 0.0001, 0.0002, 0.0003]


def test_a_chart_keeps_what_is_outside_in_sight():
    layers = [Mark(99, None, "far", "known"), Level(500, "nowhere", "target"), Dots([(5, 1)], "other", texts=["<dot>"])]
    drawn = svg(Chart("one & two", "x", "y", [0, 10], [1, 1], layers))
    assert "far \N{RIGHTWARDS ARROW}" in drawn
    assert "nowhere" not in drawn
    assert "&lt;dot&gt;" in drawn
    assert 'aria-label="one &amp; two"' in drawn


def test_what_is_gathered(study):
    report = gather(study, top=3)
    assert (len(report.done), len(report.failed), report.waiting) == (57, 3, 1)
    rewards = [trial.reward for trial in report.done]
    assert [best.trial.reward for best in report.best] == sorted(rewards, reverse=True)[:3]
    assert report.running_best()[-1] == max(rewards)
    front = [report.done[index] for index in report.front]
    for trial in report.done:
        assert any(one.accuracy >= trial.accuracy and one.latency_ms <= trial.latency_ms for one in front)
    assert list(report.facts) == ["entropy", "baseline"]
    assert report.facts["entropy"][0] == (1, 20.0)
    assert report.hours == pytest.approx((58 * 40 + 33) / 3600)  # trial 59 failed
    assert report.training_hours == pytest.approx(57 * 32 / 3600)
    best = report.best[0]
    assert sum(stage.madds for stage in best.stages) == Architecture.parse(best.trial.architecture).madds(
        SIZE, SIZE, classes=10
    )
    assert [stage.size for stage in best.stages] == [112, 112, 56, 28, 14, 14, 7, 7, 7, 1]


def test_landmarks_on_the_studys_device(study):
    report = gather(study)
    found = {each.name: each for each in report.landmarks}
    assert found["B1"].latency_ms == pytest.approx(pixel1_ms(B1, SIZE, classes=CLASSES))
    assert (found["MobileNetV2"].how, found["MobileNetV2"].accuracy) == ("pixel1", None)
    assert found["A1"].accuracy == next(trial.accuracy for trial in report.done if trial.number == 7)
    assert gather(study, landmarks="none").landmarks == ()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"device": "table:/none.json"}, "The study's device did not answer: A latency table must exist"),
        ({"device": "host", "environment": {"processor": "another one"}}, "on another machine (another one)"),
        ({"device": None}, "The study states no device"),
    ],
)
def test_landmarks_by_the_model_where_the_device_is_away(tmp_path, changes, note):
    with Study.open(make_study(tmp_path / "away.study", **changes), read_only=True) as study:
        report = gather(study)
    assert note in report.landmark_note
    assert "times 1, the median over this study's networks: an estimate" in report.landmark_note
    assert {each.how for each in report.landmarks} == {"Pixel-1 model x 1"}


def test_landmarks_measured_here(tmp_path):
    with Study.open(make_study(tmp_path / "host.study", device="host"), read_only=True) as study:
        report = gather(study)
    assert [(each.name, each.how) for each in report.landmarks] == [("A1", "host"), ("B1", "host"), ("MobileNetV2", "host")]
    assert all(0 < each.latency_ms < 1000 for each in report.landmarks)


def test_landmarks_have_the_spaces_width_and_stem(tmp_path):
    options = {"space_options": {"width": 0.5, "stem_stride": 1}}
    path = make_study(tmp_path / "narrow.study", stem_stride=1, **options)
    with Study.open(path, read_only=True) as study:
        found = gather(study).landmarks
    expected = pixel1_ms(B1.scaled(0.5).with_stem_stride(1), SIZE, classes=CLASSES)
    assert (found[1].name, found[1].how) == ("B1 x 0.5", "pixel1")
    assert found[1].latency_ms == pytest.approx(expected)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.calls, self.counts = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.calls += re.findall(r"MnasNet\(.*\)", data)


def test_page_stands_alone_and_its_lines_run(study, tmp_path):
    from keras_mnasnet import MnasNet

    written = write(gather(study, top=2), tmp_path / "out", pictures=False).files
    text = written["html"].read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert page.counts["svg"] == 6  # front, accuracy, latency, reward, entropy, baseline
    assert "NaN &lt;b&gt;" in text
    assert "target 75 ms" in text
    report = json.loads(written["json"].read_text("utf-8"))
    assert (report["schema"], report["trials"]) == (1, {"done": 57, "failed": 3, "waiting": 1})
    assert page.calls == [best["call"] for best in (*report["best"], report["at_target"])]
    call = ast.parse(page.calls[0], mode="eval").body
    model = MnasNet(ast.literal_eval(call.args[0]), **{each.arg: ast.literal_eval(each.value) for each in call.keywords})
    assert model.output_shape == (None, CLASSES)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == report["best"][0]["params"]


def test_spaces_and_algorithms_without_networks_and_entropy(tmp_path):
    reward = Reward("exponents", 1.0, 0.0, 0.0)
    path = make_study(tmp_path / "table.study", networks=False, entropy=False, reward=reward, device=None)
    with Study.open(path, read_only=True) as study:
        report = gather(study)
    assert report.landmarks == ()
    text = write(report, tmp_path, pictures=False).files["html"].read_text("utf-8")
    assert "Controller" not in text
    assert report.at_target is None
    assert "<td>choice</td>" in text
    assert "target" not in re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL)


def test_what_is_on_or_off_is_told_in_words(tmp_path):
    with Study.open(make_study(tmp_path / "s", trials=10, entropy=False)) as study:
        with study.transaction() as writer:
            writer._connection.execute("UPDATE trials SET facts = '{\"models_cost\":0.0}' WHERE number >= 4")
            writer._connection.execute("UPDATE trials SET facts = '{\"models_cost\":1.0}' WHERE number >= 7")
        report = gather(study)
    assert (report.facts, report.switches) == ({}, {"models_cost": (3, 6)})
    written = write(report, tmp_path, pictures=False).files["html"].read_text("utf-8")
    assert "<td>models cost</td><td>after 3 of 6 results</td>" in written


def test_the_best_within_the_target_is_named(tmp_path, study):
    report = gather(study, top=1)
    within = [trial for trial in report.done if trial.latency_ms <= 75]
    best = max(within, key=lambda trial: trial.accuracy)
    assert report.at_target.trial == best
    written = write(report, tmp_path / "out", pictures=False).files
    text = written["html"].read_text("utf-8")
    assert json.loads(written["json"].read_text("utf-8"))["at_target"]["number"] == best.number
    assert f"of the most accurate within 75 ms (trial {best.number})" in text
    shown = best.number == report.best[0].trial.number
    assert ("The most accurate within the target: trial" in text) != shown
    fast = Reward("soft", 0.9 * min(trial.latency_ms for trial in report.done))
    with Study.open(make_study(tmp_path / "fast.study", reward=fast), read_only=True) as other:
        report = gather(other)
    assert report.at_target is None
    assert "of the networks is within" in write(report, tmp_path / "fast", pictures=False).files["html"].read_text("utf-8")


def test_nothing_finished_is_no_report(tmp_path):
    with (
        Study.open(make_study(tmp_path / "empty.study", trials=0), read_only=True) as study,
        pytest.raises(ValueError, match="needs a finished trial. Received: .*empty.study with 1 trials, 0 failed"),
    ):
        gather(study)
    with (
        Study.open(make_study(tmp_path / "full.study", trials=1), read_only=True) as study,
        pytest.raises(ValueError, match="`top` must be an integer of 1 or more. Received: top=0"),
    ):
        gather(study, top=0)


def test_one_trial_is_a_report(tmp_path):
    with Study.open(make_study(tmp_path / "one.study", trials=1), read_only=True) as study:
        assert Page(write(gather(study), tmp_path, pictures=False).files["html"].read_text("utf-8")).open == []


def test_pictures(study, tmp_path):
    pytest.importorskip("matplotlib")
    written = write(gather(study), tmp_path / "out", pictures=True).files
    for name in ("pareto", "history", "algorithm"):
        content = written[name].read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20], "big") == 1200


def test_pictures_without_matplotlib(study, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r'pip install "keras_mnasnet\[report\]"'):
        write(gather(study), tmp_path / "out", pictures=True)
    assert not (tmp_path / "out").exists()


def mnasnet(*arguments):
    command = [sys.executable, "-m", "keras_mnasnet.cli.main", "search", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(tmp_path):
    path = make_study(tmp_path / "mine.study", trials=25)
    done = mnasnet("report", "--study", path, "--no-pictures", "--json", "--top", 2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["files"] == {name: str(tmp_path / "mine-report" / f"report.{name}") for name in ("html", "json")}
    assert len(found["best"]) == 2
    shown = mnasnet("report", "--study", path, "--no-pictures", "--landmarks", "none", "--output", tmp_path / "else")
    assert shown.returncode == 0, shown.stderr
    assert f"{found['best'][0]['number']}  " in shown.stdout
    assert found["best"][0]["call"] in shown.stdout
    assert (tmp_path / "else" / "report.html").is_file()
    for arguments, message in (
        (["--study", tmp_path / "none"], "A study file must exist"),
        (["--study", path, "--top", 0], "`top` must be an integer of 1 or more"),
    ):
        done = mnasnet("report", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_landmarks_trained_as_the_trials(study, monkeypatch):
    asked = []

    def evaluate(request):
        asked.append(Architecture.parse(request.architecture).name)
        return Measurement(0.5 + len(asked) / 100)

    monkeypatch.setattr("keras_mnasnet.search.reporting.evaluator_of", lambda meta, device: evaluate)
    report = gather(study, landmarks="train")
    assert asked == ["b1", "mobilenet-v2"], "A1 is one of the study's trials"
    assert [each.accuracy for each in report.landmarks][1:] == [0.51, 0.52]
    monkeypatch.setattr(
        "keras_mnasnet.search.reporting.evaluator_of",
        lambda meta, device: lambda request: Measurement(failure=Failure("nan", "NaN")),
    )
    with pytest.raises(ValueError, match="A landmark must train as the study's trials do. Received: B1: .*NaN"):
        gather(study, landmarks="train")
    with pytest.raises(ValueError, match="`landmarks` must be latency, train or none. Received: landmarks='all'"):
        gather(study, landmarks="all")


def browser():
    """The path of a Chromium-like browser: KERAS_MNASNET_BROWSER, else one of the usual names."""
    named = os.environ.get("KERAS_MNASNET_BROWSER")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
    found = named or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("no browser: install chromium, or name one in KERAS_MNASNET_BROWSER")
    return found


def shown(page, folder, *options):
    """What a headless browser says (standard error) and makes of a page (its DOM)."""
    command = [
        browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_the_page(study, tmp_path):
    page = write(gather(study), tmp_path / "out", pictures=False).files["html"]
    dom, console = shown(page, tmp_path, "--dump-dom")
    assert console == []
    assert 'data-ready="yes"' in dom, "the page's script ran to its end"
    assert dom.count("<circle") == page.read_text("utf-8").count("<circle")
    assert "The best networks" in dom
    broken = tmp_path / "broken.html"
    text = page.read_text("utf-8")
    broken.write_text(text.replace('document.documentElement.dataset.ready = "yes";', "nothing.here();"), "utf-8")
    dom, console = shown(broken, tmp_path, "--dump-dom")
    assert "nothing is not defined" in console[0], "a script error would be seen"
    assert 'data-ready="yes"' not in dom.split("<script>")[0]
