"""The gradient that the meta network learns from (METHOD.md, "The exact meta gradient")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nni_cream.search.ranks import Ranks
from nni_cream.search.supernet.gradients import gradients_of
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
    ranks: Ranks | None = None,
) -> float:
    """Differentiate the validation loss after a virtual step with respect to the match weight.

    With L = [rho KD + (2 - rho) CE] / 2 and W' = W - xi grad L(W), neither grad KD nor grad CE depends on rho, so

        d L_val(W') / d rho = -xi < grad L_val(W'), (grad KD - grad CE) / 2 >

    exactly, with no second graph. Another joint loss replaces (grad KD - grad CE) / 2 by its own grad dL/d rho.

    Parameters
    ----------
    parameters
        The supernet's weights; afterwards they hold the same bits as before.
    distillation_loss
        KD of the student on the training batch, with its graph, shape ().
    task_loss
        CE likewise.
    weight
        rho.
    step_size
        xi, learning rate of the virtual SGD step.
    validation_losses
        Runs the student on validation images and yields the parts of its loss.
    loss_scale
        Factor on losses while they are differentiated; the result is that of a scale of 1.
    joint_loss
        L as a function of KD, CE and rho.
    ranks
        Processes that each hold a part of the training batch and yield other parts of the validation loss. The step
        is that of the whole batch.

    Returns
    -------
    float
        d L_val / d rho.
    """
    ranks = ranks or Ranks()
    # Without the scale, small gradients of 16-bit floats would round to 0.
    distillation = gradients_of(distillation_loss * loss_scale, parameters, retain_graph=True)
    task = gradients_of(task_loss * loss_scale, parameters)
    # Weights that the path does not use have no gradient; the virtual step leaves them.
    own = [kd is not None or ce is not None for kd, ce in zip(distillation, task, strict=True)]
    places = [place for place, flags in enumerate(zip(*ranks.gather(lambda: own), strict=True)) if any(flags)]
    students = [parameters[place] for place in places]
    kds, ces = (
        ranks.mean([_or_zero(found[place], parameters[place]) / loss_scale for place in places])
        for found in (distillation, task)
    )
    used = list(zip(students, kds, ces, strict=True))
    steps = [joint_loss.value(weight, kd, ce) * -step_size for _, kd, ce in used]
    # Millions of products of both signs nearly cancel; float32 could lose the sum's sign.
    total = torch.zeros((), dtype=torch.float64, device=students[0].device)
    with _shifted(students, steps):
        # Part by part: the graph of one part is freed before the next one is made.
        for loss in validation_losses():
            gradients = gradients_of(loss * loss_scale, students)
            total += _inner_product(gradients, (joint_loss.slope(kd.double(), ce.double()) for _, kd, ce in used))
    return -step_size * sum(ranks.gather(lambda: float(total))) / loss_scale


def _inner_product(gradients: Sequence[Tensor | None], slopes: Iterable[Tensor]) -> Tensor:
    """Compute < grad L_val, grad dL/d rho > in float64."""
    # The slopes come one by one, so that no two float64 copies are in memory at once.
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
    # Adding and subtracting a step would round; only a copy brings every bit back.
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
