"""The file of a retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nni_cream.config import RETRAIN
from nni_cream.errors import ConfigError
from nni_cream.training.retrain_recipe import split_batch_size

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("retrain_*.yml"))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"warmup_fraction": 1}, "recipe.warmup_fraction is 1; expected a number of at least 0 and below 1"),
        ({"crop_scale": [0.5, 1.5]}, "recipe.crop_scale is [0.5, 1.5]; expected [low, high] with 0 < low <= high <= 1"),
        ({"crop_scale": [None, 1]}, "recipe.crop_scale is [None, 1]"),
        (
            {"crop_scale": None, "auto_augment": "rand-m9"},
            "recipe.auto_augment is 'rand-m9'; expected null, since recipe.crop_scale is null",
        ),
        ({"ema_warmup": True}, "recipe.ema_decay is null"),
        ({"erasing": 2}, "recipe.erasing is 2; expected a number of at least 0 and at most 1"),
        ({"optimizer_arguments": [1]}, "recipe.optimizer_arguments is [1]; expected a mapping of names"),
        ({"global_batch_size": 4}, "recipe.global_batch_size is no longer a key; expected recipe.batch_size."),
        ({"warmup_epochs": 3}, "expected recipe.warmup_fraction: warmup_epochs / epochs, such as 0.1"),
    ],
)
def test_mistake_is_told_with_key_value_and_what_was_expected(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RETRAIN.resolve({"data": "digits", "recipe": recipe})
    assert message in str(caught.value)


def test_key_of_another_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"accumulate_grad_batches is no key of this file"):
        RETRAIN.resolve({"data": "digits", "trainer": {"accumulate_grad_batches": 2}})
    with pytest.raises(ConfigError, match="space is no key of this file"):
        RETRAIN.resolve({"data": "digits", "space": "digits"})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_that_ships_is_valid_and_says_how_it_is_run(file: Path) -> None:
    resolved = RETRAIN.load(file)
    assert f"experiments/{file.name} --out" in file.read_text()
    trainer = resolved["trainer"]
    at_once, accumulation = split_batch_size(
        resolved["recipe"]["batch_size"], trainer["devices"], trainer["device_batch_size"]
    )
    if file.stem.startswith("retrain_cream"):
        assert (at_once, accumulation, trainer["devices"]) == (128, 1, 8)


@pytest.mark.parametrize("file", [file for file in FILES if "cream" in file.stem], ids=lambda file: file.stem)
def test_file_of_a_published_network_has_the_settings_of_the_paper(file: Path) -> None:
    paper = {
        "epochs": 500, "optimizer": "rmsproptf", "learning_rate": 0.064, "momentum": 0.9, "weight_decay": 1e-5,
        "optimizer_arguments": {"eps": 1e-3}, "warmup_fraction": 0.006, "warmup_learning_rate": 1e-6, "dropout": 0.2,
        "ema_decay": 0.9999, "ema_warmup": False, "auto_augment": "rand-m9-mstd0.5", "erasing": 0.2,
        "erasing_mode": "pixel", "label_smoothing": 0.1, "batch_size": 1024, "mixup": 0.0, "cutmix": 0.0,
        "min_learning_rate": 0.0, "start": "scratch", "teacher": None,
    }  # fmt: skip
    recipe = RETRAIN.load(file)["recipe"]
    assert {name: recipe[name] for name in paper} == paper
    # The paper says cosine; its published file for the smallest network says otherwise.
    assert recipe["schedule"] == ("step" if file.stem.endswith("_14") else "cosine")


def test_files_of_all_published_networks_ship() -> None:
    names = [f"retrain_cream_{size}" for size in (114, 14, 287, 43, 481, 604)]
    assert [file.stem for file in FILES] == [*names, "retrain_digits", "retrain_fashion"]
