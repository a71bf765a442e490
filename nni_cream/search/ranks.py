"""The processes that train one search together: what one of them decides, all go by."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nni_cream.errors import SearchError

__all__ = ["Ranks"]

_T = TypeVar("_T")
_SHOWN = 200  # characters of what differs


@dataclass(frozen=True)
class _Told:
    """What a process has to say: a value, or why it has none."""

    value: Any = None
    failure: str | None = None


class Ranks:
    """What the processes of a search tell one another; a search in a single process has one rank.

    All talk goes over sockets of the CPU, so that no accelerator waits for it. Every method is to be called by all
    processes, in the same order. If one of them fails inside, all of them raise.

    Parameters
    ----------
    group
        Process group of torch.distributed for values on the CPU; ``None`` for a single process.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.size: int = 1 if group is None else dist.get_world_size(group)
        self.rank: int = 0 if group is None else dist.get_rank(group)

    @classmethod
    def of(cls, size: int, timeout: timedelta | None = None) -> Ranks:
        """Connect the processes of a trainer, ``size`` in number; raise SearchError if Lightning has not done so."""
        if size == 1:
            return cls()
        if not (dist.is_available() and dist.is_initialized()):
            raise SearchError(
                f"the trainer has {size} devices, but its strategy does not use torch.distributed; expected "
                "'ddp_find_unused_parameters_true'."
            )
        return cls(dist.new_group(backend="gloo", timeout=timeout))

    @classmethod
    def of_trainer(cls, trainer: Any) -> Ranks:
        """Connect the processes of a Lightning trainer, with the timeout of its strategy."""
        return cls.of(trainer.world_size, getattr(trainer.strategy, "_timeout", None))

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides."""
        return self.rank == 0

    def first(self, decide: Callable[[], _T]) -> _T:
        """Return what the first process decides; it must be a value that pickle takes."""
        if self.size == 1:
            return decide()
        told, error = _attempt(decide) if self.leads else (_Told(), None)
        box = [told]
        dist.broadcast_object_list(box, src=0, group=self._group)
        if error is not None:
            raise error
        decided: _T = self._values(box)[0]
        return decided

    def gather(self, compute: Callable[[], _T]) -> list[_T]:
        """Return what each process computes, in the order of their ranks."""
        if self.size == 1:
            return [compute()]
        own, error = _attempt(compute)
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, own, group=self._group)
        if error is not None:
            raise error
        return self._values(told)

    def _values(self, told: Sequence[_Told]) -> list[Any]:
        for rank, item in enumerate(told):
            if item.failure is not None:
                raise SearchError(
                    f"rank {rank} of {self.size} has failed, so rank {self.rank} ends, too: {item.failure}"
                )
        return [item.value for item in told]

    def own(self, states: Sequence[_T]) -> _T:
        """Return this process's part of a checkpoint; raise SearchError if it has another number of parts."""
        if len(states) != self.size:
            raise SearchError(
                f"the number of processes is {self.size}; expected {len(states)}, as in the checkpoint. Resume on as "
                "many devices, or start again with --force."
            )
        return states[self.rank]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process; all give as many flags."""
        if self.size == 1:
            return list(flags)
        # One small message: a gathering of objects would take two, in each step.
        counts = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(count) for count in counts.tolist()]

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean of each tensor over all processes; the tensors have the same shapes in all of them."""
        if self.size == 1 or not tensors:
            return list(tensors)
        # In one piece: a message for each of a thousand weights would take longer than the sum.
        vector = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(vector)  # in the default group, which is the accelerators' own
        parts = (vector / self.size).split([tensor.numel() for tensor in tensors])
        return [part.reshape(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def check_same(self, facts: dict[str, str], step: int) -> None:
        """Raise SearchError in all processes unless they agree on these facts."""
        every = self.gather(lambda: facts)
        apart = {name: [rank for rank, other in enumerate(every) if other[name] != every[0][name]] for name in every[0]}
        for name, ranks in apart.items():
            if ranks:
                raise SearchError(
                    f"the {name} of rank {', '.join(map(str, ranks))} differs from that of rank 0 at step {step}; "
                    "expected the same, since all ranks train one supernet. A part of your own decides differently in "
                    f"each process: {every[ranks[0]][name][:_SHOWN]} instead of {every[0][name][:_SHOWN]}"
                )


def _attempt(compute: Callable[[], Any]) -> tuple[_Told, Exception | None]:
    try:
        return _Told(compute()), None
    except Exception as error:  # noqa: BLE001 - raised again when the others know
        return _Told(failure=f"{type(error).__name__}: {error} (process {os.getpid()})"), error
