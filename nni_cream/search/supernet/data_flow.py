"""Which operations and which weights an output depends on, found by watching a forward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nni_cream.search.supernet.outputs import tensors_in

__all__ = ["DataFlow", "memory_of", "watching"]

_aten = torch.ops.aten
# They read the shape of a tensor, not its values.
_SHAPE_ONLY = {
    getattr(_aten, f"{stem}_like") for stem in ("empty", "full", "ones", "rand", "randint", "randn", "zeros")
} | {getattr(_aten, f"new_{stem}") for stem in ("empty", "empty_strided", "full", "ones", "zeros")}


class _Step(NamedTuple):
    operations: int
    earlier: frozenset[int]
    """Steps whose results it reads."""
    sources: frozenset[int]
    """Memory that it reads and that no step wrote: weights, buffers, inputs."""


class DataFlow(TorchDispatchMode):
    """Records what each operation inside reads, writes and costs; the cost is 0 here, and counted by a subclass.

    The gradient is no measure of this: a backbone under ``torch.no_grad`` and a hard gate have none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[_Step] = []
        self._writer: dict[int, int] = {}  # memory of a tensor -> the last step that wrote to it
        self._escaped: list[int] = []  # steps whose results left as plain numbers, which may decide anything
        self._kept: list[Any] = []  # all results, so that no memory is used twice

    def operations(self, output: Any) -> int:
        """Return the operations that an output depends on; a branch that leads nowhere counts as nothing."""
        return sum(self._steps[step].operations for step in self._needed(output))

    def sources(self, output: Any) -> set[int]:
        """Return the memory (:func:`memory_of`) that no step wrote and an output depends on."""
        own = {place for place in map(memory_of, tensors_in(output)) if place not in self._writer}
        return own.union(*(self._steps[step].sources for step in self._needed(output)))

    def _needed(self, output: Any) -> Iterable[int]:
        wanted = [self._writer[place] for place in map(memory_of, tensors_in(output)) if place in self._writer]
        if not wanted:  # an object whose tensors are not seen from outside
            return range(len(self._steps))
        wanted += self._escaped
        needed: set[int] = set()
        while wanted:
            step = wanted.pop()
            if step not in needed:
                needed.add(step)
                wanted.extend(self._steps[step].earlier)
        return needed

    def note(self, count: int, inputs: Any, outputs: Any) -> None:
        """Record a step: what it computes, reads and writes."""
        read = {memory_of(tensor) for tensor in tensors_in(inputs)}
        earlier = frozenset(self._writer[place] for place in read if place in self._writer)
        sources = frozenset(place for place in read if place not in self._writer)
        written = tensors_in(outputs)
        if not written:
            self._escaped.append(len(self._steps))
        for tensor in written:
            # Writing to a part of a tensor keeps the rest, so the earlier steps of its memory count on.
            self._writer[memory_of(tensor)] = len(self._steps)
            self._kept.append(tensor)
        self._steps.append(_Step(count, earlier, sources))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._decomposes(func):
            # Under inference_mode torch hands over nn.functional.linear and the like whole.
            with self:
                return func.decompose(*args, **kwargs)
        output = func(*args, **kwargs)
        inputs = () if func._overloadpacket in _SHAPE_ONLY else (args, kwargs)
        self.note(self._count(func, args, kwargs, output), inputs, (output, _written(func, args, kwargs)))
        return output

    def _decomposes(self, func: Any) -> bool:
        return _is_composite(func)

    def _count(self, func: Any, args: Any, kwargs: Any, output: Any) -> int:
        return 0


Flow = TypeVar("Flow", bound=DataFlow)


class _ReadOut(TorchFunctionMode):
    """Notes the ways out of torch that a dispatch mode does not see."""

    def __init__(self, flow: DataFlow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READ_OUT:
            self._flow.note(0, args, ())
        return func(*args, **(kwargs or {}))


_READ_OUT = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


@contextmanager
def watching(flow: Flow) -> Iterator[Flow]:
    """Let a data flow record what runs inside."""
    with flow, _ReadOut(flow):
        yield flow


def memory_of(tensor: Tensor) -> int:
    """Return a number that tensors share if and only if they share memory."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:  # of a sparse tensor
        return id(tensor)


def _written(operation: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return the arguments that an operation changes in place, such as running statistics."""
    places = _written_places(operation)
    return [args[place] if place < len(args) else kwargs.get(name) for place, name in places]


@functools.cache
def _written_places(operation: Any) -> list[tuple[int, str]]:
    schema = enumerate(operation._schema.arguments)
    return [(place, item.name) for place, item in schema if item.alias_info is not None and item.alias_info.is_write]


@functools.cache
def _is_composite(operation: Any) -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), key))
