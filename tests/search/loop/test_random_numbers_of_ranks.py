"""Each process has random numbers of its own, for dropout, and all of them continue where a checkpoint left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from tests.ranks import in_ranks
from tests.search.small import LayerSpace, cream, evaluator, run

pytestmark = pytest.mark.integration


class Dropped(Callback):
    """Notes what each step drew, and saves one step."""

    def __init__(self, save_at: int | None, folder: Path) -> None:
        self.save_at, self.folder = save_at, folder
        self.seen: dict[int, int] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.folder / "step.ckpt")
        self.seen[trainer.global_step] = int(torch.get_rng_state().long().sum())


def searched(folder: Path, save_at: int | None = None, checkpoint: Path | None = None) -> list[Any]:
    pl.seed_everything(0)
    dropped = Dropped(save_at, folder)
    use = evaluator(strategy="ddp_find_unused_parameters_true", devices=2, callbacks=[dropped])
    if checkpoint is not None:
        use.fit_kwargs.update(ckpt_path=str(checkpoint), weights_only=True)
    strategy = run(LayerSpace(), cream(board_size=4, warmup=0, score_interval=2, seed=1), use)
    weights = torch.cat([item.detach().flatten() for item in strategy.supernet.parameters()]).tolist()
    return [dropped.seen, strategy.board.to_json(), weights]


@pytest.mark.parametrize("step", [3, 4], ids=["within-an-epoch", "at-its-end"])
def test_dropout_differs_by_process_and_goes_on_after_a_checkpoint(step: int, tmp_path: Path) -> None:
    whole = in_ranks(2, lambda rank: searched(tmp_path, save_at=step), tmp_path)
    assert len(whole[0][0]) == 8
    assert not set(whole[0][0].values()) & set(whole[1][0].values())
    assert whole[0][1:] == whole[1][1:]
    resumed = in_ranks(2, lambda rank: searched(tmp_path, checkpoint=tmp_path / "step.ckpt"), tmp_path)
    for after, before in zip(resumed, whole, strict=True):
        assert after[0] == {number: drawn for number, drawn in before[0].items() if int(number) > step}
        assert after[1:] == before[1:]
