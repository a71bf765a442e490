"""What happened in the training steps of an epoch: draws, matches, updates of the meta network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nni_cream.search.paths.encoded_path import encode_path
from nni_cream.search.teaching.matchers import Match

__all__ = ["Tally", "Teacher"]


@dataclass
class Teacher:
    """A board entry that taught.

    Parameters
    ----------
    path
        Encoded path (:func:`~nni_cream.search.paths.encoded_path.encode_path`) of the entry, which may
        have left the board since.
    count
        Training steps that it was the teacher in.
    """

    path: dict[str, Any]
    count: int = 0


@dataclass
class Tally:
    """Counts since the last epoch ended; a few additions a step.

    Parameters
    ----------
    drawn
        Paths that were drawn and trained.
    rejected
        Draws thrown away, because of the cost range or a constraint of the space.
    meta_updates
        Steps of the meta network.
    matched
        Training steps for which a teacher was picked.
    weight_sum
        Sum of their match weights rho.
    distilled
        Training steps that a teacher taught in: a gate or a threshold may have left one out.
    """

    drawn: int = 0
    rejected: int = 0
    meta_updates: int = 0
    matched: int = 0
    weight_sum: float = 0.0
    distilled: int = 0
    _teachers: dict[str, Teacher] = field(default_factory=dict)

    @property
    def mean_weight(self) -> float | None:
        """Mean of rho over the steps for which a teacher was picked, ``None`` if there was none."""
        return self.weight_sum / self.matched if self.matched else None

    @property
    def distilled_share(self) -> float:
        """Share of the training steps that distilled; 0 before the first."""
        return self.distilled / self.drawn if self.drawn else 0.0

    @property
    def teachers(self) -> list[Teacher]:
        """All entries that taught, the most frequent first; those that taught equally often in order of their paths."""
        return [teacher for _, teacher in sorted(self._teachers.items(), key=lambda item: (-item[1].count, item[0]))]

    def add_draw(self, rejected: int) -> None:
        """Count a path that was drawn, after so many that were thrown away."""
        self.drawn += 1
        self.rejected += rejected

    def add_match(self, match: Match) -> None:
        """Count a training step for which this teacher was picked; it may still be left out."""
        self.matched += 1
        self.weight_sum += match.weight

    def add_distillation(self, match: Match) -> None:
        """Count a training step that this teacher taught in."""
        self.distilled += 1
        teacher = self._teachers.get(match.entry.key)
        if teacher is None:
            teacher = self._teachers[match.entry.key] = Teacher(encode_path(match.entry.path))
        teacher.count += 1

    def add_meta_update(self) -> None:
        """Count a step of the meta network."""
        self.meta_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the counts for a checkpoint."""
        return {
            "counts": [self.drawn, self.rejected, self.meta_updates, self.matched],
            "weight_sum": self.weight_sum,
            "distilled": self.distilled,
            "teachers": [[key, dict(teacher.path), teacher.count] for key, teacher in self._teachers.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where the saved tally stood."""
        self.drawn, self.rejected, self.meta_updates, self.matched = state["counts"]
        self.weight_sum = state["weight_sum"]
        self.distilled = state.get("distilled", self.matched)  # before there were gates, every teacher taught
        self._teachers = {key: Teacher(path, count) for key, path, count in state["teachers"]}
