"""Chooses the path that is scored next: the best predicted one, or one that was just trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni_cream.search.board import PrioritizedBoard
from nni_cream.search.paths.best_path import best_predicted
from nni_cream.search.paths.encoded_path import Path, encode_path
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.scoring.candidates import Trained
from nni_cream.search.scoring.predictor import PathPredictor

__all__ = ["Proposals"]

_EXPLORED = 2  # every second candidate is a trained one, which the predictor may be wrong about


class Proposals:
    """Proposes candidates for the board.

    Of the paths trained since the last scoring, the one of the lowest loss is the candidate. Each path saw another
    batch, so this is noisy, but it is free, while a scoring costs several training steps. With ``predicted``, every
    second candidate is the best path that the predictor knows of instead: within all cost ranges, not on the board, and
    not a candidate of this epoch. So are all of the last ones, at the end of the search, when it knows most.

    Parameters
    ----------
    predictor
        Learns from every step.
    board
        For which the candidates are.
    paths
        Knows the cost ranges.
    predicted
        Whether the predictor proposes.
    """

    def __init__(self, predictor: PathPredictor, board: PrioritizedBoard, paths: RandomPaths, predicted: bool) -> None:
        self._predictor = predictor
        self._board = board
        self._paths = paths
        self._predicted = predicted
        self._recent: list[Path] = []
        self._number = 0

    def learn(self, trained: Sequence[Trained]) -> None:
        """Let the predictor learn from training steps, each once; to be called in all processes."""
        self._predictor.observe([step.path for step in trained], [step.loss for step in trained])

    def choose(self, trained: Sequence[Trained]) -> Path | None:
        """Return the next candidate.

        Parameters
        ----------
        trained
            The training steps since the last scoring.

        Returns
        -------
        Path or None
            ``None`` if all of them are on the board.
        """
        trained = [step for step in trained if step.competes]
        wanted = [(step.loss, place) for place, step in enumerate(trained) if step.path not in self._board]
        latest = trained[min(wanted)[1]].path if wanted else None
        if not trained or self._number % _EXPLORED == 0:
            return latest
        return self._best([step.path for step in trained]) or latest

    def choose_last(self) -> Path | None:
        """Return the best path that the predictor knows of; ``None`` if there is none, or it does not propose."""
        return self._best([entry.path for entry in self._board.entries])

    @property
    def informed(self) -> bool:
        """Whether the predictor proposes, and knows more than noise."""
        return self._predicted and self._predictor.informed

    def _best(self, starts: Sequence[Path]) -> Path | None:
        if not starts or not self.informed:
            return None
        excluded = [*(entry.path for entry in self._board.entries), *self._recent]
        return best_predicted(self._predictor, self._paths, excluded, starts)

    def note(self, path: Path) -> None:
        """Remember a candidate; to be called in all processes."""
        self._number += 1
        if self._predicted:
            self._recent.append(path)

    def forget(self) -> None:
        """Begin an epoch: the weights have moved, so each path may be a candidate again."""
        self._recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"number": self._number, "recent": [encode_path(path) for path in self._recent]}

    def load_state_dict(self, state: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Path]) -> None:
        """Restore a saved state."""
        self._number = state["number"]
        self._recent = [decode(path) for path in state["recent"]]
