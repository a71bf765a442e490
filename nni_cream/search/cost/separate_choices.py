"""Choices whose candidates can run alone, on the inputs they get within the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from nni.nas.nn.pytorch.base import MutableModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingLayer, PathSamplingRepeat
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["Inputs", "alone", "batch_of", "depths", "holds_choices", "record_inputs"]

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def alone(supernet: Supernet) -> dict[str, list[PathSamplingLayer]]:
    """Find the choices that only select layers: label -> those layers; no candidate holds another choice."""
    return _deciding_only(
        supernet,
        lambda module: isinstance(module, PathSamplingLayer) and not any(map(holds_choices, module.children())),
    )


def depths(supernet: Supernet) -> dict[str, list[PathSamplingRepeat]]:
    """Find the labels that decide only the depth of a ``Repeat``: label -> all that it decides about."""
    return _deciding_only(
        supernet, lambda module: isinstance(module, PathSamplingRepeat) and len(_own_labels(module)) == 1
    )


def holds_choices(module: nn.Module) -> bool:
    """Return whether a module is a choice, or holds one."""
    return any(isinstance(inner, BaseSuperNetModule) for inner in module.modules())


def _deciding_only(supernet: Supernet, wanted: Callable[[nn.Module], bool]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    others: set[str] = set()
    for module in supernet.space.modules():
        if wanted(module):
            found.setdefault(str(next(iter(_own_labels(module)))), []).append(module)
        else:
            # A label that another module looks at has effects that these modules alone do not show.
            others |= _own_labels(module)
    return {label: modules for label, modules in found.items() if label not in others}


def record_inputs(
    supernet: Supernet, modules: Iterable[tuple[str, nn.Module]], run: Callable[[Path], object]
) -> dict[nn.Module, Inputs]:
    """Run paths until all modules, each given with a label that brings it into use, have run; return their inputs."""
    wanted = list(modules)
    seen: dict[nn.Module, Inputs] = {}
    with _watched((module for _, module in wanted), seen):
        # One run reaches most modules; only the rest need runs of their own.
        run(supernet.usage.largest())
        for label, module in wanted:
            if module not in seen:
                run(supernet.usage.using(label))
    return seen


def batch_of(inputs: Any, size: int) -> Any:
    """Repeat the first sample of every tensor ``size`` times, in tuples and mappings of any depth."""

    def expand(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.ndim == 0:
            return item
        # No view of one sample: a candidate may write to its input, and torch refuses to write to shared memory.
        return torch.cat([item[:1]] * size)  # keeps the memory format, which latency depends on

    return tree_map(expand, inputs)


@contextmanager
def _watched(modules: Iterable[nn.Module], seen: dict[nn.Module, Inputs]) -> Iterator[None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A path may call a shared module several times; its first call stands for all.
        seen.setdefault(module, (args, kwargs))

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _own_labels(module: nn.Module) -> set[str]:
    """Return the labels that a module itself looks at, without those of choices inside it."""
    if isinstance(module, PathSamplingLayer):
        return {module.label}
    if isinstance(module, PathSamplingRepeat):
        return set(module.depth_choice.simplify())
    if isinstance(module, BaseSuperNetModule):
        return set(module.simplify())
    registered = module.mutables if isinstance(module, MutableModule) else ()
    return {label for mutable in registered for label in mutable.simplify()}
