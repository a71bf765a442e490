"""The gradient that the meta network learns from (METHOD.md, "The exact meta gradient")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nni_cream.search.teaching.joint_loss import JOINT_LOSSES, JointLoss

__all__ = ["match_weight_gradient"]


def match_weight_gradient(
    parameters: Sequence[Tensor],
    distillation_loss: Tensor,
    task_loss: Tensor,
    weight: float,
    step_size: float,
    validation_losses: Callable[[], Iterable[Tensor]],
    loss_scale: float = 1.0,
    joint_loss: JointLoss = JOINT_LOSSES["mix"],
) -> float:
    """Differentiate the validation loss after a virtual step with respect to the match weight.

    With L = [rho KD + (2 - rho) CE] / 2 and W' = W - xi grad L(W), neither grad KD nor grad CE depends on rho, so

        d L_val(W') / d rho = -xi < grad L_val(W'), (grad KD - grad CE) / 2 >

    exactly, with no second graph (METHOD.md, "The exact meta gradient"). With another joint loss, grad dL/d rho stands
    in the place of (grad KD - grad CE) / 2.

    Parameters
    ----------
    parameters
        The supernet's weights; those that the path does not use get no gradient and are left out.
    distillation_loss
        KD of the student on the training batch, with its graph, shape ().
    task_loss
        CE likewise.
    weight
        rho.
    step_size
        xi, learning rate of the virtual SGD step.
    validation_losses
        Runs the student on validation images with whatever the parameters hold; yields, part by part, what adds up to
        its loss. Each part's graph is let go before the next one is made.
    loss_scale
        What losses are multiplied by while they are differentiated, so that small gradients of 16-bit floats are not
        rounded to 0; the outcome is that of a scale of 1.
    joint_loss
        What L is of KD, CE and rho.

    Returns
    -------
    float
        d L_val / d rho. Every parameter holds the same bits as before.
    """
    distillation = torch.autograd.grad(distillation_loss * loss_scale, parameters, retain_graph=True, allow_unused=True)
    task = torch.autograd.grad(task_loss * loss_scale, parameters, allow_unused=True)
    used = [
        (parameter, _or_zero(kd, parameter) / loss_scale, _or_zero(ce, parameter) / loss_scale)
        for parameter, kd, ce in zip(parameters, distillation, task, strict=True)
        if kd is not None or ce is not None
    ]
    students = [parameter for parameter, _, _ in used]
    steps = [joint_loss.value(weight, kd, ce) * -step_size for _, kd, ce in used]
    total = torch.zeros((), dtype=torch.float64, device=students[0].device)
    with _shifted(students, steps):
        for loss in validation_losses():
            gradients = torch.autograd.grad(loss * loss_scale, students, allow_unused=True)
            total += _inner_product(gradients, (joint_loss.slope(kd.double(), ce.double()) for _, kd, ce in used))
    return -step_size * float(total) / loss_scale


def _inner_product(gradients: Sequence[Tensor | None], slopes: Iterable[Tensor]) -> Tensor:
    """< grad L_val, grad dL/d rho > in float64; the slopes come one by one, so that no two are in memory at once."""
    products = [
        (gradient.double() * slope).sum()
        for gradient, slope in zip(gradients, slopes, strict=True)
        if gradient is not None
    ]
    return torch.stack(products).sum() if products else torch.zeros(())


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


@contextmanager
def _shifted(parameters: Sequence[Tensor], steps: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters are moved by the steps; afterwards they are bit for bit what they were."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(step)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
