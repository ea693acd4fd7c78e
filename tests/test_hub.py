"""push_to_hub and from_hub against a local Hub: files, card, labels, pinning, and what goes wrong."""

import json
import os
import subprocess
import sys
import urllib.request

import keras
import numpy as np
import pytest
from huggingface_hub import ModelCard
from local_server import FakeHub, closed_port

from keras_mnasnet import CheckpointError, DownloadError, load
from keras_mnasnet.applications import MnasNet
from keras_mnasnet.hub import from_hub, push_to_hub

REPO = "me/tiny"
LABELS = ["rose, red", "\u00e9glantine", "a b"]


def tiny(**arguments):
    return MnasNet("small", weights=None, width_multiplier=0.35, input_shape=(32, 32, 3), classes=3, **arguments)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = tiny(bn_epsilon=1e-5, padding="symmetric", dropout_rate=0.1, name="flowers")
    model.set_weights([np.random.default_rng(1).uniform(0.1, 0.5, value.shape) for value in model.get_weights()])
    return model


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        hub.adopt(monkeypatch, tmp_path, token=hub.token)
        yield hub


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def same(model, other, images):
    outputs = [keras.ops.convert_to_numpy(each(images, training=False)) for each in (model, other)]
    np.testing.assert_array_equal(*outputs)


def commit_of(url):
    return url.rpartition("/")[2]


def changed_config(hub, url, **changes):
    """Commit a config.json with these keys changed; None takes the key out."""
    config = json.loads(hub.repos[REPO].commits[commit_of(url)]["config.json"]) | changes
    config = {key: value for key, value in config.items() if key not in changes or value is not None}
    return hub.commit(REPO, {"config.json": json.dumps(config).encode()})


