"""Trainings that are killed at a given step and moment, and the comparison with one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nni_cream.results.architecture_file import Best
from nni_cream.results.checkpoints import checkpoint_files
from nni_cream.search import CreamLightningModule
from nni_cream.training.retrain_module import FullClassificationModule
from tests.forked import Forked
from tests.ranks import free_port

IMAGES = {"name": "digits", "train": 200, "validation": 100}
TRAINER = {"accelerator": "cpu", "threads": 1, "checkpoint_every_n_steps": 3}
SEARCH: dict[str, Any] = {
    "space": {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]},
    "data": IMAGES,
    "search": {
        "epochs": 3,
        "board_size": 3,
        "warmup": 0,
        "batch_size": 25,
        "matching": {"name": "meta", "arguments": {"interval": 2}},
    },
    "trainer": TRAINER,
}
RETRAIN: dict[str, Any] = {
    "data": IMAGES,
    "recipe": {
        "epochs": 3,
        "batch_size": 40,
        "augment": "shift",
        "erasing": 0.5,
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema_decay": 0.8,
    },
    "trainer": {**TRAINER, "checkpoint_every_n_steps": 1},
}
MOMENTS = ("before the step", "after the step", "while the checkpoint is written", "between its two renames")


@dataclass(frozen=True)
class Job:
    """A search or a retraining that can be killed.

    Parameters
    ----------
    words
        Of its command, but the output folder.
    module
        Class that is trained.
    end_of_step
        Name of its method that ends a step; for a search, that scores the candidate.
    batches
        How many each process trains on.
    processes
        How many train together.
    """

    words: tuple[str, ...]
    module: Any
    end_of_step: str
    batches: int
    processes: int = 1


def search_job(folder: Path, processes: int = 1) -> Job:
    """Write the configuration of a search."""
    config = folder / "search.yml"
    config.write_text(json.dumps({**SEARCH, "trainer": {**TRAINER, "devices": processes}}))
    return Job(("search", str(config)), CreamLightningModule, "_finish_step", 24 // processes, processes)


def retrain_job(folder: Path, processes: int = 1) -> Job:
    """Write the configuration of a retraining with accumulated gradients, and the architecture."""
    config, best = folder / "retrain.yml", folder / "best.json"
    trainer = {**RETRAIN["trainer"], "devices": processes, "device_batch_size": 20}
    config.write_text(json.dumps({**RETRAIN, "trainer": trainer}))
    space = {"name": "digits", "arguments": {"channels": [8]}}
    images = {"name": "digits", "arguments": {}, "fingerprint": ""}
    Best(space, {"layer_1": "conv_3x3"}, 0.5, 41_552.0, "macs", images, 0, {}).save(best)
    words = ("retrain", str(best), str(config))
    return Job(words, FullClassificationModule, "on_train_batch_end", 30 // processes, processes)


def points(job: Job, number: int, seed: int = 0) -> Iterator[tuple[int, str]]:
    """Draw batches, from 1, and moments."""
    draw = random.Random(seed)
    for _ in range(number):
        yield draw.randint(1, job.batches), draw.choice(MOMENTS)


def rank_to_kill(job: Job, number: int, moment: str) -> int:
    """Let the kills meet each process in its turn; the first one alone writes checkpoints."""
    return number % job.processes if moment in MOMENTS[:2] else 0


def killed_at(job: Job, batch: int, moment: str, sign: int = signal.SIGKILL) -> Callable[[], None]:
    """Return what lets this process send itself a signal at the first such moment of a batch or a later one."""
    places: dict[str, tuple[Any, str]] = {
        "before the step": (job.module, "training_step"),
        "after the step": (job.module, job.end_of_step),
        "while the checkpoint is written": (checkpoint_files, "seal"),
        "between its two renames": (os, "replace"),
    }

    def prepare() -> None:
        state = {"batches": 0, "done": False}

        def count(*arguments: Any) -> None:
            state["batches"] += 1

        def strike(*arguments: Any) -> None:
            # Of the renames, the first of two: that of the checkpoint before.
            if name == "replace" and Path(arguments[1]).name != "earlier.ckpt":
                return
            if state["batches"] >= batch and not state["done"]:
                state["done"] = True
                os.kill(os.getpid(), sign)

        place, name = places[moment]
        late = moment in ("after the step", "between its two renames")
        _call_with(place, name, **{"after" if late else "before": strike})
        _call_with(job.module, "training_step", before=count)

    return prepare


def _call_with(
    place: Any,
    name: str,
    before: Callable[..., None] = lambda *arguments: None,
    after: Callable[..., None] = lambda *arguments: None,
) -> None:
    function = getattr(place, name)

    def around(*arguments: Any) -> Any:
        before(*arguments)
        result = function(*arguments)
        after(*arguments)
        return result

    setattr(place, name, around)


def interrupted(job: Job, out: Path, batch: int, moment: str, sign: int = signal.SIGKILL, rank: int = 0) -> Forked:
    """Run a job of which one process gets a signal, to its end; the others are killed with it if it is."""
    processes = _started(job, out, before=killed_at(job, batch, moment, sign), rank=rank)
    processes[rank].communicate()
    for other in processes:
        if sign == signal.SIGKILL:
            other.send_signal(sign)
        other.communicate()
    return processes[rank]


def finished(job: Job, out: Path, *options: str) -> None:
    """Run or resume a job to its end."""
    # In a fork too: autograd refuses to work in a fork of a process that has used its threads.
    for process in _started(job, out, *options):
        messages = process.communicate()
        assert process.returncode == 0, messages


def _started(
    job: Job, out: Path, *options: str, before: Callable[[], None] = lambda: None, rank: int = 0
) -> list[Forked]:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(job.processes)}

    def prepare(own: int) -> Callable[[], None]:
        def be_rank() -> None:
            if job.processes > 1:
                os.environ.update(shared, NODE_RANK="0", LOCAL_RANK=str(own))
            if own == rank:
                before()

        return be_rank

    return [Forked(*job.words, "--out", out, *options, before=prepare(own)) for own in range(job.processes)]


def differences(first: Path, second: Path) -> list[str]:
    """Return the names of the files, and keys of the last checkpoint, that are not equal in two output folders."""
    # Half a file, from a kill while it was written, has a hidden name.
    names = [{str(file.relative_to(out)) for file in out.rglob("[!.]*") if file.is_file()} for out in (first, second)]
    found = sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1] - {"earlier.ckpt"}):
        if name.endswith((".ckpt", ".pt")):
            # PyTorch writes the temporary name, with the process's number, into its files.
            loaded = [torch.load(out / name, weights_only=True) for out in (first, second)]
            found += [f"{name}: {key}" for key in _unequal(*loaded)]
        elif (first / name).read_bytes() != (second / name).read_bytes():
            found.append(name)
    return found


def _unequal(first: Any, second: Any, where: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            yield from _unequal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from _unequal(*pair, f"{where}[{index}]")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if not torch.equal(first, second):
            yield where
    elif first != second:
        yield where
