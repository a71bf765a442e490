"""Two processes on a CPU search as one: the same path, teacher, match weight and board at every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE

SCRIPT = """
import json, os, sys
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tests.examples.own_sampler import MutatingSampler
from tests.search.small import DataLoader, LayerSpace, cream, digits, evaluator, run

class Steps(Callback):
    def __init__(self):
        self.seen = []
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        match = None if module._match is None else [module._match.entry.key, module._match.weight]
        match = [match, module.tally.distilled]
        self.seen.append([list(module._path.values()), match, module.board.to_json(), batch[1].tolist()])

pl.seed_everything(0)
steps = Steps()
# One of the two as the paper's search on many GPUs: averaged weights, clipped gradients; and several batches a step.
more = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2} if sys.argv[1] == "random" else {}
# The other with what could differ from process to process: a gate, averaged teachers, paths that follow the board.
taught = dict(distillation_gate=True, teacher_weights="average", sampling=MutatingSampler())
taught = taught if sys.argv[1] == "meta" else {}
use = evaluator(strategy="ddp_find_unused_parameters_true", devices=2, callbacks=[steps], **more)
settings = dict(board_size=4, warmup=0, score_interval=1, meta_interval=3, seed=1, ema_decay=0.9, **taught)
strategy = run(LayerSpace(), cream(matching=sys.argv[1], **settings), use)
average = strategy.oneshot_module.average
averages = {name: value.tolist() for name, value in average.averages().items()}
sets = [(digits(64), 32), (digits(200, start=1000), 100)]
strategy.finalise(*(DataLoader(images, batch_size=size) for images, size in sets))
weights = float(sum(value.double().abs().sum() for value in strategy.supernet.parameters()))
network = strategy.oneshot_module.matcher.state_dict().get("network", {})
meta = {name: value.tolist() for name, value in network.items()}
with open(os.path.join(sys.argv[2], f"rank_{strategy.oneshot_module.trainer.global_rank}.json"), "w") as file:
    json.dump([steps.seen, strategy.board.to_json(), weights, meta, averages, average.updates], file)
"""


def in_two_processes(matching: str, folder: Path, seconds: float = PATIENCE) -> list:
    script = folder / "search.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "PL_TORCH_DISTRIBUTED_BACKEND": "gloo",
    }
    process = subprocess.Popen(
        [sys.executable, str(script), matching, str(folder)],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError):  # both have ended
            os.killpg(process.pid, signal.SIGKILL)  # the second process belongs to the group of the first
        process.wait()
    assert process.returncode == 0, output[-3000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.integration
@pytest.mark.parametrize("matching", ["meta", "random"])
def test_two_processes_agree_on_path_teacher_match_weight_and_board_at_every_step(tmp_path, matching):
    first, second = in_two_processes(matching, tmp_path)
    assert len(first[0]) == len(second[0]) == 8
    for ours, theirs in zip(first[0], second[0], strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] != theirs[3], "each process trains on its own images"
    assert any(match is not None for _, (match, _), *_ in first[0])
    assert first[1:] == second[1:]
    assert len(first[1]["entries"]) == 4
    assert all(0 <= entry["validated"] <= 1 for entry in first[1]["entries"])
    assert first[5] == (4 if matching == "random" else 8), "the average takes in each optimizer step, not each batch"
