"""Autocast may keep casts of weights; a teacher that runs with other weights must not get them."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.nn import functional

from nni_cream import CreamStrategy
from nni_cream.search.teaching.losses import soft_cross_entropy
from tests.search.small import AS_PUBLISHED, LayerSpace, cream, custom_evaluator, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

STILL = {
    **AS_PUBLISHED,
    "board_size": 3,
    "warmup": 0,
    "meta_interval": 1000,
    "score_interval": 1000,
    "rescore_interval": None,
}


class Plain(LightningModule):
    """Cross-entropy and SGD; keeps the task loss and what the model gave."""

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        self.last = self(batch[0])
        self.task = functional.cross_entropy(self.last, batch[1])
        return self.task

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Steps(Callback):
    """Runs a look at every step; the look sees the weights of before it."""

    def __init__(self, look) -> None:
        self.look = look
        self.seen: list = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.before = copy.deepcopy(module.supernet.space.state_dict())
        average = module.average
        self.averages = None if average is None else copy.deepcopy(average.averages())
        self.distilled = module.tally.distilled

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        step = {"loss": float(outputs["loss"]), "task": float(module.training_module.task.detach())}
        step["distilled"] = module.tally.distilled - self.distilled
        step["match"] = module._match
        step.update(self.look(self, module, batch) or {})
        self.seen.append(step)


def searched(look=lambda *_: None, trainer=None, **arguments) -> tuple[CreamStrategy, list[dict]]:
    pl.seed_everything(3)
    steps = Steps(look)
    strategy = cream(**{**STILL, "seed": 3, **arguments})
    run(LayerSpace(), strategy, custom_evaluator(Plain(), callbacks=[steps], **(trainer or {})))
    return strategy, steps.seen


def outputs_of(module, path, weights, images) -> torch.Tensor:
    """The oracle: a network of its own, frozen by NNI to the path, with these weights and the batch's statistics."""
    space = copy.deepcopy(module.supernet.space)
    space.load_state_dict(weights, strict=False)
    network = space.freeze(dict(path)).train()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        return network(images)


def averages_of(steps: Steps, module) -> dict:
    """The averages before the step, by the names that the parameters have in the space; its buffers as they were."""
    names = {id(parameter): name for name, parameter in module.supernet.space.named_parameters()}
    averages = {
        names[id(parameter)]: steps.averages[name]
        for name, parameter in module.training_module.named_parameters()
        if id(parameter) in names
    }
    assert len(averages) == len(names)
    return {**steps.before, **averages}


class Caching(MixedPrecision):
    """Autocast with its cache on, as torch has it by default and Lightning does not."""

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=torch.bfloat16)


def test_in_mixed_precision_averaged_teachers_have_no_casts_of_the_students_weights():
    """Autocast keeps the casts of a forward pass; stem and head are those of the student, which ran just before."""
    taught: list[torch.Tensor] = []

    def spying(student, teacher):
        taught.append(teacher.float())
        return soft_cross_entropy(student, teacher)

    def look(steps, module, batch):
        if module._match is None:
            return {}
        path, differences = module._match.entry.path, []
        for weights in (averages_of(steps, module), steps.before):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                oracle = outputs_of(module, path, weights, batch[0]).float()
            differences.append(float((taught[-1] - oracle).abs().max()))
        return {"to_average": differences[0], "to_current": differences[1]}

    arguments = {"teacher_weights": "average", "ema_decay": 0.999, "matching": "best", "distillation": spying}
    _, steps = searched(look, trainer={"plugins": [Caching("bf16-mixed", "cpu")]}, **arguments)
    compared = [step for step in steps if step["match"]]
    assert len(compared) == 15
    assert all(step["to_average"] == 0 for step in compared)
    assert max(step["to_current"] for step in compared) > 0.01
