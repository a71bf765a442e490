"""Ctrl-C in a destructor, where Python drops what is raised: the training still ends, at the end of the batch."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from nni_cream.results.epoch_files import EpochFiles, abandoned_on_failure
from nni_cream.results.output_folder import OutputFolder
from tests.faults.linear import Linear
from tests.forked import Forked

pytestmark = pytest.mark.integration
LOST_AT = 3


class Lost:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Signal(Callback):
    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == LOST_AT - 1:
            lost = Lost()
            del lost


@pytest.mark.parametrize("batches", [20, LOST_AT], ids=["within the epoch", "its last batch"])
def test_training_ends_although_python_dropped_the_interrupt(batches: int, tmp_path: Path) -> None:
    def train(words: list[str]) -> int:
        folder = OutputFolder(tmp_path)
        files = EpochFiles(folder, {"tensorboard": False, "checkpoint_every_n_steps": None})
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=10, logger=False, callbacks=[Signal(), files], enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=True, default_root_dir=tmp_path,
        )  # fmt: skip
        try:
            with abandoned_on_failure(folder):
                trainer.fit(Linear(), DataLoader(TensorDataset(torch.ones(2 * batches, 2)), batch_size=2))
        except KeyboardInterrupt:
            return trainer.global_step
        return 0

    def as_outside_of_pytest() -> None:
        sys.unraisablehook = sys.__unraisablehook__

    process = Forked(before=as_outside_of_pytest, run=train)
    messages = "".join(process.communicate())
    assert "Exception ignored in" in messages
    assert process.returncode == LOST_AT, messages
