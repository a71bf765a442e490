"""Distillation losses: built in, or a function of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.user_functions import function_name

__all__ = [
    "DISTILLATIONS",
    "Distillation",
    "LossFunction",
    "binary_cross_entropy",
    "mean_squared_error",
    "resolve_distillation",
    "soft_cross_entropy",
]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's logits with the teacher's softmax as target (paper, section 3.3, L_KD).

    Parameters
    ----------
    student
        Logits with gradient, shape (N, classes, ...).
    teacher
        Logits of the same shape.
    temperature
        T, the divisor of both logits (Hinton, Vinyals and Dean, 2015, section 2).

    Returns
    -------
    Tensor
        Mean over the batch and further dimensions, shape ().

    Raises
    ------
    SearchError
        If there is a single logit, whose softmax is 1 whatever its value.
    """
    _check_several(student)
    student, teacher = _precise(student, teacher)
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    log_probabilities = functional.log_softmax(student, dim=1)
    targets = functional.softmax(teacher, dim=1)
    loss = -(targets * log_probabilities).sum(dim=1).mean()
    # Gradients shrink with 1 / T squared; the factor keeps their size beside CE (Hinton et al., section 2).
    return loss if temperature == 1 else temperature**2 * loss


def binary_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student's logits with the teacher's sigmoid as target, for one logit or several labels.

    Both have the same shape (N, ...); the mean over all values has shape ().
    """
    student, teacher = _precise(student, teacher)
    return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two outputs of the same shape, for regression; shape ()."""
    return functional.mse_loss(student, teacher.to(student.dtype))


def _precise(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    # A softmax over many classes loses small probabilities in 16 bits.
    student = student.float() if student.dtype.itemsize < 4 else student
    # The teacher may have run under autocast: both sides need one precision.
    return student, teacher.to(student.dtype)


def _check_several(output: Tensor) -> None:
    if output.ndim < 2 or output.shape[1] == 1:
        raise SearchError(
            f"distillation is 'soft_cross_entropy' for outputs {(*output.shape,)}; expected logits (N, classes, ...) "
            "of two classes or more: the softmax of one logit teaches nothing. Take 'binary_cross_entropy' for one "
            "logit, 'mean_squared_error' for regression, or matching='none'"
        )


def _probabilities(output: Tensor) -> Tensor:
    _check_several(output)
    return functional.softmax(output.float(), dim=1)


def _sigmoid(output: Tensor) -> Tensor:
    return torch.sigmoid(output.float())


def _as_is(output: Tensor) -> Tensor:
    return output.float()


@dataclass(frozen=True)
class Distillation:
    """A distillation loss and the part of an output that the meta network compares.

    Parameters
    ----------
    loss
        ``loss(student output, teacher output)`` -> tensor of shape ().
    features
        Maps an output of shape (N, ...) to the features of a path: the softmax for classification (paper, section
        3.2), the output itself otherwise.
    """

    loss: LossFunction
    features: Callable[[Tensor], Tensor] = _as_is

    @property
    def name(self) -> str:
        """Name of the loss."""
        return function_name(self.loss)

    def at(self, temperature: float) -> LossFunction:
        """Return the loss at a temperature, which ``soft_cross_entropy`` alone has."""
        return self.loss if temperature == 1 else partial(soft_cross_entropy, temperature=temperature)


DISTILLATIONS: dict[str, Distillation] = {
    "soft_cross_entropy": Distillation(soft_cross_entropy, _probabilities),
    "binary_cross_entropy": Distillation(binary_cross_entropy, _sigmoid),
    "mean_squared_error": Distillation(mean_squared_error),
}


def resolve_distillation(distillation: str | LossFunction | Distillation) -> Distillation:
    """Return a distillation by its name, or wrap the user's function; raise ConfigError for anything else."""
    if isinstance(distillation, Distillation):
        return distillation
    if isinstance(distillation, str) and distillation in DISTILLATIONS:
        return DISTILLATIONS[distillation]
    if callable(distillation):
        # Nothing is known of the user's outputs, so paths are compared by the outputs as they are.
        return Distillation(distillation)
    raise ConfigError(
        f"distillation is {distillation!r}; expected one of {sorted(DISTILLATIONS)} or a function of the student's and "
        "the teacher's output that returns a loss."
    )
