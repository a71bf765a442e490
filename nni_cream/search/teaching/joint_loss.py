"""The joint loss: the sum of the student's two losses (paper, section 3.3) and its slope in the match weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

__all__ = ["JOINT_LOSSES", "JointLoss"]

Joined: TypeAlias = Callable[[float, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class JointLoss:
    """A sum of KD and CE whose weights depend on rho.

    Parameters
    ----------
    value
        ``value(rho, KD, CE)`` -> L.
    slope
        ``slope(KD, CE)`` -> dL / d rho, which must not depend on rho.
    """

    # Both are linear in KD and CE, so the meta gradient can pass gradients in place of losses.
    value: Joined
    slope: Callable[[Tensor, Tensor], Tensor]


JOINT_LOSSES: dict[str, JointLoss] = {
    # The paper's: what distillation gains, the labels lose.
    "mix": JointLoss(lambda rho, kd, ce: (rho * kd + (2 - rho) * ce) / 2, lambda kd, ce: (kd - ce) / 2),
    # Nothing is taken from the labels.
    "add": JointLoss(lambda rho, kd, ce: ce + rho * kd, lambda kd, ce: kd),
}
