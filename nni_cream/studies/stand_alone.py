"""Train one architecture from new weights on the images of a study, and judge it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from nni.nas.space import model_context

from nni_cream import spaces
from nni_cream.studies.parts import StudyParts, load_parts
from nni_cream.training import Recipe, evaluate, make_loader, module_of, seeded
from nni_cream.training.single_network import TRAINER_DEFAULTS, FiniteLoss, quiet_lightning

__all__ = ["train_alone"]


def train_alone(shared: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Train one architecture of a study and measure it on the judging images; a worker's task.

    Parameters
    ----------
    shared
        ``space``, ``data``, ``judging_images``, ``recipe`` and ``accelerator`` of the study.
    arguments
        ``path``; ``seed``, which decides weights and order of the images; ``test``, whether to use the test images.

    Returns
    -------
    dict
        ``accuracy`` on the judging images, ``train_loss`` of the last epoch, and ``test_accuracy`` if wanted.
    """
    parts = load_parts(shared["data"], shared["judging_images"])
    with seeded(arguments["seed"]), quiet_lightning():
        with model_context(dict(arguments["path"])):
            network = spaces.create(shared["space"]["name"], **shared["space"]["arguments"])
        loss = _fit(network, parts, Recipe(**shared["recipe"]), shared["accelerator"])
        result = {"accuracy": evaluate(network, parts.judging), "train_loss": loss}
        if arguments.get("test"):
            result["test_accuracy"] = evaluate(network, parts.splits.test)
    return result


def _fit(network: Any, parts: StudyParts, recipe: Recipe, accelerator: str) -> float:
    module = module_of(recipe, parts.splits.num_classes)
    module.set_model(network)
    trainer = pl.Trainer(
        **{**TRAINER_DEFAULTS, "accelerator": accelerator}, max_epochs=recipe.epochs, callbacks=[FiniteLoss()]
    )
    trainer.fit(module, make_loader(parts.train, recipe.batch_size, shuffle=True))
    return float(trainer.callback_metrics["train_loss"])
