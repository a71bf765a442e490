"""Training and measuring one fixed architecture, and the Lightning module that a search uses too."""

from nni_cream.training.loading import Loading, make_loader
from nni_cream.training.measuring import Measurement, evaluate, measure
from nni_cream.training.module import ClassificationModule
from nni_cream.training.recipe import RECIPES, Recipe
from nni_cream.training.retrain import RetrainResult, retrain, seeded
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
    "retrain",
    "seeded",
]
