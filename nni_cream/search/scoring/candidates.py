"""The budget of scoring: how often, how many entries of the board, and which of the trained paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nni_cream.search.paths.encoded_path import Path, encode_path
from nni_cream.search.ranks import Ranks

__all__ = ["CandidateWindow", "Trained", "rescored_entries", "scoring_interval"]

_SCORED_SHARE = 0.05  # images scored for each image trained on


def scoring_interval(interval: int | None, images: int, batch_size: int) -> int:
    """Return the training steps between two scorings once the board is full; ``None`` derives them."""
    # [ours] Scoring then adds one or two per cent to the cost of the training, whatever the data.
    return max(1, round(images / (_SCORED_SHARE * batch_size))) if interval is None else interval


def rescored_entries(images: int, trained: int) -> float:
    """Return how many entries one rescoring may score in the mean, below one after a short epoch."""
    # [ours] The same share, so that short epochs do not pay for rescoring a whole board each time.
    return _SCORED_SHARE * trained / images


class Trained(NamedTuple):
    """One training step: its path, the task loss of its batch, and whether the path may be a candidate."""

    path: Path
    loss: float
    competes: bool = True


class CandidateWindow:
    """The paths trained since the last scoring, each with its loss on its training batch."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._losses: list[Tensor] = []
        self._competing: list[bool] = []

    def add(self, path: Path, loss: Tensor | None, competes: bool = True) -> None:
        """Add the path and task loss of a step, shape (); ``None`` for a skipped step."""
        if loss is not None:
            self._paths.append(path)
            self._losses.append(loss.detach().float())
            self._competing.append(competes)

    def take(self, ranks: Ranks) -> list[Trained]:
        """Return the steps, their losses added up over the ranks, and begin a new window."""
        paths, losses, competing = self._paths, self._losses, self._competing
        self._paths, self._losses, self._competing = [], [], []
        # Read all at once: each look at a single loss would stall an accelerator's queue.
        every = ranks.gather(lambda: torch.stack(losses).tolist() if losses else [])
        sums = [sum(own) for own in zip(*every, strict=True)]
        return [Trained(*step) for step in zip(paths, sums, competing, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the window as plain values and a tensor."""
        losses = torch.stack(self._losses).cpu() if self._losses else torch.zeros(0)
        return {
            "paths": [encode_path(path) for path in self._paths],
            "losses": losses,
            "competing": list(self._competing),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Path], device: torch.device
    ) -> None:
        """Restore a saved window."""
        self._paths = [decode(path) for path in state["paths"]]
        self._losses = list(state["losses"].to(device).unbind())
        # A window saved before 2026-11-29 holds no step of the warm-up.
        self._competing = list(state.get("competing", [True] * len(self._paths)))
