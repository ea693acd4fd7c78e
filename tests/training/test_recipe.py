"""Recipes as values: text, JSON, named ones, refusals."""

import dataclasses
import json
import subprocess
import sys

import pytest

from keras_mnasnet.training import (
    RECIPES,
    SOURCES,
    parse_recipe,
    parse_values,
    recipe_from_json,
    recipe_of,
    recipe_to_json,
)


@pytest.mark.parametrize("name", RECIPES)
def test_text_and_json_are_inverses(name):
    recipe = RECIPES[name]
    assert parse_recipe(str(recipe)) == recipe
    assert str(recipe) == name
    changed = recipe.changed(**{"epochs": 7, "learning_rate": 0.5, "augment.flip": False, "size": 96})
    assert changed != recipe
    assert parse_recipe(str(changed)) == changed
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(changed)))) == changed
    own = dataclasses.replace(changed, name="mine")
    assert parse_recipe(str(own)) == own
    assert SOURCES[name]


def test_a_value_back_at_the_class_default_is_kept():
    recipe = RECIPES["cifar10"].changed(ema=0, clip_norm=0.0)
    assert parse_recipe(str(recipe)).ema == 0
    assert parse_recipe(str(recipe)) == recipe


def test_paper_recipe_is_the_papers():
    """arXiv 1807.11626v3, section 5, and tensorflow/tpu mnasnet_main.py for the last line."""
    recipe = RECIPES["paper-imagenet"]
    assert (recipe.optimizer, recipe.rho, recipe.momentum) == ("rmsprop-tf1", 0.9, 0.9)
    assert (recipe.batch_size, recipe.peak_learning_rate, recipe.warmup_epochs) == (4096, 0.256, 5)
    assert (recipe.decay_rate, recipe.decay_epochs) == (0.97, 2.4)
    assert (recipe.weight_decay, recipe.dropout, recipe.bn_momentum) == (1e-5, 0.2, 0.99)
    assert (recipe.epochs, recipe.epsilon, recipe.label_smoothing, recipe.ema) == (350, 1e-3, 0.1, 0.9999)
    assert recipe.augment.crop == "inception"


def test_batch_and_rate_scale_together():
    assert RECIPES["paper-imagenet"].changed(batch_size=256).peak_learning_rate == pytest.approx(0.016)


def test_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**recipe_to_json(RECIPES["finetune"]), "name": "mine", "epochs": 3}), "utf-8")
    assert parse_recipe(str(path)).epochs == 3
    path.write_text(json.dumps({**recipe_to_json(RECIPES["finetune"]), "epoch": 3}), "utf-8")
    with pytest.raises(ValueError, match=r"mine\.json.*unknown key 'epoch'.*Did you mean 'epochs'"):
        parse_recipe(str(path))
    path.write_text(json.dumps({"schema": 9}), "utf-8")
    with pytest.raises(ValueError, match="schema 1. Received: schema=9"):
        parse_recipe(str(path))
    path.write_text(json.dumps({"schema": 1, "name": "mine", "epochs": 3}), "utf-8")
    with pytest.raises(ValueError, match="A recipe needs batch_size, optimizer"):
        parse_recipe(str(path))
    path.write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"mine\.json"):
        parse_recipe(str(path))
    with pytest.raises(ValueError, match="must exist"):
        parse_recipe(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetun", "Did you mean 'finetune'"),
        ("", "A recipe is one of"),
        ("finetune epoch=3", "unknown key 'epoch'. Did you mean 'epochs'"),
        ("finetune augment.flp=true", "unknown key 'augment.flp'. Did you mean 'augment.flip'"),
        ("finetune epochs", "written key=value. Received: 'epochs'"),
        ("finetune epochs=many", "`epochs` must be of type int"),
        ("finetune epochs=0", "`epochs` must be between 1"),
        ("finetune epochs=2.5", "`epochs` must be of type int"),
        ("finetune epochs=true", "`epochs` must be of type int"),
        ("finetune learning_rate=NaN", "`learning_rate` must be"),
        ("finetune optimizer=adamm", "`optimizer` must be one of"),
        ("finetune schedule=steps", "`schedule` must be one of"),
        ("finetune frozen_epochs=11", "`frozen_epochs` must be between 0 and `epochs`"),
        ("finetune frozen_learning_rate=0", "needs a `frozen_learning_rate`"),
        ("finetune size=8", "`size` must be between 32"),
        ("finetune ema=1", "`ema` must be between"),
        ("mine epochs=3", "A recipe needs"),
    ],
)
def test_bad_recipes(text, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("(", r"\(")):
        parse_recipe(text)


def test_values():
    assert parse_values(["a=1", "b=0.5", "c=[0.1,1]", "d=true", "e=word", "f=null"]) == {
        "a": 1, "b": 0.5, "c": (0.1, 1), "d": True, "e": "word", "f": None,
    }  # fmt: skip


def test_recipes_load_nothing():
    code = (
        "import sys\n"
        "from keras_mnasnet.training.recipe import parse_recipe\n"
        "from keras_mnasnet.training import RECIPES, parse_values\n"
        "import keras_mnasnet.data\n"
        "assert parse_recipe('cifar10 epochs=3').changed(**parse_values(['ema=0'])).ema == 0 and RECIPES\n"
        "loaded = {'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules); assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_changes_and_named_values_are_one_change():
    """What is valid together is taken together, whichever argument says it; what is not is refused."""
    changes = {"frozen_epochs": 80, "frozen_learning_rate": 1e-3}
    assert recipe_of("finetune", changes, epochs=100).frozen_epochs == 80
    with pytest.raises(ValueError, match="Received: frozen_epochs=80, epochs=70"):
        recipe_of("finetune", changes, epochs=70)
