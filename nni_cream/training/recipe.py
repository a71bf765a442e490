"""Recipe for a fixed architecture or a supernet, as one value.

Neither torch nor NNI is imported here: the configuration derives its keys from this class.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from nni_cream.errors import ConfigError
from nni_cream.options import FLAG, Options, number, one_of, option, whole

__all__ = ["AUGMENTATIONS", "RECIPES", "Recipe"]

AUGMENTATIONS = ("none", "shift", "shift+flip")


@dataclass(frozen=True)
class Recipe(Options):
    """Settings of one training; ``dataclasses.asdict`` of it is JSON-safe."""

    epochs: int = option(30, whole(1), "Passes over the training images.")
    # BatchNorm has no statistics of a single image.
    batch_size: int = option(64, whole(2), "Images a training step.")
    learning_rate: float = option(0.1, number(0, above=True), "Highest learning rate of SGD; it follows a cosine.")
    momentum: float = option(0.9, number(0, 1, below=True), "Momentum of SGD.")
    nesterov: bool = option(True, FLAG, "Whether the momentum is Nesterov's.")
    weight_decay: float = option(5e-4, number(0), "Decay of convolution and linear weights.")
    warmup_fraction: float = option(
        0.1, number(0, 1, below=True), "Share of all steps in which the learning rate rises."
    )
    label_smoothing: float = option(0.0, number(0, 1, below=True), "Share of the target spread over all classes.")
    augment: str = option("none", one_of(*AUGMENTATIONS), "Random changes of the training images.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ConfigError("momentum is 0; expected a number above 0 with nesterov. Set nesterov to false.")


RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {
        "digits": Recipe(epochs=15, batch_size=32, learning_rate=0.05, weight_decay=2e-3, label_smoothing=0.1),
        "fashion": Recipe(epochs=8, batch_size=128, learning_rate=0.1, label_smoothing=0.1),
    }
)
"""Recipes for the spaces and data sets of the package, by the name they share.

Chosen by the validation accuracy of random architectures. Shifting and mirroring cost accuracy in trainings this short.
"""
