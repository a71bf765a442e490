"""How the student's two losses make one (paper, section 3.3), and how that one moves with the match weight."""

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

    Both functions are linear in KD and CE. So they take the losses as well as the losses' gradients: grad L is
    ``value`` of the gradients, and its derivative with respect to rho is ``slope`` of them.

    Parameters
    ----------
    value
        ``value(rho, KD, CE)`` -> L.
    slope
        ``slope(KD, CE)`` -> dL / d rho, which must not depend on rho.
    """

    value: Joined
    slope: Callable[[Tensor, Tensor], Tensor]


JOINT_LOSSES: dict[str, JointLoss] = {
    # The paper's: what distillation gains, the labels lose.
    "mix": JointLoss(lambda rho, kd, ce: (rho * kd + (2 - rho) * ce) / 2, lambda kd, ce: (kd - ce) / 2),
    # Nothing is taken from the labels.
    "add": JointLoss(lambda rho, kd, ce: ce + rho * kd, lambda kd, ce: kd),
}
