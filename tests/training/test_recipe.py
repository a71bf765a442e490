"""Recipes: values that are checked where they enter."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from nni_cream import spaces
from nni_cream.data import list_datasets
from nni_cream.errors import ConfigError
from nni_cream.training import RECIPES, Recipe, module_of


def test_every_data_set_with_a_space_of_its_own_has_a_recipe() -> None:
    assert set(RECIPES) == set(list_datasets()) & set(spaces.list_spaces())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe


def test_module_gets_every_setting_of_the_recipe() -> None:
    recipe = Recipe(
        epochs=3,
        batch_size=5,
        learning_rate=0.3,
        momentum=0.7,
        weight_decay=0.2,
        label_smoothing=0.05,
        nesterov=False,
        warmup_fraction=0.4,
        augment="shift",
    )
    settings = {name: value for name, value in asdict(recipe).items() if name not in ("epochs", "batch_size")}
    module = module_of(recipe, num_classes=4)
    assert {name: getattr(module, name) for name in settings} == settings
    assert module.num_classes == 4


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("epochs", 0, ["epochs", "is 0;", "at least 1"]),
        ("epochs", 2.5, ["epochs", "2.5"]),
        ("batch_size", True, ["batch_size", "True"]),
        ("learning_rate", -1.0, ["learning_rate", "above 0"]),
        ("augment", "flip", ["augment", "'flip'"]),
    ],
)
def test_setting_out_of_range_is_told_with_its_value(setting: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe(**{setting: value})
    for word in words:
        assert word in str(caught.value)
