"""Exponential moving average of the supernet's weights, for teachers and for the networks handed out at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nni_cream.errors import SearchError

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of every weight over the optimizer steps so far, newer steps counting more.

    After each step, average = d average + (1 - d) weight, for *all* weights, also those outside the sampled path: so
    every weight is averaged over the same stretch of the training. d = min(decay, (1 + n) / (10 + n)) at step n.
    Buffers are not averaged: each network handed out gets new BatchNorm statistics.

    Parameters
    ----------
    module
        The user's module with the supernet in it; its parameters are averaged.
    decay
        d, above 0 and below 1 (paper: 0.9998).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = dict(module.named_parameters())
        self._averages: dict[str, Tensor] = {}
        self._names: dict[nn.Parameter, str] = {}
        self._log_decay = 0.0  # of all steps so far, multiplied
        self._settled: dict[str, float] = {}  # what that was when an average was last brought up to date
        self._add(name for name, parameter in self._parameters.items() if parameter.requires_grad)

    @property
    def nbytes(self) -> int:
        """Memory that the averages take."""
        return sum(average.nbytes for average in self._averages.values())

    def before_step(self) -> None:
        """Update the averages of the weights that an optimizer step will change: all with a gradient."""
        moving = [name for name, parameter in self._parameters.items() if parameter.grad is not None]
        self._add(name for name in moving if name not in self._averages)
        self._settle(moving)

    def _add(self, names: Iterable[str]) -> None:
        """Begin the averages of weights; one that was frozen until now has not moved, so its average is its value."""
        for name in names:
            parameter = self._parameters[name]
            self._averages[name] = _wide(parameter.detach()).clone()
            self._names[parameter] = name
            self._settled[name] = self._log_decay

    def update(self) -> None:
        """Count an optimizer step, after which the weights are what they are now."""
        # [ours] With a fixed decay of 0.9998, the initial weights would still make up two thirds of the average after
        # 2,000 steps. With the paper's 150,000 steps the ramp makes no difference.
        self._log_decay += math.log(min(self.decay, (1 + self.updates) / (10 + self.updates)))
        self.updates += 1

    def averages(self) -> dict[str, Tensor]:
        """Return the average of each weight by its name."""
        self._settle(self._averages)
        return dict(self._averages)

    @torch.no_grad()
    def _settle(self, names: Iterable[str]) -> None:
        # A weight unchanged for n steps moves its average by 1 - d^n at once. So a step costs what its path costs, not
        # what the supernet does. A hook that changes weights without a gradient is noticed only here.
        due = [name for name in names if self._settled[name] != self._log_decay]
        if not due:
            return
        averages = [self._averages[name] for name in due]
        weights = [self._parameters[name].to(self._averages[name].dtype) for name in due]
        torch._foreach_lerp_(averages, weights, [-math.expm1(self._log_decay - self._settled[name]) for name in due])
        self._settled.update(dict.fromkeys(due, self._log_decay))

    @contextmanager
    def applied(self, only: Iterable[nn.Parameter] | None = None) -> Iterator[None]:
        """Inside, the module (or ``only`` some parameters) has the averages; afterwards its own bits again."""
        chosen = self._names if only is None else [parameter for parameter in only if parameter in self._names]
        own = {parameter: parameter.data for parameter in chosen}
        self._settle(self._names[parameter] for parameter in own)
        try:
            for parameter in own:
                # Exchanging .data keeps the parameter objects, which optimizers and hooks refer to.
                parameter.data = self._averages[self._names[parameter]].to(parameter.device, parameter.dtype)
            yield
        finally:
            for parameter, data in own.items():
                parameter.data = data

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, the number of steps, and the step up to which each average goes."""
        return {
            "updates": self.updates,
            "averages": {name: item.cpu() for name, item in self._averages.items()},
            "log_decay": self._log_decay,
            "settled": dict(self._settled),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint; raise SearchError if it holds averages of other weights."""
        saved = state["averages"]
        self._add(name for name in saved if name in self._parameters and name not in self._averages)
        different = [name for name in self._averages.keys() | saved.keys() if not self._fits(name, saved.get(name))]
        if different:
            raise SearchError(
                f"the averaged weights of the checkpoint do not fit: {', '.join(sorted(different)[:3])}; expected "
                "those of this space and module. Resume with the ones that the search was started with."
            )
        self.updates = int(state["updates"])
        self._log_decay = float(state.get("log_decay", 0.0))  # before there was one, all averages were up to date
        self._settled = dict(state.get("settled", dict.fromkeys(self._averages, 0.0)))
        for name, average in self._averages.items():
            average.copy_(saved[name])

    def _fits(self, name: str, saved: Tensor | None) -> bool:
        own = self._averages.get(name)
        return own is not None and saved is not None and own.shape == saved.shape


def _wide(tensor: Tensor) -> Tensor:
    """Return a 16-bit tensor in float32, any other as it is."""
    # With the eight bits of bfloat16, a step of 1 - 0.9998 would round to nothing.
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
