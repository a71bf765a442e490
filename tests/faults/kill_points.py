"""Searches that are killed at a given step and moment, and the comparison with one that was not."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nni_cream.results import checkpoint_files
from nni_cream.search import CreamLightningModule
from tests.forked import Forked

SEARCH: dict[str, Any] = {
    "space": {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]},
    "data": {"name": "digits", "train": 200, "validation": 100},
    "search": {
        "epochs": 3,
        "board_size": 3,
        "warmup": 0,
        "batch_size": 25,
        "matching": {"name": "meta", "arguments": {"interval": 2}},
    },
    "trainer": {"accelerator": "cpu", "threads": 1, "checkpoint_every_n_steps": 3},
}
STEPS = 24
MOMENTS: dict[str, tuple[Any, str, bool]] = {
    "before the step": (CreamLightningModule, "training_step", False),
    "after scoring": (CreamLightningModule, "_finish_step", True),
    "while the checkpoint is written": (checkpoint_files, "seal", False),
}
"""Where a function is, its name, and whether the process dies after it and not before."""


def points(number: int, seed: int = 0) -> Iterator[tuple[int, str]]:
    """Draw steps, from 1, and moments."""
    draw = random.Random(seed)
    for _ in range(number):
        yield draw.randint(1, STEPS), draw.choice(list(MOMENTS))


def killed_at(step: int, moment: str, sign: int = signal.SIGKILL) -> Callable[[], None]:
    """Return what lets this process send itself a signal at the first such moment of a step or a later one."""
    place, name, after = MOMENTS[moment]

    def prepare() -> None:
        before, start = getattr(place, name), CreamLightningModule.training_step
        state = {"steps": 0, "done": False}

        def count(*arguments: Any) -> Any:
            state["steps"] += 1
            if name == "training_step":
                strike()
            return start(*arguments)

        def strike() -> None:
            if state["steps"] >= step and not state["done"]:
                state["done"] = True
                os.kill(os.getpid(), sign)

        def around(*arguments: Any) -> Any:
            if not after:
                strike()
            result = before(*arguments)
            if after:
                strike()
            return result

        if name != "training_step":
            setattr(place, name, around)
        CreamLightningModule.training_step = count  # type: ignore[method-assign]

    return prepare


def interrupted(config: str, out: Path, step: int, moment: str, sign: int = signal.SIGKILL) -> Forked:
    """Run a search that gets a signal, to its end."""
    process = Forked("search", config, "--out", out, before=killed_at(step, moment, sign))
    process.communicate()
    return process


def searched(config: str, out: Path, *options: str) -> None:
    """Run or resume a search to its end."""
    # In a fork too: autograd refuses to work in a fork of a process that has used its threads.
    process = Forked("search", config, "--out", out, *options)
    messages = process.communicate()
    assert process.returncode == 0, messages


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
