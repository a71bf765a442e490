"""Checks that NNI's mutation, optimizers and files see all of a space, and lose nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, Repeat
from nni.nas.nn.pytorch.base import MutableModule
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nni_cream.errors import SpaceError

__all__ = ["check_registered"]


# What NNI gives its choices.
_OWN = {
    LayerChoice: {"names", "choice"},
    InputChoice: {"reduction", "n_candidates", "weights", "choice", "n_chosen"},
    Repeat: {"min_depth", "max_depth", "depth_choice"},
}


def check_registered(space: nn.Module) -> None:
    """Raise ``SpaceError`` for additions to choices, and for choices or trained weights that are no modules of a space.

    The mutation puts other modules in the place of choices. Hooks, attributes and references in plain lists would stay
    behind.
    """
    for name, module in space.named_modules():
        if type(module) in _OWN and _is_choice(module):
            _check_choice(name, module)
        _check_state(name, module)
        if not type(module).__module__.startswith(("nni.", "torch.")):
            _check_attributes(name, module, space)


def _is_choice(module: Any) -> bool:
    return isinstance(module, MutableModule) and bool(module.mutables)


def _check_state(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise SpaceError(
            f"module {name!r} is a {type(module).__name__}, which hides its layers; expected an nn.Module, so that "
            "its BatchNorm is handled for each path. Script a frozen network, after the search"
        )
    own = type(module).get_extra_state is not nn.Module.get_extra_state
    if own and not isinstance(module.get_extra_state(), Tensor):
        raise SpaceError(
            f"module {name!r} has an extra state that is no tensor; expected tensors, which files can hold. "
            "Register it as a buffer, or give it to the constructor"
        )


def _check_choice(name: str, choice: nn.Module) -> None:
    title = f"{type(choice).__name__} {name!r}"
    missing = [candidate for candidate, module in choice._modules.items() if module is None]
    if missing:
        raise SpaceError(
            f"{title} has the candidate {missing[0]!r}: None; expected a module. Write nn.Identity() for no layer"
        )
    # torch.ao.quantization.prepare has read the qconfig by then.
    plain = vars(nn.Module()).keys() | _OWN[type(choice)] | {"qconfig"}
    added = [attribute for attribute in vars(choice) if attribute not in plain and not attribute.startswith("_")]
    added += [*choice._parameters, *choice._buffers]
    added += [kind.lstrip("_") for kind, value in vars(choice).items() if kind.endswith("hooks") and value]
    if added:
        raise SpaceError(
            f"{title} has {', '.join(added)} added to it, which the supernet would lose; expected what NNI builds. Put "
            "it on a module around the choice, such as an nn.Sequential of it alone"
        )


def _check_attributes(name: str, module: nn.Module, space: nn.Module) -> None:
    registered: set[Any] = set()
    for attribute, part in _held(module):
        registered = registered or {*space.modules(), *space.parameters()}
        where = f"attribute {attribute!r} of {f'module {name!r}' if name else 'the space'}"
        inside = [*part.modules()] if isinstance(part, nn.Module) else []
        if part is space:
            continue
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
