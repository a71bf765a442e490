"""The file of a detector: ``nni-cream detect``."""

from __future__ import annotations

from nni_cream.config.layout import Layout, keys_of
from nni_cream.config.retrain_keys import recipe_contradictions, recipe_trainer_keys
from nni_cream.training.detect_recipe import DetectorOptions, DetectRecipe
from nni_cream.training.loader_options import Loading

__all__ = ["DETECT"]

_NAMED = {
    "backbone": "Network: a result of a search or retraining, a published one such as `cream-287`, or torchvision's; "
    "a mapping with `name` and `weights` (a file, or `beside` for that beside the result) to start from weights.",
    "data": "Images with boxes: a mapping with `name` (`coco`, `voc`), `root`, the names of the parts `train`, "
    "`validation`, `test`, and `faulty` (`refuse`, `drop`).",
}
_SECTIONS = {
    "detector": "RetinaNet with a feature pyramid, of torchvision's parts",
    "recipe": "how it is trained; optimizer, schedule and average are timm's",
    "trainer": "the hardware, and what is handed to Lightning's Trainer",
    "loader": "how images get from the disk to the device",
}

DETECT = Layout(
    _NAMED,
    _SECTIONS,
    (
        *keys_of(DetectorOptions, "detector"),
        *keys_of(DetectRecipe, "recipe"),
        *recipe_trainer_keys(),
        *keys_of(Loading, "loader"),
    ),
    recipe_contradictions,
)
