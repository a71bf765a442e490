"""Which path is trained next (METHOD.md, "The loop", step 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from nni_cream.errors import ConfigError
from nni_cream.search.board import PrioritizedBoard
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.random_paths import RandomPaths

__all__ = ["SAMPLERS", "PathSampler", "UniformSampler", "resolve_sampler"]


class PathSampler(ABC):
    """Decides which path is trained next. Subclass it for a sampler of your own; only :meth:`draw` is required.

    Draw randomness from ``self.paths.generator``: checkpoints hold its state, so a resumed search draws the same paths,
    and so does every process of a distributed one.

    Attributes
    ----------
    paths
        The paths of the space within the cost ranges: uniform draws, tests, mutations.
    board
        The live board.
    """

    paths: RandomPaths
    board: PrioritizedBoard

    def begin(self, paths: RandomPaths, board: PrioritizedBoard) -> None:
        """Start a search and forget every earlier one; see :attr:`paths` and :attr:`board`."""
        # The board itself, not a copy: a sampler sees each entry at once.
        self.paths, self.board = paths, board

    @abstractmethod
    def draw(self) -> Path:
        """Return the next path; it keeps the cost ranges (``self.paths.allows``)."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state beyond that of ``self.paths``, which checkpoints hold anyway."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state."""


class UniformSampler(PathSampler):
    """Every architecture within the cost ranges with the same probability."""

    def draw(self) -> Path:
        """Draw a path uniformly."""
        return self.paths.draw()


SAMPLERS: dict[str, type[PathSampler]] = {"uniform": UniformSampler}


def resolve_sampler(sampling: str | PathSampler) -> PathSampler:
    """Return the sampler of a name, or the user's own; raise ConfigError for anything else."""
    if isinstance(sampling, PathSampler):
        return sampling
    # Only names here: configuration files turn `package.module:Class` into an object before.
    if isinstance(sampling, str) and sampling in SAMPLERS:
        # A new object each time: two searches in one process must not share state.
        return SAMPLERS[sampling]()
    raise ConfigError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLERS)}, or a PathSampler.")
