"""A teacher's part in a training step: its forward pass, the gate, and the joint loss (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nni_cream.errors import SearchError
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.ranks import Ranks
from nni_cream.search.scoring.scores import Score
from nni_cream.search.scoring.validation_subset import split_batch
from nni_cream.search.settings import Teaching
from nni_cream.search.supernet.forward_recorder import Call
from nni_cream.search.supernet.frozen import used_parameters
from nni_cream.search.supernet.outputs import main_output
from nni_cream.search.supernet.supernet import Supernet
from nni_cream.search.teaching.joint_loss import JOINT_LOSSES
from nni_cream.search.teaching.losses import Distillation
from nni_cream.search.teaching.matchers import Match
from nni_cream.search.teaching.weight_average import WeightAverage
from nni_cream.search.user_functions import failures_of

__all__ = ["Distiller", "Lesson"]


@dataclass(frozen=True)
class Lesson:
    """What a teacher says in a step.

    Parameters
    ----------
    loss
        KD, shape ().
    gate
        Whether it counts. A tensor of shape () on the device is known only once somebody reads it.
    """

    loss: Tensor
    gate: Tensor | bool


class Distiller:
    """Lets a board entry teach the path in training.

    Parameters
    ----------
    supernet
        Holds student and teacher as paths.
    teaching
        How the teacher teaches.
    distillation
        Loss between student and teacher.
    score
        Decides about the gate, sample by sample.
    average
        Average of the supernet's weights, for ``teaching.weights: average``.
    ranks
        The processes that train together.
    """

    def __init__(
        self,
        supernet: Supernet,
        teaching: Teaching,
        distillation: Distillation,
        score: Score,
        average: WeightAverage | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._supernet = supernet
        self._teaching = teaching
        self._distillation = distillation
        self._loss = distillation.at(teaching.temperature)
        self._score = score
        self._average = average if teaching.weights == "average" else None
        self._ranks = ranks or Ranks()
        self.joint_loss = JOINT_LOSSES[teaching.joint_loss]

    def teach(self, student: Path, match: Match, calls: Sequence[Call], batch: Any) -> Lesson:
        """Compute KD of the student's forward passes against the teacher's on the same inputs.

        The student is the active path again afterwards. Raises SearchError if the student ran without gradients, or the
        user's functions fail.
        """
        # Validation or logging code in training_step may run the model, too; only passes with gradients train.
        passes = [call for call in calls if main_output(call.output).requires_grad]
        if not passes:
            raise SearchError(
                "training_step did not run the model with gradients; expected one run, whose outputs are distilled. "
                "Call self.model(x) (or self(x)) in training_step, or use matching='none'."
            )
        students = [main_output(call.output) for call in passes]
        teachers = self._teach(match.entry.path, passes)
        # Gradient checkpointing runs parts of the network again during the backward pass, as the path that is active.
        self._supernet.activate(student)
        gate = self._gate(teachers, students, batch) if self._teaching.gate else True
        if isinstance(gate, Tensor):
            students = [_behind(gate, student) for student in students]
        with failures_of("distillation", self._distillation.loss):
            # training_step may run the model several times (two views of an image): each pass teaches alike.
            losses = [self._loss(student, teacher) for student, teacher in zip(students, teachers, strict=True)]
            return Lesson(torch.stack(losses).mean(), gate)

    def joined(self, lesson: Lesson, weight: float, task_loss: Tensor) -> Tensor:
        """Return the joint loss with rho = ``weight``, or the task loss where the gate is closed; shape ()."""
        if lesson.gate is False:
            return task_loss
        joint = self.joint_loss.value(weight, lesson.loss, task_loss)
        return joint if lesson.gate is True else torch.where(lesson.gate, joint, task_loss)

    def _teach(self, path: Path, passes: Sequence[Call]) -> list[Tensor]:
        self._supernet.activate(path)
        with self._weights(path), self._supernet.detached():
            return [main_output(self._supernet.space(*call.args, **call.kwargs)) for call in passes]

    @contextmanager
    def _weights(self, path: Path) -> Iterator[None]:
        """Inside, the teacher has the weights that it teaches with; only its own path's are exchanged."""
        if self._average is None:
            yield
            return
        # The cache would hand out 16-bit casts of the student's weights; clearing also drops the casts made here.
        torch.clear_autocast_cache()
        with self._average.applied(used_parameters(self._supernet.space, path)):
            yield

    @torch.no_grad()
    def _gate(self, teachers: Sequence[Tensor], students: Sequence[Tensor], batch: Any) -> Tensor | bool:
        """Whether the teacher has the higher score on the batch; a tie does not count.

        Each rank sees another batch. One sum opens the gate in all of them or in none, so gradients still match.
        """
        targets, score = split_batch(batch)[1], self._score
        outputs = [*teachers, *(student.detach() for student in students)]
        if score.value is None:
            # The device compares the sums, which are not rounded, and need not wait for this process to read them.
            theirs, own = score.totals(outputs, targets).chunk(2)
            return self._ranks.mean([(theirs - own).sum()])[0] > 0
        figures = [score.of(sums, len(targets)) for sums in score.sums_of_each(outputs, targets)]
        lead = sum(figures[: len(teachers)]) - sum(figures[len(teachers) :])
        return bool(sum(self._ranks.gather(lambda: lead)) > 0)


def _behind(gate: Tensor, output: Tensor) -> Tensor:
    """Return the output behind a gate, which lets no gradient of a closed one through."""
    behind = output.view_as(output)
    # Multiplied by 0, a gradient that is not finite would stay so.
    behind.register_hook(lambda gradient: torch.where(gate, gradient, gradient.new_zeros(())))
    return behind
