"""The file of a retraining: ``nni-cream retrain`` and ``nni-cream evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nni_cream.config.layout import Key, Layout, keys_of
from nni_cream.config.search_keys import trainer_keys
from nni_cream.options import FLAG, NOTHING, whole
from nni_cream.training.loader_options import Loading
from nni_cream.training.retrain_recipe import FullRecipe

__all__ = ["RETRAIN", "recipe_contradictions", "recipe_trainer_keys"]

_SECTIONS = {
    "recipe": "how the architecture is trained; optimizer, schedule, augmentation and average are timm's",
    "trainer": "the hardware, and what is handed to Lightning's Trainer",
    "loader": "how images get from the disk to the device",
}
_NAMED = {"data": "Images: a name, or a mapping with `name` and the arguments of that loader."}


def recipe_trainer_keys() -> tuple[Key, ...]:
    """Return the section for Lightning's Trainer where a recipe says how many images make a step."""
    # How many batches make one step follows from the global batch size.
    shared = [key for key in trainer_keys() if key.name != "trainer.accumulate_grad_batches"]
    return (
        *shared,
        Key("trainer.device_batch_size", None, whole(1) | NOTHING,
            "Images at once on one device; null for its whole share of the global batch."),
        Key("trainer.compile", False, FLAG, "Whether the network is compiled with `torch.compile`."),
        Key("trainer.channels_last", False, FLAG, "Whether images are laid out as GPUs like them."),
    )  # fmt: skip


def recipe_contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield what is wrong between the keys of a recipe."""
    recipe = resolved["recipe"]
    if bool(recipe["milestones"]) != (recipe["schedule"] == "multistep"):
        expected = "at least one epoch" if recipe["schedule"] == "multistep" else "none"
        yield (
            f"{prefix}recipe.milestones is {recipe['milestones']}; expected {expected}, since recipe.schedule is "
            f"{recipe['schedule']}."
        )
    if recipe["ema_warmup"] and recipe["ema_decay"] is None:
        yield f"{prefix}recipe.ema_decay is null; expected a decay such as 0.999, since recipe.ema_warmup is true."


def _contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    recipe = resolved["recipe"]
    yield from recipe_contradictions(resolved, prefix)
    if recipe["crop_scale"] is None and recipe["auto_augment"] is not None:
        yield (
            f"{prefix}recipe.auto_augment is {recipe['auto_augment']!r}; expected null, since recipe.crop_scale is "
            "null."
        )


RETRAIN = Layout(
    _NAMED,
    _SECTIONS,
    (*keys_of(FullRecipe, "recipe"), *recipe_trainer_keys(), *keys_of(Loading, "loader")),
    _contradictions,
)
