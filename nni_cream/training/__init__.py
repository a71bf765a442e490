"""Training and measuring of one fixed architecture, and the Lightning module that a search uses too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nni_cream.lazy_names import lazy_names

if TYPE_CHECKING:
    from nni_cream.training.classification import ClassificationModule as ClassificationModule
    from nni_cream.training.classification import module_of as module_of
    from nni_cream.training.loader_options import Loading as Loading
    from nni_cream.training.loaders import make_loader as make_loader
    from nni_cream.training.measurement import Measurement as Measurement
    from nni_cream.training.measurement import evaluate as evaluate
    from nni_cream.training.measurement import measure as measure
    from nni_cream.training.recipe import RECIPES as RECIPES
    from nni_cream.training.recipe import Recipe as Recipe
    from nni_cream.training.single_network import RetrainResult as RetrainResult
    from nni_cream.training.single_network import retrain as retrain
    from nni_cream.training.single_network import seeded as seeded
    from nni_cream.training.weights import load_weights as load_weights

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
