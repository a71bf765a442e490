"""What a teacher does to a training step: its forward pass, the gate, and the joint loss (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nni_cream.errors import SearchError
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.scoring.scorer import split_batch, sum_of_scores
from nni_cream.search.supernet.forward_recorder import Call
from nni_cream.search.supernet.frozen import used_parameters
from nni_cream.search.supernet.outputs import main_output
from nni_cream.search.supernet.supernet import Supernet
from nni_cream.search.teaching.joint_loss import JOINT_LOSSES
from nni_cream.search.teaching.matchers import Match
from nni_cream.search.teaching.weight_average import WeightAverage
from nni_cream.search.user_functions import failures_of

if TYPE_CHECKING:
    from nni_cream.search.settings import SearchSettings

__all__ = ["Distiller"]


class Distiller:
    """Lets a board entry teach the path that is being trained.

    Parameters
    ----------
    supernet
        That student and teacher are paths of.
    settings
        What is distilled, and when.
    average
        Of the supernet's weights, for teachers that take it in place of the weights themselves.
    agree
        Gives all processes the mean of a number, so that a gate is open in all of them or in none.
    """

    def __init__(
        self,
        supernet: Supernet,
        settings: SearchSettings,
        average: WeightAverage | None = None,
        agree: Callable[[float], float] = float,
    ) -> None:
        self._supernet = supernet
        self._settings = settings
        self._average = average if settings.teacher_weights == "average" else None
        self._agree = agree
        self.joint_loss = JOINT_LOSSES[settings.joint_loss]

    def is_worth_it(self, match: Match) -> bool:
        """Return whether a teacher is worth its forward pass; the meta network may say that it would not help."""
        learned = match.evidence is not None
        return not learned or match.weight >= self._settings.teacher_threshold

    def loss(self, match: Match, calls: Sequence[Call], batch: Any) -> Tensor | None:
        """KD of the student's forward passes against the teacher's on the very same inputs.

        Parameters
        ----------
        match
            The teacher, which is the active path afterwards.
        calls
            The student's forward passes.
        batch
            What they belong to; its targets decide about the gate.

        Returns
        -------
        Tensor or None
            Shape (); ``None`` where the gate is closed: the teacher does not beat the student on this batch.

        Raises
        ------
        SearchError
            If the student did not run with gradients, or the user's functions fail.
        """
        passes = [call for call in calls if main_output(call.output).requires_grad]
        if not passes:
            raise SearchError(
                "training_step did not run the model with gradients, so there is nothing to distil; call self.model(x) "
                "(or self(x)) in training_step, or use matching='none'"
            )
        students = [main_output(call.output) for call in passes]
        teachers = self._teach(match.entry.path, passes)
        if self._settings.distillation_gate and not self._beats(teachers, students, batch):
            return None
        loss = self._settings.distillation_loss
        with failures_of("distillation", self._settings.distillation.loss):
            losses = [loss(student, teacher) for student, teacher in zip(students, teachers, strict=True)]
            return torch.stack(losses).mean()

    def _teach(self, path: Path, passes: Sequence[Call]) -> list[Tensor]:
        self._supernet.activate(path)
        with self._weights(path), self._supernet.detached():
            return [main_output(self._supernet.space(*call.args, **call.kwargs)) for call in passes]

    @contextmanager
    def _weights(self, path: Path) -> Iterator[None]:
        """Inside, the teacher has the weights that it is to teach with; the path's own alone are exchanged."""
        if self._average is None:
            yield
            return
        torch.clear_autocast_cache()  # it would hand out the casts of the student's weights; those made here go, too
        with self._average.applied(used_parameters(self._supernet.space, path)):
            yield

    @torch.no_grad()
    def _beats(self, teachers: Sequence[Tensor], students: Sequence[Tensor], batch: Any) -> bool:
        """Whether the teacher has the higher mean score on the batch; a tie does not count."""
        targets, score = split_batch(batch)[1], self._settings.score
        leads = [
            sum_of_scores(score, teacher, targets) - sum_of_scores(score, student.detach(), targets)
            for teacher, student in zip(teachers, students, strict=True)
        ]
        return self._agree(sum(leads)) > 0
