"""What a rehearsal sees of a training, and what it makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from nni_cream.errors import SearchError
from nni_cream.runs.rehearsals.data_shape import DataShape, made_up_images
from nni_cream.runs.rehearsals.rehearsal import Plan, Rehearsing, devices_here, estimate
from nni_cream.runs.rehearsals.training_memory import training_memory


class Squares(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        first = (batch[0] * self.scale).exp()  # keeps its output, and the images for the gradient of the scale
        second = first.sin()  # keeps its input, which is kept already
        del first
        return second.sum()  # keeps nothing

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


def test_activations_are_what_autograd_keeps_at_once() -> None:
    seen, module = Rehearsing(), Squares()
    shape = DataShape((2, 4, 4), 3, 100, 10)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[seen],
    )  # fmt: skip
    trainer.fit(module, DataLoader(made_up_images(shape, 15), batch_size=5))
    images = 5 * 2 * 4 * 4 * 4  # bytes of a batch
    assert seen.activations == 2 * images
    assert len(seen.seconds) == 2
    assert all(seconds > 0 for seconds in seen.seconds)
    memory = training_memory(module, trainer.optimizers, {"average": nn.BatchNorm1d(3)})
    assert (memory["parameters"], memory["gradients"], memory["buffers"]) == (4, 4, 0)
    assert memory["optimizer"] == 12  # Adam: two moments and a step count
    assert memory["average"] == 4 * 3 * 4 + 8


def test_estimate_grows_with_images_and_shrinks_with_devices() -> None:
    seen = Rehearsing()
    seen.seconds = [0.4, 0.2, 0.3]
    plan = Plan(epochs=10, images_per_epoch=1000, global_batch_size=64, devices=8)
    alone = estimate(seen, plan, images_at_once=2, memory={"parameters": 8})
    assert alone.seconds_per_image == pytest.approx(0.15)
    assert alone.seconds_per_step == pytest.approx(0.15 * 64)
    assert alone.steps_per_epoch == 15
    assert alone.seconds == pytest.approx(0.15 * 64 * 15 * 10)
    assert any("1 of the 8 configured devices" in note for note in alone.assumptions)
    together = estimate(seen, plan, images_at_once=2, memory={}, available=8)
    assert together.seconds == pytest.approx(alone.seconds / 8)
    assert together.assumptions == ()
    assert alone.to_json()["memory_total"] == 8


def test_a_batch_larger_than_the_data_takes_as_long_as_the_images_that_there_are() -> None:
    seen = Rehearsing()
    seen.seconds = [0.5]
    found = estimate(seen, Plan(3, 200, 500), images_at_once=5, memory={})
    assert found.steps_per_epoch == 1
    assert found.seconds_per_step == found.seconds_per_epoch == pytest.approx(0.1 * 200)
    assert found.seconds == pytest.approx(0.1 * 200 * 3)


def test_estimate_without_a_measured_batch_is_refused() -> None:
    with pytest.raises(SearchError, match="fewer than two batches"):
        estimate(Rehearsing(), Plan(1, 10, 5), images_at_once=5, memory={})


def test_devices_that_are_not_here_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_here("gpu", 8) == (8, 2)
    assert devices_here("auto", [0, 1, 2]) == (3, 2)
    assert devices_here("auto", "auto") == (2, 2)
    assert devices_here("cpu", 4) == (4, 1)
