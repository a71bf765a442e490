"""Checks that NNI's mutation, optimizers and files see all of a space, and lose nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from nni.nas.nn.pytorch.base import MutableModule
from torch import nn
from torch.utils._pytree import tree_leaves

from nni_cream.errors import SpaceError

__all__ = ["check_registered"]


def check_registered(space: nn.Module) -> None:
    """Raise ``SpaceError`` for hooks on choices, and for choices or trained weights that are no modules of the space.

    The mutation puts other modules in the place of choices. Hooks and references in plain lists would stay behind.
    """
    for name, module in space.named_modules():
        if module is not space and _is_choice(module) and not hasattr(module, "trace_kwargs"):
            _check_hooks(name, module)
        if isinstance(module, torch.jit.ScriptModule):
            raise SpaceError(
                f"module {name!r} is a {type(module).__name__}, which hides its layers; expected an nn.Module, so that "
                "its BatchNorm is handled for each path. Script a frozen network, after the search"
            )
        if not type(module).__module__.startswith(("nni.", "torch.")):
            _check_attributes(name, module, space)


def _is_choice(module: Any) -> bool:
    return isinstance(module, MutableModule) and bool(module.mutables)


def _check_hooks(name: str, module: nn.Module) -> None:
    if any(kind.endswith("hooks") and value for kind, value in vars(module).items()):
        raise SpaceError(
            f"{type(module).__name__} {name!r} has hooks, which the supernet would lose; expected none. Register them "
            "on a module around it, such as an nn.Sequential of it alone"
        )


def _check_attributes(name: str, module: nn.Module, space: nn.Module) -> None:
    registered: set[Any] = set()
    for attribute, part in _held(module):
        registered = registered or {*space.modules(), *space.parameters()}
        where = f"attribute {attribute!r} of {f'module {name!r}' if name else 'the space'}"
        inside = [*part.modules()] if isinstance(part, nn.Module) else []
        if _is_choice(part) or (part not in registered and any(map(_is_choice, inside))):
            raise SpaceError(
                f"{where} is a plain Python object that holds choices, which the search would not see; expected "
                "modules of the space. Use nn.ModuleList or nn.ModuleDict"
            )
        weights = [*part.parameters()] if isinstance(part, nn.Module) else [part]
        if any(weight.requires_grad and weight not in registered for weight in weights):
            raise SpaceError(
                f"{where} is a plain Python object that holds trained weights, which no optimizer and no file would "
                "see; expected modules of the space. Use nn.ModuleList, nn.ModuleDict or nn.ParameterList, or "
                "requires_grad_(False) for a network that stays as it is"
            )


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield modules and parameters that a module holds as plain attributes, or in lists, tuples and dictionaries."""
    for attribute, value in vars(module).items():
        # Of torch and NNI themselves: registered modules, hooks, the arguments of the constructor.
        if attribute.startswith(("_", "trace_")):
            continue
        for item in tree_leaves(value):
            if isinstance(item, nn.Module | nn.Parameter) and item is not module:
                yield attribute, item