class TestRoundTrip:
    def test_the_same_function_comes_back_at_the_commit_and_at_main(self, hub, model, images):
        url = push_to_hub(model, REPO)
        assert url == f"{hub.address}/{REPO}/commit/{hub.repos[REPO].branches['main']}"
        for revision in (commit_of(url), "main", None):
            loaded = from_hub(REPO, revision=revision)
            same(model, loaded, images)
        assert loaded.name == "flowers"
        assert loaded.get_layer("stem_bn").epsilon == 1e-5
        assert loaded.get_layer("top_dropout").rate == 0.1

    def test_every_argument_is_in_the_config(self, hub, model):
        url = push_to_hub(model, REPO)
        files = hub.repos[REPO].commits[commit_of(url)]
        assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
        config = json.loads(files["config.json"])
        assert config["schema"] == 1
        assert config["architecture"].startswith("small-0.35[published]: stem8 ")
        expected = {
            "input_shape": [32, 32, 3], "classes": 3, "classifier_activation": "softmax", "include_preprocessing": True,
            "include_top": True, "pooling": None, "dropout_rate": 0.1, "bn_epsilon": 1e-5, "bn_momentum": 0.99,
            "padding": "symmetric", "labels": None,
        }  # fmt: skip
        assert expected.items() <= config.items()
        assert config["preprocessing"]["input_range"] == [0, 255]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"include_top": False, "pooling": "avg"},
            {"include_top": False},
            {"classifier_activation": None, "include_preprocessing": False, "dropout_rate": 0.0},
        ],
    )
    def test_other_heads(self, hub, images, arguments):
        model = tiny(**arguments)
        loaded = from_hub(REPO, revision=commit_of(push_to_hub(model, REPO)))
        same(model, loaded, images)
        assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]

    def test_free_sizes(self, hub):
        model = MnasNet("small", weights=None, width_multiplier=0.35, input_shape=(None, None, 3), classes=3)
        push_to_hub(model, REPO)
        assert from_hub(REPO).input_shape == (None, None, None, 3)

    def test_both_files_come_from_one_commit(self, hub, model, images, monkeypatch):
        first = push_to_hub(model, REPO)
        answer = hub.answer

        def push_in_between(handler):
            answer(handler)
            if handler.command == "GET" and handler.path.endswith("config.json"):
                hub.commit(REPO, {"model.safetensors": b"another model's"})

        monkeypatch.setattr(hub, "answer", push_in_between)
        same(model, from_hub(REPO), images)
        assert hub.repos[REPO].branches["main"] != commit_of(first)
        asked = {request.path for request in hub.requests if "model.safetensors" in request.path}
        assert asked == {f"/{REPO}/resolve/{commit_of(first)}/model.safetensors"}

    def test_an_older_commit_stays_what_it_was(self, hub, model, images):
        first = push_to_hub(model, REPO)
        other = tiny()
        second = push_to_hub(other, REPO)
        same(model, from_hub(REPO, revision=commit_of(first)), images)
        same(other, from_hub(REPO, revision=commit_of(second)), images)

    def test_pushing_again_is_a_new_commit_of_the_same_model(self, hub, model, images):
        urls = [push_to_hub(model, REPO) for _ in range(2)]
        first, second = (hub.repos[REPO].commits[commit_of(url)] for url in urls)
        assert first["config.json"] == second["config.json"]
        assert first["README.md"] == second["README.md"]
        same(model, from_hub(REPO), images)

    def test_offline_from_the_cache(self, hub, model, images, monkeypatch):
        push_to_hub(model, REPO)
        from_hub(REPO)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        before = len(hub.requests)
        same(model, from_hub(REPO), images)
        assert len(hub.requests) == before

    def test_a_pull_request_leaves_main_alone(self, hub, model, images):
        main = commit_of(push_to_hub(tiny(), REPO))
        offered = commit_of(push_to_hub(model, REPO, create_pr=True))
        assert hub.repos[REPO].branches == {"main": main, "refs/pr/1": offered}
        for revision in (offered, "refs/pr/1"):
            same(model, from_hub(REPO, revision=revision), images)

    def test_builder_takes_the_address(self, hub, model, images):
        commit = commit_of(push_to_hub(model, REPO))
        address = f"hf://{REPO}@{commit}/model.safetensors"
        built = MnasNet("small", width_multiplier=0.35, input_shape=(32, 32, 3), classes=3, weights=address)
        same(model, built, images)

    def test_in_a_process_of_its_own(self, tmp_path):
        program = (
            "import numpy as np\n"
            "from keras_mnasnet import MnasNet, from_hub, push_to_hub\n"
            "model = MnasNet('small', weights=None, width_multiplier=0.35, input_shape=(32, 32, 3), classes=3)\n"
            "url = push_to_hub(model, 'me/child', labels=['a', 'b', 'c'])\n"
            "x = np.ones((1, 32, 32, 3))\n"
            "loaded = from_hub('me/child', revision=url.rpartition('/')[2])\n"
            "np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(loaded(x)))\n"
            "print(url)\n"
        )
        with FakeHub() as hub:
            child = subprocess.run(
                [sys.executable, "-c", program],
                env=hub.environment(tmp_path, hub.token),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert child.returncode == 0, child.stderr
            url = child.stdout.split()[-1]
            assert url == f"{hub.address}/me/child/commit/{hub.repos['me/child'].branches['main']}"


class TestCard:
    @pytest.fixture
    def card(self, hub, model, tmp_path):
        push_to_hub(model, REPO, labels=LABELS, metrics={"top1": 0.94, "top5": 1}, dataset="Oxford Flowers 102")
        with urllib.request.urlopen(f"{hub.address}/{REPO}/resolve/main/README.md") as answer:
            path = tmp_path / "README.md"
            path.write_bytes(answer.read())
        return ModelCard.load(path)

    def test_metadata(self, card):
        data = card.data
        assert (data.library_name, data.license, data.pipeline_tag) == ("keras", "apache-2.0", "image-classification")
        assert {"mnasnet", "arxiv:1807.11626"} <= set(data.tags)
        assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
            ("top1", 0.94),
            ("top5", 1),
        ]
        assert {result.dataset_name for result in data.eval_results} == {"Oxford Flowers 102"}

    def test_text(self, card, model):
        trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        for text in (
            f"Parameters (trainable): {trainable:,}",
            "Multiply-adds at 32 x 32: ",
            "the authors' own",
            "small-0.35[published]: stem8 ",
            "pixels 0 to 255",
            f'from_hub("{REPO}", revision="<commit>")',
            "epsilon 1e-05",
            "padding `symmetric`",
            "| top1 | 0.94 |",
            "On Oxford Flowers 102, as reported",
            "arxiv.org/abs/1807.11626",
            "labels.txt",
        ):
            assert text in card.text, text

    def test_figures_are_never_invented(self, hub):
        url = push_to_hub(tiny(include_top=False), REPO, license="mit")
        card = ModelCard(hub.repos[REPO].commits[commit_of(url)]["README.md"].decode())
        assert card.data.pipeline_tag == "image-feature-extraction"
        assert card.data.license == "mit"
        assert card.data.eval_results is None
        assert "No figures were given." in card.text


