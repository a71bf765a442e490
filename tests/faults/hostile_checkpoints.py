"""Checkpoints of a real search that pass every check of the file, and hold a wrong value somewhere."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nni_cream.config import SEARCH
from nni_cream.errors import CreamError
from nni_cream.results.checkpoints.checkpoint_files import seal
from nni_cream.runs.search_run import run_search
from tests.faults.kill_points import SEARCH as SMALL
from tests.faults.kill_points import TRAINER, interrupted, search_job

_WRONG: tuple[Any, ...] = (
    None, True, -1, 10**30, 0.5, float("nan"), "", "x", [], [[]], {}, {"x": 1}, torch.zeros(3), torch.zeros(()),
)  # fmt: skip
MISSING = "missing"


@dataclass(frozen=True)
class Resumed:
    """What became of one resume."""

    place: str
    """Which value was wrong."""
    error: str
    """Class of the error, ``accepted`` if there was none."""
    message: str
    own: bool
    """Whether there was none, or one of ours that names the checkpoint or its state."""


def half_finished(folder: Path) -> Path:
    """Leave a search that was killed after half of its steps, made in a process of its own."""
    interrupted(search_job(folder), folder / "whole", 14, "before the step")
    return folder / "whole"


def resumed(whole: Path, out: Path, seed: int) -> Resumed:
    """Change one value of the newest checkpoint, and resume from it in this process."""
    content = torch.load(whole / "last.ckpt", weights_only=True)
    rng = random.Random(seed)
    way = rng.choice([way for way in _places(content) if way[0] != "state_dict"])
    new = rng.choice((MISSING, *_WRONG))
    return resumed_with(whole, out, way, new)


def resumed_with(whole: Path, out: Path, way: tuple[Any, ...], new: Any) -> Resumed:
    """Put a value at a place of the newest checkpoint, or take out what is there, and resume from it."""
    shutil.copytree(whole, out)
    (out / "earlier.ckpt").unlink()
    checkpoint = out / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    _change(content, way, new)
    torch.save(content, checkpoint)
    seal(checkpoint)
    error: Exception | None = None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            run_search(SEARCH.resolve({**SMALL, "trainer": {**TRAINER, "devices": 1}}), out, resume=True)
    except Exception as caught:  # noqa: BLE001 - every class of error is a finding
        error = caught
    finally:
        shutil.rmtree(out)
    own = error is None or (isinstance(error, CreamError) and ("checkpoint" in str(error) or str(out) in str(error)))
    place = f"{'.'.join(map(str, way))} = {new!r}"
    return Resumed(place, "accepted" if error is None else type(error).__name__, str(error), own)


def _places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _places(value, (*way, key))
    elif isinstance(content, list) and len(content) < 20:
        for place, value in enumerate(content):
            yield from _places(value, (*way, place))


def _change(content: Any, way: tuple[Any, ...], new: Any) -> None:
    for key in way[:-1]:
        content = content[key]
    if isinstance(new, str) and new == MISSING:
        del content[way[-1]]
    else:
        content[way[-1]] = new
