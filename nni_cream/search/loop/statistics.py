"""Statistics of the training steps of an epoch: draws, matches, updates of the meta network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nni_cream.search.board import BoardEntry
from nni_cream.search.paths.encoded_path import encode_path
from nni_cream.search.teaching.matchers import Match

__all__ = ["Tally", "Teacher", "board_figures"]


@dataclass
class Teacher:
    """A board entry that taught; it may have left the board since."""

    path: dict[str, Any]  # encoded, since an epoch's record outlives the entry
    count: int = 0


@dataclass
class Tally:
    """Counts since the last epoch ended."""

    drawn: int = 0
    rejected: int = 0  # draws outside the cost range or against a constraint of the space
    meta_updates: int = 0
    matched: int = 0  # steps with a teacher, the base of the mean of rho
    weight_sum: float = 0.0
    _distilled: int = 0  # fewer than matched where the gate closes
    _teachers: dict[str, Teacher] = field(default_factory=dict)
    _unread: list[tuple[BoardEntry, Tensor]] = field(default_factory=list)  # gates that the device alone knows yet

    @property
    def mean_weight(self) -> float | None:
        """Mean of rho over the steps with a teacher; ``None`` without any."""
        return self.weight_sum / self.matched if self.matched else None

    @property
    def distilled(self) -> int:
        """Training steps that distilled."""
        self._read_gates()
        return self._distilled

    @property
    def distilled_share(self) -> float:
        """Share of the training steps that distilled; 0 before the first."""
        return self.distilled / self.drawn if self.drawn else 0.0

    @property
    def teachers(self) -> list[Teacher]:
        """All entries that taught, the most frequent first; ties in order of their paths."""
        self._read_gates()
        return [teacher for _, teacher in sorted(self._teachers.items(), key=lambda item: (-item[1].count, item[0]))]

    def add_draw(self, rejected: int) -> None:
        """Count a drawn path and the draws rejected before it."""
        self.drawn += 1
        self.rejected += rejected

    def add_match(self, match: Match) -> None:
        """Count a training step with this teacher; its gate may still close."""
        self.matched += 1
        self.weight_sum += match.weight

    def add_lesson(self, match: Match, gate: Tensor | bool) -> None:
        """Count that this teacher taught in a training step, if its gate is open; a tensor is read later."""
        if isinstance(gate, Tensor):
            self._unread.append((match.entry, gate))
        elif gate:
            self._add_distillation(match.entry)

    def _read_gates(self) -> None:
        if not self._unread:
            return
        # All at once: an accelerator waits at each read.
        open_ = torch.stack([gate for _, gate in self._unread]).tolist()
        for (entry, _), flag in zip(self._unread, open_, strict=True):
            if flag:
                self._add_distillation(entry)
        self._unread.clear()

    def _add_distillation(self, entry: BoardEntry) -> None:
        self._distilled += 1
        teacher = self._teachers.get(entry.key)
        if teacher is None:
            teacher = self._teachers[entry.key] = Teacher(encode_path(entry.path))
        teacher.count += 1

    def add_meta_update(self) -> None:
        """Count a step of the meta network."""
        self.meta_updates += 1

    def figures(self) -> dict[str, float]:
        """Return the counts by the names that are logged."""
        return {
            "sampler_drawn": float(self.drawn),
            "sampler_rejected": float(self.rejected),
            "meta_updates": float(self.meta_updates),
            "distilled": self.distilled_share,
            # Always one: Lightning repeats the last that was logged, and a resumed training knows of none.
            "match_weight": self.mean_weight or 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counts for a checkpoint."""
        return {
            "counts": [self.drawn, self.rejected, self.meta_updates, self.matched],
            "weight_sum": self.weight_sum,
            "distilled": self.distilled,
            "teachers": [[key, dict(teacher.path), teacher.count] for key, teacher in self._teachers.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts of a checkpoint."""
        self.drawn, self.rejected, self.meta_updates, self.matched = state["counts"]
        self._unread.clear()
        self.weight_sum = state["weight_sum"]
        self._distilled = state.get("distilled", self.matched)  # before there were gates, every teacher taught
        self._teachers = {key: Teacher(path, count) for key, path, count in state["teachers"]}


def board_figures(entries: Sequence[BoardEntry]) -> dict[str, float]:
    """Return what is logged of a board, whose entries come best first."""
    size = {"board_size": float(len(entries))}
    if not entries:
        return size
    return {
        **size,
        "board_best": entries[0].accuracy,
        "board_worst": entries[-1].accuracy,
        "board_mean": sum(entry.accuracy for entry in entries) / len(entries),
        "board_cost_mean": sum(entry.cost for entry in entries) / len(entries),
    }
