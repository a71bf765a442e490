"""Training and measuring one fixed architecture, and the Lightning module that a search uses too."""

from nni_cream.training.module import ClassificationModule
from nni_cream.training.recipe import RECIPES, Recipe
from nni_cream.training.retrain import RetrainResult, evaluate, make_loader, retrain, seeded

__all__ = [
    "RECIPES",
    "ClassificationModule",
    "Recipe",
    "RetrainResult",
    "evaluate",
    "make_loader",
    "retrain",
    "seeded",
]
