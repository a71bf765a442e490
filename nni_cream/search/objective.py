"""What is distilled and what is scored: two small functions that a user may replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import ConfigError, CreamError, SearchError

__all__ = [
    "DISTILLATIONS",
    "MATCH_INPUTS",
    "SCORES",
    "Distillation",
    "Score",
    "failures_of",
    "function_name",
    "main_output",
    "mean_squared_error",
    "negative_squared_error",
    "resolve_distillation",
    "resolve_score",
    "soft_cross_entropy",
    "top1",
]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def main_output(output: Any) -> Tensor:
    """Pick the tensor to work with from what a network returns.

    Parameters
    ----------
    output
        A tensor, a sequence whose first item is it (further ones are auxiliary heads), or a mapping with ``logits``.

    Returns
    -------
    Tensor
        The logits, or whatever the network's main output is.

    Raises
    ------
    TypeError
        If there is no tensor.
    """
    if isinstance(output, Mapping):
        output = output["logits"]
    while isinstance(output, list | tuple):
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returned {type(output).__name__}; expected a tensor, tuple or dict")
    return output


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function, or of the class of a callable object."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


@contextmanager
def failures_of(role: str, function: Callable[..., Any]) -> Iterator[None]:
    """Whatever a function that the user may replace raises inside says which function it was.

    Parameters
    ----------
    role
        What the function is for, such as ``"score"``.
    function
        The function.

    Raises
    ------
    SearchError
        With the error as its cause.
    """
    try:
        yield
    except CreamError:
        raise
    except Exception as error:
        raise SearchError(
            f"the {role} function {function_name(function)!r} raised {type(error).__name__}: {error}"
        ) from error


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's logits with the teacher's softmax as target (paper, section 3.3, L_KD).

    Parameters
    ----------
    student
        Logits with gradient, shape (N, classes, ...).
    teacher
        Logits of the same shape.
    temperature
        T, which both logits are divided by. The loss is multiplied by T squared, so that its gradient keeps its size
        (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2).

    Returns
    -------
    Tensor
        Mean over the batch, shape ().
    """
    student = student.float() if student.dtype.itemsize < 4 else student
    teacher = teacher.to(student.dtype)
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    log_probabilities = functional.log_softmax(student, dim=1)
    targets = functional.softmax(teacher, dim=1)
    loss = -(targets * log_probabilities).sum(dim=1).mean()
    return loss if temperature == 1 else temperature**2 * loss


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two outputs of the same shape, for regression; shape ()."""
    return functional.mse_loss(student, teacher.to(student.dtype))


def top1(output: Tensor, target: Tensor) -> Tensor:
    """1 where the largest logit is the label's, 0 elsewhere.

    Parameters
    ----------
    output
        Logits, shape (N, classes).
    target
        Labels, shape (N,).

    Returns
    -------
    Tensor
        Shape (N,).
    """
    return (output.argmax(dim=1) == target).to(torch.float32)


def negative_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Minus the squared error of each sample, mean over its values; shape (N,). The best is 0."""
    target = target.to(output.dtype).reshape(output.shape)
    return -(output - target).square().flatten(1).mean(dim=1)


def _probabilities(output: Tensor) -> Tensor:
    return functional.softmax(output.float(), dim=1)


def _as_is(output: Tensor) -> Tensor:
    return output.float()


@dataclass(frozen=True)
class Distillation:
    """A distillation loss and what of an output the meta network compares.

    Parameters
    ----------
    loss
        ``loss(student output, teacher output)`` -> tensor of shape ().
    features
        Maps an output of shape (N, ...) to what two paths are compared by: the softmax for classification (paper,
        section 3.2), the output itself otherwise.
    """

    loss: LossFunction
    features: Callable[[Tensor], Tensor] = _as_is


@dataclass(frozen=True)
class Score:
    """A score of each sample; a path's score is its mean over the validation subset.

    Parameters
    ----------
    function
        ``function(output, target)`` -> shape (N,), higher is better.
    upper_bound
        The largest value that a sample can have; ``None`` if unknown, then candidates are rejected early
        only where ``rejection_confidence`` says so.
    """

    function: LossFunction
    upper_bound: float | None = None


MATCH_INPUTS = ("probabilities", "logits")
DISTILLATIONS: dict[str, Distillation] = {
    "soft_cross_entropy": Distillation(soft_cross_entropy, _probabilities),
    "mean_squared_error": Distillation(mean_squared_error),
}
SCORES: dict[str, Score] = {
    "top1": Score(top1, 1.0),
    "negative_squared_error": Score(negative_squared_error, 0.0),
}


def resolve_distillation(
    distillation: str | LossFunction | Distillation, match_input: str = "probabilities"
) -> Distillation:
    """Look up a distillation by name, or wrap the user's own function.

    Parameters
    ----------
    distillation
        A name, a function, or one that is complete.
    match_input
        What of classification's outputs the meta network compares: one of ``MATCH_INPUTS``.

    Returns
    -------
    Distillation
        With everything the search needs.

    Raises
    ------
    ConfigError
        If the name is unknown or the value is not callable, or if logits are to be compared where there are none.
    """
    if match_input not in MATCH_INPUTS:
        raise ConfigError(f"match_input is {match_input!r}; expected one of {', '.join(MATCH_INPUTS)}")
    if match_input == "logits":
        if distillation not in ("soft_cross_entropy", DISTILLATIONS["soft_cross_entropy"]):
            raise ConfigError(
                f"match_input is 'logits', but distillation is {_name_of(distillation)}; only with "
                "'soft_cross_entropy' are there probabilities to compare or not, so leave match_input out"
            )
        return Distillation(soft_cross_entropy)
    if isinstance(distillation, Distillation):
        return distillation
    if isinstance(distillation, str) and distillation in DISTILLATIONS:
        return DISTILLATIONS[distillation]
    if callable(distillation):
        return Distillation(distillation)
    raise ConfigError(
        f"distillation is {distillation!r}; expected one of {sorted(DISTILLATIONS)} or a function of the student's "
        "and the teacher's output that returns a loss"
    )


def _name_of(distillation: str | LossFunction | Distillation) -> str:
    if isinstance(distillation, str):
        return repr(distillation)
    return function_name(distillation.loss if isinstance(distillation, Distillation) else distillation)


def resolve_score(score: str | LossFunction | Score) -> Score:
    """Look up a score by name, or wrap the user's own function.

    Parameters
    ----------
    score
        A name, a function, or one that is complete.

    Returns
    -------
    Score
        With everything the search needs.

    Raises
    ------
    ConfigError
        If the name is unknown or the value is not callable.
    """
    if isinstance(score, Score):
        return score
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    if callable(score):
        return Score(score)
    raise ConfigError(
        f"score is {score!r}; expected one of {sorted(SCORES)} or a function of output and target that returns one "
        "value a sample, higher is better"
    )
