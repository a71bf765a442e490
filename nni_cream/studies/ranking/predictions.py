"""The predictor in a ranking study: training steps are recorded, and replayed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytorch_lightning as pl

from nni_cream import spaces
from nni_cream.search import CreamLightningModule, Path, Supernet, path_key
from nni_cream.search.scoring.predictor import PathPredictor, Prediction
from nni_cream.strategy import CreamStrategy

__all__ = [
    "StepRecorder",
    "informed",
    "predict",
    "predicted",
    "predicted_meanwhile",
    "recorded_steps",
    "replay",
    "supernet_of",
]


class StepRecorder(pl.Callback):
    """Keeps path and task loss of every training step of a search."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._losses: list[float] = []
        self._sizes: list[float] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Keep the step that has just been made."""
        assert isinstance(pl_module, CreamLightningModule)
        path, loss = pl_module.last_step
        self._sizes = pl_module.predictor.sizes
        if path is not None and loss is not None:
            self._columns.append(" ".join(map(str, pl_module.predictor.columns(path))))
            self._losses.append(round(float(loss.detach()), 6))

    def to_json(self) -> dict[str, Any]:
        """Return ``columns``, those of the regression that the path of each step sets to one, ``losses``, ``sizes``."""
        return {"columns": self._columns, "losses": self._losses, "sizes": self._sizes}


def replay(space: Mapping[str, Any], trained: Mapping[str, Any]) -> PathPredictor:
    """Let a predictor learn from recorded steps.

    Parameters
    ----------
    space
        ``name`` and ``arguments``.
    trained
        What :class:`StepRecorder` kept.

    Returns
    -------
    PathPredictor
        As it was after these steps.
    """
    *_, (_, predictor) = _replay_parts(space, trained, 1)
    return predictor


def _replay_parts(
    space: Mapping[str, Any], trained: Mapping[str, Any], parts: int
) -> Iterator[tuple[float, PathPredictor]]:
    """Do the same in equal parts: yield the share of the steps so far and the predictor, which goes on learning."""
    supernet = supernet_of(space)
    predictor = PathPredictor(supernet.mutables, supernet.usage)
    predictor.sizes = trained.get("sizes")
    columns = [np.array(text.split(), dtype=np.intp) for text in trained["columns"]]
    steps = len(columns)
    ends = [part * steps // parts for part in range(parts + 1)]
    for start, end in itertools.pairwise(ends):
        predictor.learn(columns[start:end], trained["losses"][start:end])
        yield end / steps if steps else 1.0, predictor


def recorded_steps(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the predictor learns from, with and without its prior of size: rule of choice -> recorded steps."""
    return {"predicted": result["trained"], "predicted, without size": {**result["trained"], "sizes": None}}


def predicted(space: Mapping[str, Any], trained: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> Prediction:
    """Return what the predictor makes of paths after recorded steps, ``nan`` where it knows nothing."""
    return _of_paths(_after(space, trained), space, paths)


def predicted_meanwhile(
    space: Mapping[str, Any], trained: Mapping[str, Any], paths: Sequence[Mapping[str, Any]], parts: int
) -> list[tuple[float, Prediction]]:
    """Return the same after each of equal parts of the recorded steps, with the share of the steps so far."""
    return [(share, _of_paths(own, space, paths)) for share, own in _replay_parts(space, trained, parts)]


def _of_paths(predictor: PathPredictor, space: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> Prediction:
    if predictor.problem:
        return Prediction(np.full(len(paths), np.nan), np.full(len(paths), np.nan))
    return predictor.predict(_decoded(*_hashable(space), tuple(map(path_key, paths))))


def informed(space: Mapping[str, Any], trained: Mapping[str, Any]) -> bool:
    """Return whether the predictor knew more than noise after recorded steps."""
    return _after(space, trained).informed


def _after(space: Mapping[str, Any], trained: Mapping[str, Any]) -> PathPredictor:
    sizes = trained.get("sizes")
    steps = tuple(trained["columns"]), tuple(trained["losses"]), None if sizes is None else tuple(sizes)
    return _replayed(*_hashable(space), *steps)


def predict(space: Mapping[str, Any], trained: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the mean of the same: the higher the better."""
    return [float(value) for value in predicted(space, trained, paths).mean]


def supernet_of(space: Mapping[str, Any]) -> Supernet:
    """Return a supernet of a space, given by ``name`` and ``arguments``, that is never trained."""
    return _supernet(*_hashable(space))


def _hashable(space: Mapping[str, Any]) -> tuple[str, str]:
    return space["name"], json.dumps(space["arguments"], sort_keys=True)


@lru_cache(maxsize=64)  # a table asks for several sets of paths
def _replayed(
    name: str, arguments: str, columns: tuple[str, ...], losses: tuple[float, ...], sizes: tuple[float, ...] | None
) -> PathPredictor:
    space = {"name": name, "arguments": json.loads(arguments)}
    return replay(space, {"columns": columns, "losses": losses, "sizes": sizes})


@lru_cache(maxsize=1)
def _supernet(name: str, arguments: str) -> Supernet:
    return Supernet(CreamStrategy(board_size=1).mutate_model(spaces.create(name, **json.loads(arguments))))


@lru_cache(maxsize=64)  # the boards of all trainings, and the architectures of the truth
def _decoded(name: str, arguments: str, keys: tuple[str, ...]) -> list[Path]:
    supernet = _supernet(name, arguments)
    return [supernet.decode(json.loads(key)) for key in keys]
