"""SIGTERM comes to one process of two: both save the same step, and no accelerator waits for the question."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset

from nni_cream.results.epoch_files import EpochFiles
from nni_cream.results.output_folder import OutputFolder
from tests.faults.linear import Linear
from tests.ranks import in_ranks

pytestmark = pytest.mark.integration
TOLD_AT = 3


class Signal(Callback):
    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and trainer.global_step == TOLD_AT - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def no_reduction(*arguments: Any, **more: Any) -> bool:
    raise AssertionError("the decision went over the devices")


def test_both_processes_save_the_step_in_which_one_got_the_signal(tmp_path: Path) -> None:
    def work(rank: int) -> list[Any]:
        strategy = DDPStrategy()
        strategy.reduce_boolean_decision = no_reduction
        files = EpochFiles(OutputFolder(tmp_path), {"tensorboard": False, "checkpoint_every_n_steps": None})
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, logger=False, callbacks=[Signal(), files],
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=True, default_root_dir=tmp_path,
        )  # fmt: skip
        with pytest.raises(SIGTERMException):
            trainer.fit(Linear(), DataLoader(TensorDataset(torch.ones(40, 2)), batch_size=2))
        return [trainer.global_step]

    assert in_ranks(2, work, tmp_path) == [[TOLD_AT], [TOLD_AT]]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == TOLD_AT