def labels_of(repo):
    return load(f"hf://{repo}").labels


class TestLabels:
    def test_come_back_in_order(self, hub, model):
        push_to_hub(model, REPO, labels=LABELS)
        assert labels_of(REPO) == tuple(LABELS)

    def test_none_were_pushed(self, hub, model):
        push_to_hub(model, REPO)
        assert labels_of(REPO) is None

    def test_those_of_an_earlier_push_are_removed(self, hub, model):
        first = push_to_hub(model, REPO, labels=LABELS)
        second = push_to_hub(model, REPO)
        assert labels_of(REPO) is None
        assert "labels.txt" not in hub.repos[REPO].commits[commit_of(second)]
        assert labels_of(f"{REPO}@{commit_of(first)}") == tuple(LABELS)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"labels": ["a", "b"]}, r"one name for each of the model's 3 classes\. Received: 2 labels"),
            ({"labels": ["a", "b", "c\nd"]}, r"a text of one line\. Received: 'c\\nd'"),
            ({"labels": ["a", "b", 3]}, r"a text of one line\. Received: 3"),
            ({"metrics": [0.9], "dataset": "d"}, r"a dict of numbers\. Received: metrics=\[0.9\]"),
            ({"metrics": {"top1": "94 %"}, "dataset": "d"}, r"a dict of numbers\. Received: 'top1': '94 %'"),
            ({"metrics": {"top1": True}, "dataset": "d"}, r"a dict of numbers\. Received: 'top1': True"),
            ({"metrics": {"top1": float("nan")}, "dataset": "d"}, r"Received: 'top1': nan"),
            ({"metrics": {"top1": 0.9}}, r"`dataset` must name what .* Received: dataset=None"),
            ({"create_pr": True, "revision": "dev"}, r"Received: create_pr=True with revision='dev'"),
            ({"license": ""}, r"`license` must be a text .* Received: license=''"),
            ({"commit_message": None}, r"Received: commit_message=None"),
        ],
    )
    def test_are_checked_before_anything_is_sent(self, hub, model, arguments, message):
        with pytest.raises(ValueError, match=message):
            push_to_hub(model, REPO, **arguments)
        assert not hub.requests

    @pytest.mark.parametrize("repo_id", ["tiny", "hf://me/tiny", "me/tiny@main", "me/a b", "", 3])
    def test_wrong_repo_id(self, hub, model, repo_id):
        with pytest.raises(ValueError, match=r"`repo_id` must be 'owner/name'.*Received: repo_id="):
            push_to_hub(model, repo_id)
        with pytest.raises(ValueError, match=r"`repo_id` must be 'owner/name'.*Received: repo_id="):
            from_hub(repo_id)
        assert not hub.requests

    def test_models_that_would_come_back_as_another(self, hub):
        base = tiny(include_top=False, pooling="avg")
        with pytest.raises(ValueError, match=r"no others.* Received: other or missing layers \['flowers'\].*model\.save"):
            push_to_hub(keras.Model(base.input, keras.layers.Dense(5, name="flowers")(base.output)), REPO)
        grey = MnasNet(
            "small",
            weights=None,
            width_multiplier=0.35,
            input_shape=(32, 32, 1),
            include_preprocessing=False,
            classes=3,
        )
        with pytest.raises(ValueError, match=r"3 channels.* Received: input_shape=\(32, 32, 1\)"):
            push_to_hub(grey, REPO)
        with pytest.raises(ValueError, match="must be one of keras_mnasnet's"):
            push_to_hub(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), REPO)
        assert not hub.requests


