"""Recipe for a fixed architecture, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from nni_cream.argument_checks import check_whole
from nni_cream.training.classification import ClassificationModule, check_hyperparameters

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Settings of one training; ``dataclasses.asdict`` of it is JSON-safe.

    For the others see :class:`~nni_cream.training.ClassificationModule`. A value out of its range raises
    ``ConfigError``.
    """

    epochs: int = 30  #: Passes over the training images.
    batch_size: int = 64  #: Images in one step.
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    nesterov: bool = True
    warmup_fraction: float = 0.1
    augment: str = "none"

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_hyperparameters(**self._hyperparameters())

    def module(self, num_classes: int) -> ClassificationModule:
        """Build the Lightning module that trains by this recipe; its network is set with ``set_model``."""
        return ClassificationModule(num_classes=num_classes, **self._hyperparameters())

    def _hyperparameters(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("epochs", "batch_size")}


RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {
        "digits": Recipe(epochs=15, batch_size=32, learning_rate=0.05, weight_decay=2e-3, label_smoothing=0.1),
        "fashion": Recipe(epochs=8, batch_size=128, learning_rate=0.1, label_smoothing=0.1),
    }
)
"""Recipes for the spaces and data sets of the package, by the name they share.

Chosen by the validation accuracy of random architectures. Shifting and mirroring cost accuracy in trainings this short.
"""
