"""Exponential moving average of the supernet's weights, for the networks that a search hands out at its end."""

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

    After each step, average = d average + (1 - d) weight. That is done for *all* weights, also for those that the step
    did not move, because the sampled path does not use them: so every weight is averaged over the same stretch of the
    training. Neither the steps nor the board see it; teachers do if ``teaching.weights`` says so.

    The first steps count more than the rest of the formula would have it, d = min(decay, (1 + n) / (10 + n)) at step n
    [ours: with a fixed decay of 0.9998, the initial weights would still make up two thirds of the average after 2,000
    steps]. With the paper's 150,000 steps this makes no difference.

    A weight that stays as it is for n steps moves its average by 1 - d^n at once, when it is about to change or when
    somebody asks: so a step costs what the weights of its path cost, not what all of the supernet's do. A hook that
    changes weights without a gradient goes unnoticed until then.

    Buffers are not averaged: the statistics of BatchNorm are estimated anew for each network that is handed out.

    Parameters
    ----------
    module
        Whose parameters are averaged: the user's module with the supernet in it.
    decay
        d, above 0 and below 1 (paper: 0.9998).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = {name: item for name, item in module.named_parameters() if item.requires_grad}
        self._averages = {name: _wide(parameter.detach()).clone() for name, parameter in self._parameters.items()}
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._log_decay = 0.0  # of all steps so far, multiplied
        self._settled = dict.fromkeys(self._averages, 0.0)  # what that was when an average was last brought up to date

    @property
    def nbytes(self) -> int:
        """Memory that the averages take."""
        return sum(average.nbytes for average in self._averages.values())

    def before_step(self) -> None:
        """Bring the averages of those weights up to date that an optimizer step will change: of all with a gradient."""
        self._settle(name for name, parameter in self._parameters.items() if parameter.grad is not None)

    def update(self) -> None:
        """Count an optimizer step, after which the weights are what they are now."""
        self._log_decay += math.log(min(self.decay, (1 + self.updates) / (10 + self.updates)))
        self.updates += 1

    def averages(self) -> dict[str, Tensor]:
        """Return the average of each weight by its name."""
        self._settle(self._averages)
        return dict(self._averages)

    @torch.no_grad()
    def _settle(self, names: Iterable[str]) -> None:
        due = [name for name in names if self._settled[name] != self._log_decay]
        if not due:
            return
        averages = [self._averages[name] for name in due]
        weights = [self._parameters[name].to(self._averages[name].dtype) for name in due]
        torch._foreach_lerp_(averages, weights, [-math.expm1(self._log_decay - self._settled[name]) for name in due])
        self._settled.update(dict.fromkeys(due, self._log_decay))

    @contextmanager
    def applied(self, only: Iterable[nn.Parameter] | None = None) -> Iterator[None]:
        """Inside, the module has the averages for weights; afterwards its own again, bit for bit.

        Parameters
        ----------
        only
            Parameters to exchange, where not all are needed; those that are not averaged are left out.

        Yields
        ------
        None
            There is nothing to work with; freeze and copy what is needed.
        """
        chosen = self._names if only is None else [parameter for parameter in only if parameter in self._names]
        own = {parameter: parameter.data for parameter in chosen}
        self._settle(self._names[parameter] for parameter in own)
        try:
            for parameter in own:
                parameter.data = self._averages[self._names[parameter]].to(parameter.device, parameter.dtype)
            yield
        finally:
            for parameter, data in own.items():
                parameter.data = data

    def state_dict(self) -> dict[str, Any]:
        """Return the averages as they stand, how many steps there were, and up to which each average goes."""
        return {
            "updates": self.updates,
            "averages": {name: item.cpu() for name, item in self._averages.items()},
            "log_decay": self._log_decay,
            "settled": dict(self._settled),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Parameters
        ----------
        state
            What :meth:`state_dict` returned.

        Raises
        ------
        SearchError
            If it holds averages of other weights.
        """
        saved = state["averages"]
        different = [name for name in self._averages.keys() | saved.keys() if not self._fits(name, saved.get(name))]
        if different:
            raise SearchError(
                f"the checkpoint's averaged weights do not fit: {', '.join(sorted(different)[:3])}; resume with the "
                "space and the module that the search was started with"
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
    """With the eight bits of bfloat16, a step of 1 - 0.9998 would be rounded away."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
