"""Training and measuring of one fixed architecture, and the Lightning module that a search uses too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nni_cream.lazy_names import lazy_names

if TYPE_CHECKING:
    from nni_cream.training.classification import ClassificationModule, module_of
    from nni_cream.training.loader_options import Loading
    from nni_cream.training.loaders import make_loader
    from nni_cream.training.measurement import Measurement, evaluate, measure
    from nni_cream.training.recipe import RECIPES, Recipe
    from nni_cream.training.single_network import RetrainResult, retrain, seeded
    from nni_cream.training.weights import load_weights

__all__ = [
    "RECIPES",
    "ClassificationModule",
    "Loading",
    "Measurement",
    "Recipe",
    "RetrainResult",
    "evaluate",
    "load_weights",
    "make_loader",
    "measure",
    "module_of",
    "retrain",
    "seeded",
]

__getattr__ = lazy_names(
    __name__,
    {
        "nni_cream.training.classification": "ClassificationModule module_of",
        "nni_cream.training.loaders": "make_loader",
        "nni_cream.training.loader_options": "Loading",
        "nni_cream.training.measurement": "Measurement evaluate measure",
        "nni_cream.training.recipe": "RECIPES Recipe",
        "nni_cream.training.single_network": "RetrainResult retrain seeded",
        "nni_cream.training.weights": "load_weights",
    },
)