class TestRefusals:
    def test_without_a_token(self, hub, model, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(DownloadError, match=r"me/tiny must accept .* Received: 401 .*hf auth login"):
            push_to_hub(model, REPO)

    def test_with_a_wrong_token(self, hub, model):
        with pytest.raises(DownloadError, match=r"Received: 401 \(Invalid credentials.*hf auth login"):
            push_to_hub(model, REPO, token="hf_wrong")

    def test_where_one_may_not_write(self, hub, model):
        hub.refusals = [(r"POST /api/(repos|models)", 403, {"X-Error-Message": "You may not write here"})]
        with pytest.raises(DownloadError, match=r"Received: 403 \(You may not write here\)\. Use a token"):
            push_to_hub(model, REPO)

    def test_a_branch_that_is_not_there(self, hub, model):
        with pytest.raises(DownloadError, match=r"Received: 404 .* branch 'dev' exists"):
            push_to_hub(model, REPO, revision="dev")

    def test_no_hub_to_push_to(self, hub, model, monkeypatch):
        with closed_port() as address:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
            with pytest.raises(DownloadError, match=rf"reachable at {address} to push to me/tiny.* Received: ConnectError"):
                push_to_hub(model, REPO)

    def test_pushing_offline(self, hub, model, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(DownloadError, match=r"Received: OfflineModeIsEnabled.*HF_HUB_OFFLINE"):
            push_to_hub(model, REPO)

    def test_a_private_repository(self, hub, model, images, monkeypatch):
        push_to_hub(model, REPO, private=True)
        assert hub.repos[REPO].private
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(DownloadError, match=r"me/tiny/resolve/main/config\.json\. Received: .*private one \(401\)"):
            from_hub(REPO)
        same(model, from_hub(REPO, token=hub.token), images)
        assert labels_of(REPO) is None

    @pytest.mark.parametrize(
        ("repo_id", "revision", "message"),
        [
            ("me/none", None, r"no such repository, or a private one \(404\)"),
            (REPO, "v2", r"no revision 'v2' \(404\)"),
            ("me/empty", None, r"no file 'config\.json' \(404\)"),
        ],
    )
    def test_nothing_there(self, hub, model, repo_id, revision, message):
        push_to_hub(model, REPO)
        hub.commit("me/empty", {"README.md": b"# nothing"})
        with pytest.raises(DownloadError, match=message):
            from_hub(repo_id, revision=revision)


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"schema": 2},
                r"must have schema 1\. Received: schema=2, written by keras_mnasnet .*Update keras_mnasnet",
            ),
            ({"library": "timm"}, r"push_to_hub wrote\. Received: library='timm'.*hf://owner/name@revision/file"),
            ({"padding": None, "pooling": None}, r"Received: none of padding, pooling"),
            ({"architecture": "stem8 r1_q3 head16"}, r"must describe a model\. Received: .*unknown token 'q3'"),
            ({"input_shape": [3, 32]}, r"must describe a model\. Received: `input_shape`"),
            ({"classes": 4}, r"must be what its config\.json says: .*4 classes.* Received: .*3 classes"),
            ({"bn_epsilon": 1e-3}, r"bn_epsilon=0\.001.* Received: .*bn_epsilon=1e-05"),
            ({"dropout_rate": "much"}, r"config\.json of me/tiny@\w{40} must describe a model\. Received: "),
        ],
    )
    def test_config(self, hub, model, changes, message):
        changed_config(hub, push_to_hub(model, REPO), **changes)
        with pytest.raises(CheckpointError, match=message):
            from_hub(REPO)

    def test_config_that_is_not_json(self, hub, model):
        push_to_hub(model, REPO)
        hub.commit(REPO, {"config.json": b"<html>"})
        with pytest.raises(CheckpointError, match=r"must hold a JSON object\. Received: "):
            from_hub(REPO)

    def test_weights_of_another_network(self, hub, model):
        first = push_to_hub(model, REPO)
        weights = hub.repos[REPO].commits[commit_of(first)]["model.safetensors"]
        push_to_hub(MnasNet("small", weights=None, width_multiplier=0.5, input_shape=(32, 32, 3), classes=3), REPO)
        hub.commit(REPO, {"model.safetensors": weights})
        with pytest.raises(CheckpointError, match=r"must be what its config.json says: .small-0\.5.*Received: .small-0\.35"):
            from_hub(REPO)

    def test_damaged_weights(self, hub, model):
        commit = push_to_hub(model, REPO)
        weights = hub.repos[REPO].commits[commit_of(commit)]["model.safetensors"]
        hub.commit(REPO, {"model.safetensors": weights[:5000]})
        with pytest.raises(CheckpointError, match="truncated, damaged or other file"):
            from_hub(REPO)


def test_environment_of_children_has_no_other_hub(tmp_path):
    with FakeHub() as hub:
        environment = hub.environment(tmp_path)
    assert environment["HF_ENDPOINT"].startswith("http://127.0.0.1:")
    assert "HF_TOKEN" not in environment
    assert environment["PATH"] == os.environ["PATH"]
