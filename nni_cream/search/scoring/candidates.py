"""What is worth a scoring: how often, how many entries of the board, and which of the paths that were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nni_cream.search.paths.encoded_path import Path, encode_path

__all__ = ["CandidateWindow", "rescored_entries", "scoring_interval"]

_SCORED_SHARE = 0.4  # images scored for each image trained on


def scoring_interval(interval: int | None, images: int, batch_size: int) -> int:
    """Return how many training steps lie between two scorings once the board is full.

    Parameters
    ----------
    interval
        As the user has set it; ``None`` for as many as have 0.4 images scored for each that is trained on, so that
        scoring adds about a tenth to the cost of the training, whatever the data [ours].
    images
        Of the validation subset.
    batch_size
        Of the training, on one device.

    Returns
    -------
    int
        At least 1.
    """
    return max(1, round(images / (_SCORED_SHARE * batch_size))) if interval is None else interval


def rescored_entries(images: int, trained: int) -> int:
    """Return how many entries of the board one rescoring may score, in turns.

    As many as have 0.4 images scored for each image trained on since the last rescoring, so that epochs of any length
    add no more than a tenth of the cost [ours].

    Parameters
    ----------
    images
        Of the validation subset.
    trained
        Images trained on since the last rescoring, on one device.

    Returns
    -------
    int
        At least 1.
    """
    return max(1, int(_SCORED_SHARE * trained / images))


class CandidateWindow:
    """The paths of the steps since the last scoring, with the loss that each had on its training batch.

    That loss is known anyway. It is noisy, since each path sees another batch, but over many paths the lowest is far
    more likely to be of a good one than the latest is [ours: a scoring costs as much as several training steps].
    """

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._losses: list[Tensor] = []

    def add(self, path: Path, loss: Tensor | None) -> None:
        """Take in the path of a step and its task loss, shape (); ``None`` where the step was left out."""
        if loss is not None:
            self._paths.append(path)
            self._losses.append(loss.detach().float())

    def take(self, unwanted: Callable[[Path], bool], mean_over_ranks: Callable[[Tensor], Tensor]) -> Path | None:
        """Return the candidate and begin a new window.

        Parameters
        ----------
        unwanted
            Whether a path need not be scored, as one that is on the board already.
        mean_over_ranks
            Averages a tensor over all processes, which all have the same paths.

        Returns
        -------
        Path or None
            ``None`` if there is no path that is wanted.
        """
        paths, losses = self._paths, self._losses
        self._paths, self._losses = [], []
        if not paths:
            return None
        # Read all at once: each look at a single loss would stall an accelerator's queue.
        means = mean_over_ranks(torch.stack(losses)).tolist()
        wanted = [(loss, place) for place, loss in enumerate(means) if not unwanted(paths[place])]
        return paths[min(wanted)[1]] if wanted else None

    def state_dict(self) -> dict[str, Any]:
        """Return the window as plain values and a tensor."""
        losses = torch.stack(self._losses).cpu() if self._losses else torch.zeros(0)
        return {"paths": [encode_path(path) for path in self._paths], "losses": losses}

    def load_state_dict(
        self, state: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Path], device: torch.device
    ) -> None:
        """Go on with a saved window.

        Parameters
        ----------
        state
            What :meth:`state_dict` returned.
        decode
            Makes paths of encoded ones.
        device
            Where the training computes.
        """
        self._paths = [decode(path) for path in state["paths"]]
        self._losses = list(state["losses"].to(device).unbind())
