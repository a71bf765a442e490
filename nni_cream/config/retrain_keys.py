"""The file of a retraining: ``nni-cream retrain`` and ``nni-cream evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schema import And, Schema

from nni_cream.config.layout import Key, Layout
from nni_cream.config.search_keys import loader_keys, trainer_keys
from nni_cream.options import FLAG, NOTHING, RANGE, Rule, number, one_of, whole

__all__ = ["RETRAIN"]

_SECTIONS = {
    "recipe": "how the architecture is trained; optimizer, schedule, augmentation and average are timm's",
    "trainer": "the hardware, and what is handed to Lightning's Trainer",
    "loader": "how images get from the disk to the device",
}
_NAMED = {"data": "Images: a name, or a mapping with `name` and the arguments of that loader."}

_TEXT = Rule(Schema(And(str, len)), "a text")
_MAPPING = Rule(Schema(And(dict, lambda value: all(isinstance(key, str) for key in value))), "a mapping of names")


def _recipe_keys() -> tuple[Key, ...]:
    """Return the keys of ``FullRecipe``, with its defaults, and those of the start of a retraining."""
    share = number(0, 1)
    return (
        Key("recipe.seed", 0, whole(0), "Decides weights, order of the images and all random changes."),
        Key("recipe.start", "scratch", one_of("scratch", "supernet"),
            "From new weights, or from those of the supernet (`weights.pt` beside `best.json`, or `--weights`)."),
        Key("recipe.epochs", 30, whole(1), "Passes over the training images."),
        Key("recipe.batch_size", 64, whole(2),
            "Images of one optimizer step: devices x images at once x accumulated batches, whatever the hardware."),
        Key("recipe.optimizer", "sgd", _TEXT, "Name in timm: `rmsproptf`, `sgd` (with Nesterov), `adamw`, ..."),
        Key("recipe.learning_rate", 0.1, number(0, above=True), "Highest learning rate; nothing scales it."),
        Key("recipe.momentum", 0.9, number(0, 1, below=True), "Momentum, of an optimizer that has one."),
        Key("recipe.weight_decay", 5e-4, number(0), "Decay of weights; not of biases and BatchNorm."),
        Key("recipe.optimizer_arguments", {}, _MAPPING, "More arguments of the optimizer, such as `{eps: 0.001}`."),
        Key("recipe.schedule", "cosine", one_of("cosine", "step", "poly", "constant"),
            "How the learning rate goes, from step to step."),
        Key("recipe.min_learning_rate", 0.0, number(0), "Where `cosine` and `poly` end."),
        Key("recipe.decay_epochs", 2.4, number(0, above=True), "Epochs between two decays of `step`."),
        Key("recipe.decay_rate", 0.97, number(0, above=True), "Factor of a decay of `step`; power of `poly`."),
        Key("recipe.warmup_epochs", 0.0, number(0), "Epochs in which the learning rate rises; a part of `epochs`."),
        Key("recipe.warmup_learning_rate", 1e-6, number(0, above=True), "Where it starts to rise."),
        Key("recipe.label_smoothing", 0.0, number(0, 1, below=True), "Share of the target spread over all classes."),
        Key("recipe.augment", "none", one_of("none", "shift", "shift+flip"), "Random changes of image tensors."),
        Key("recipe.auto_augment", None, _TEXT | NOTHING,
            "RandAugment, AutoAugment, AugMix in timm's words, such as `rand-m9-mstd0.5`; images decoded on demand."),
        Key("recipe.color_jitter", 0.4, number(0), "Strength of colour changes where there is no `auto_augment`."),
        Key("recipe.crop_scale", [0.08, 1.0], RANGE, "Share of the image that a random crop keeps."),
        Key("recipe.flip", 0.5, share, "Probability of mirroring an image that is decoded on demand."),
        Key("recipe.interpolation", "random", one_of("random", "bilinear", "bicubic"), "How crops are resized."),
        Key("recipe.erasing", 0.0, share, "Probability that a rectangle of an image is erased."),
        Key("recipe.erasing_mode", "pixel", one_of("pixel", "rand", "const"), "Put noise there, one colour, or 0."),
        Key("recipe.erasing_count", 1, whole(1), "Most rectangles of an image."),
        Key("recipe.mixup", 0.0, number(0), "Alpha of Mixup; 0 for none."),
        Key("recipe.cutmix", 0.0, number(0), "Alpha of CutMix; 0 for none."),
        Key("recipe.mix_probability", 1.0, share, "Share of the batches that are mixed."),
        Key("recipe.mix_switch", 0.5, share, "Share of CutMix among them, where both are on."),
        Key("recipe.mix_mode", "batch", one_of("batch", "pair", "elem"), "What is mixed in the same proportion."),
        Key("recipe.dropout", None, number(0, 1, below=True) | NOTHING,
            "Of the network's dropout layers; null leaves them as the space made them."),
        Key("recipe.drop_path", None, number(0, 1, below=True) | NOTHING, "Of its stochastic depth, likewise."),
        Key("recipe.ema_decay", None, number(0, 1, below=True) | NOTHING,
            "Decay of the moving average of the weights, which is the result then; null for none."),
        Key("recipe.ema_warmup", False, FLAG, "Whether the decay starts low and rises, for short trainings."),
        Key("recipe.teacher", None, _TEXT | NOTHING,
            "Who teaches besides the labels: `board` (the best other entry in `pareto/` of RESULT), or a result."),
        Key("recipe.distillation_weight", 0.5, share, "Share of that in the loss."),
        Key("recipe.distillation_temperature", 1.0, number(0, above=True), "1 is the loss of the search."),
    )  # fmt: skip


def _trainer_keys() -> tuple[Key, ...]:
    # How many batches make one step follows from the global batch size.
    shared = [key for key in trainer_keys() if key.name != "trainer.accumulate_grad_batches"]
    return (
        *shared,
        Key("trainer.device_batch_size", None, whole(1) | NOTHING,
            "Images at once on one device; null for its whole share of the global batch."),
        Key("trainer.compile", False, FLAG, "Whether the network is compiled with `torch.compile`."),
        Key("trainer.channels_last", False, FLAG, "Whether images are laid out as GPUs like them."),
    )  # fmt: skip


def _contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    recipe = resolved["recipe"]
    if recipe["warmup_epochs"] >= recipe["epochs"]:
        yield (
            f"{prefix}recipe.warmup_epochs is {recipe['warmup_epochs']:g}; expected fewer than recipe.epochs "
            f"({recipe['epochs']})."
        )
    low, high = recipe["crop_scale"]
    if low is None or high is None or not 0 < low <= high <= 1:
        yield f"{prefix}recipe.crop_scale is {recipe['crop_scale']}; expected [low, high] with 0 < low <= high <= 1."
    if recipe["ema_warmup"] and recipe["ema_decay"] is None:
        yield f"{prefix}recipe.ema_decay is null; expected a decay such as 0.999, since recipe.ema_warmup is true."


RETRAIN = Layout(_NAMED, _SECTIONS, (*_recipe_keys(), *_trainer_keys(), *loader_keys()), _contradictions)
