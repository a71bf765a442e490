"""A checkpoint that is whole and holds a wrong value ends a resume with an error that names the file.

``benchmarks/hostile_checkpoints.py`` resumes from hundreds; here are some of each part.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.hostile_checkpoints import MISSING, half_finished, resumed_with

_EPOCH = ("loops", "fit_loop", "epoch_progress", "current", "completed")
_MOMENTUM = ("optimizer_states", 0, "state", 0, "momentum_buffer")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return half_finished(tmp_path_factory.mktemp("whole"))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("way", "new", "message"),
    [
        (("loops", "fit_loop"), MISSING, r"\(loops.fit_loop is missing; expected a dict\)"),
        (_EPOCH, "x", "completed is 'x'; expected 0"),
        (_EPOCH, -1, "completed is -1; expected 0"),
        (("callbacks",), [], "AttributeError"),
        (("lr_schedulers", 0), None, "lr_schedulers.0 is None; expected a mapping"),
        (("optimizer_states", 0, "param_groups", 0, "lr"), float("nan"), "lr is nan; expected "),
        (_MOMENTUM, torch.zeros(1, 1, 1, 1), r"momentum_buffer has the shape \(1, 1, 1, 1\); expected \("),
        (_MOMENTUM, "x", "a run that resumed from it failed"),
        (("nni_cream", "order", 0, "iterator"), [], "cannot be restored|a run that resumed from it failed"),
        (("nni_cream", "rng", 0, "numpy"), {}, "cannot be restored"),
        (("nni_cream", "board", "entries"), 3, "entries"),
    ],
)
def test_wrong_value_is_an_error_that_names_the_checkpoint(
    whole: Path, tmp_path: Path, way: tuple[Any, ...], new: Any, message: str
) -> None:
    outcome = resumed_with(whole, tmp_path / "out", way, new)
    assert outcome.own, outcome
    assert f"{tmp_path}/out/last.ckpt: " in outcome.message
    assert re.search(message, outcome.message), outcome.message
