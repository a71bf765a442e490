"""Training and measuring of one fixed architecture, and the Lightning module that a search uses too."""

from nni_cream.training.classification import ClassificationModule
from nni_cream.training.loaders import Loading, make_loader
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
    "retrain",
    "seeded",
]
