"""How a fixed architecture is trained, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from nni_cream.errors import ConfigError
from nni_cream.training.classification import ClassificationModule, check_hyperparameters

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Settings of one training; ``dataclasses.asdict`` of it is JSON-safe.

    Parameters
    ----------
    epochs
        Passes over the training images.
    batch_size
        Images in one step.
    learning_rate
        Highest learning rate of the cosine.
    momentum
        Momentum of SGD.
    weight_decay
        Decay of convolution and linear weights.
    label_smoothing
        Share of the target that is spread over all classes.
    nesterov
        Whether the momentum is Nesterov's.
    warmup_fraction
        Share of all steps in which the learning rate rises.
    augment
        ``"none"``, ``"shift"`` or ``"shift+flip"``.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    nesterov: bool = True
    warmup_fraction: float = 0.1
    augment: str = "none"

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name}: expected a whole number of at least 1, got {value!r}.")
        check_hyperparameters(
            self.learning_rate,
            self.momentum,
            self.weight_decay,
            self.label_smoothing,
            self.nesterov,
            self.warmup_fraction,
            self.augment,
        )

    def module(self, num_classes: int) -> ClassificationModule:
        """Build the Lightning module that trains by this recipe.

        Parameters
        ----------
        num_classes
            Number of logits that the network gives.

        Returns
        -------
        ClassificationModule
            A new module; its network is set with ``set_model``.
        """
        return ClassificationModule(
            num_classes=num_classes,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            nesterov=self.nesterov,
            warmup_fraction=self.warmup_fraction,
            augment=self.augment,
        )


RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {
        "digits": Recipe(epochs=15, batch_size=32, learning_rate=0.05, weight_decay=2e-3, label_smoothing=0.1),
        "fashion": Recipe(epochs=8, batch_size=128, learning_rate=0.1, label_smoothing=0.1),
    }
)
"""Recipes for the spaces and data sets of the package, by the name they share.

Chosen by the validation accuracy of random architectures. Shifting and mirroring cost accuracy in trainings this short.
"""
