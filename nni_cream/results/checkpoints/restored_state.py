"""What a checkpoint gives back to Lightning, checked: a file that is whole can still hold values of wrong kinds."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.connectors import checkpoint_connector

from nni_cream.errors import CreamError, FileError

__all__ = ["RestoreCheck"]

_RESTORING = ("load_state_dict", "restore_parts", "restore_generators", "restore_rng")
_ARITHMETIC = re.compile(
    r"/(torch|numpy|(pytorch_lightning|lightning_utilities)/core)/(?!optim/|utils/data/)|/json/|\.pyx$"
)
_OPTIMIZERS = re.compile("/(torch|timm)/optim/")
_STATEFUL = re.compile(r"/nni_cream/(search|results|runs)/")


class RestoreCheck(pl.Callback):
    """Compares the states of loops, optimizers and schedulers in a checkpoint with those of a new training.

    Lightning takes them as they are, and would fail much later, or train with other settings.

    Parameters
    ----------
    checkpoint
        What the training resumes from; ``None`` if it starts anew.
    """

    def __init__(self, checkpoint: str | Path | None) -> None:
        self._checkpoint = checkpoint
        self._content: Mapping[str, Any] = {}
        self._epochs = 0

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Blame the checkpoint for errors that come from it.

        Yields
        ------
        None
            While the training runs.

        Raises
        ------
        FileError
            If the checkpoint cannot be restored.
        """
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, OSError):
            raise
        except Exception as error:
            if self._checkpoint is None or str(self._checkpoint) in str(error):
                raise
            code = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
            if isinstance(error, CreamError):
                if _restores(code):
                    raise type(error)(f"{self._checkpoint}: {error}") from error
                raise
            told = f"{type(error).__name__}: {error}"
            if _restores(code):
                raise self._broken(told) from error
            if self._epochs <= 1 and _uses(code, error):
                raise FileError(
                    f"{self._checkpoint}: a run that resumed from it failed ({told}). If it does so again, start again "
                    "with --force."
                ) from error
            raise

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the content until there are optimizers to compare it with."""
        self._content = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare, just before Lightning restores the states."""
        if self._checkpoint is None:
            return
        ours = {
            "loops": {"fit_loop": trainer.fit_loop.state_dict()},
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "lr_schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        }
        problem = _problem(ours, self._content, "") or self._state_problem(trainer)
        if problem is not None:
            raise self._broken(problem)
        self._content = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count: at the end of the first epoch, all that was restored has been used."""
        self._epochs += 1

    def _broken(self, problem: str) -> FileError:
        return FileError(f"{self._checkpoint}: cannot be restored ({problem}). Start again with --force.")

    def _state_problem(self, trainer: pl.Trainer) -> str | None:
        for place, optimizer in enumerate(trainer.optimizers):
            parameters = [item for group in optimizer.param_groups for item in group["params"]]
            for index, values in self._content["optimizer_states"][place]["state"].items():
                where = f"optimizer_states.{place}.state.{index}"
                if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(values, dict):
                    return f"{where} is {_kind(values)}; expected the state of one of {len(parameters)} parameters"
                shape = parameters[index].shape
                for name, value in values.items():
                    if isinstance(value, torch.Tensor) and value.ndim == len(shape) and value.shape != shape:
                        return f"{where}.{name} has the shape {tuple(value.shape)}; expected {tuple(shape)}"
        return None


def _restores(code: Sequence[CodeType]) -> bool:
    names = {item.co_name for item in code}
    through_lightning = any(item.co_filename == checkpoint_connector.__file__ for item in code)
    return (through_lightning and "dump_checkpoint" not in names) or not names.isdisjoint(_RESTORING)


def _uses(code: Sequence[CodeType], error: Exception) -> bool:
    """Whether our own code or an optimizer failed on a value, and not the user's module or data inside of it."""
    inner = next((item.co_filename for item in reversed(code) if not _ARITHMETIC.search(item.co_filename)), "")
    if _OPTIMIZERS.search(inner):
        return True
    # torch also raises RuntimeError for a broken card, on which nothing here is to blame.
    of_value = isinstance(error, AttributeError | LookupError | TypeError | ValueError | RuntimeError)
    return of_value and "CUDA" not in str(error) and bool(_STATEFUL.search(inner))


def _problem(ours: Any, saved: Any, where: str) -> str | None:
    """Return how a saved state differs in kind from that of a new training, ``None`` if it does not."""
    if isinstance(ours, Mapping):
        return _mapping_problem(ours, saved, where)
    if isinstance(ours, list | tuple):
        return _sequence_problem(ours, saved, where)
    if ours is None or _same_kind(ours, saved):
        return None
    return f"{where} is {_kind(saved)}; expected {_kind(ours)}"


def _mapping_problem(ours: Mapping[Any, Any], saved: Any, where: str) -> str | None:
    if not isinstance(saved, Mapping):
        return f"{where} is {_kind(saved)}; expected a mapping"
    for key, value in ours.items():
        place = f"{where}.{key}".lstrip(".")
        if key not in saved:
            return f"{place} is missing; expected {_kind(value)}"
        if (problem := _problem(value, saved[key], place)) is not None:
            return problem
    return None


def _sequence_problem(ours: list[Any] | tuple[Any, ...], saved: Any, where: str) -> str | None:
    if not isinstance(saved, list | tuple) or len(saved) != len(ours):
        return f"{where} is {_kind(saved)}; expected a list of {len(ours)}"
    problems = (
        _problem(one, other, f"{where}.{place}") for place, (one, other) in enumerate(zip(ours, saved, strict=True))
    )
    return next((problem for problem in problems if problem is not None), None)


def _same_kind(ours: Any, saved: Any) -> bool:
    if isinstance(ours, bool) or isinstance(saved, bool):
        return isinstance(ours, bool) and isinstance(saved, bool)
    if isinstance(ours, int):
        return isinstance(saved, int) and (saved >= 0 or ours < 0)
    if isinstance(ours, float):
        return isinstance(saved, int | float) and math.isfinite(saved) >= math.isfinite(ours)
    return isinstance(saved, type(ours))


def _kind(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, bool | int | float | str | None) else f"a {type(value).__name__}"
