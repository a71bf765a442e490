"""Code that makes a layer of ``torch.nn``: arguments are read from the layer, the result is compared."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nni_cream.errors import ExportError
from nni_cream.export.expressions import Call, Expression, call, constant, flat

__all__ = ["ADVICE", "is_layer", "layer_code", "torch_class"]

ADVICE = "It cannot be written as code. Export to the formats onnx or torch instead."
"""Advice of a message about a module that has no code."""

_NOT_ARGUMENTS = ("device", "dtype")


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """Find the class of ``torch.nn`` whose ``forward`` a module has, such as that of NNI's ``MutableConv2d``."""
    for candidate in type(module).__mro__:
        if candidate is not nn.Module and getattr(nn, candidate.__name__, None) is candidate:
            return candidate if type(module).forward is candidate.forward else None
    return None


def is_layer(module: nn.Module) -> bool:
    """Whether a module computes what a class of ``torch.nn`` computes, and holds no other modules."""
    return torch_class(module) is not None and not any(True for _ in module.children())


def layer_code(module: nn.Module, path: str) -> Expression:
    """Write the call that makes a layer, such as ``nn.Conv2d(3, 16, 3, padding=1)``, without torch's defaults.

    ``path`` is its name in the network. Raises ``ExportError`` if a layer made this way would differ.
    """
    kind = torch_class(module)
    assert kind is not None
    for shorten in (True, False):
        try:
            code = _call(module, kind, shorten)
        except (AttributeError, ExportError) as error:
            raise ExportError(f"module {path!r} ({kind.__name__}): {error}. {ADVICE}") from error
        if _makes(code, module):
            return code
    raise ExportError(f"module {path!r}: `{flat(code)}` would not make the same layer. {ADVICE}")


def _call(module: nn.Module, kind: type[nn.Module], shorten: bool) -> Call:
    positional: list[Expression] = []
    keywords: dict[str, Expression] = {}
    for parameter in _parameters(kind):
        if not hasattr(module, parameter.name) and parameter.default is not parameter.empty:
            continue  # an argument under an old name, or one that only counts while the layer is made
        value = _value(module, parameter, shorten)
        if parameter.default is parameter.empty:
            positional.append(constant(value))
        elif value != parameter.default or isinstance(value, bool) != isinstance(parameter.default, bool):
            keywords[parameter.name] = constant(value)
    return call(f"nn.{kind.__name__}", *positional, **keywords)


def _parameters(kind: type[nn.Module]) -> Iterator[inspect.Parameter]:
    if issubclass(kind, nn.RNNBase):
        # A recurrent layer takes *args; its base class names these, after the mode.
        parameters = [*inspect.signature(nn.RNNBase.__init__).parameters.values()][2:]
        parameters.append(inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh"))
    else:
        parameters = [*inspect.signature(kind.__init__).parameters.values()][1:]
    for parameter in parameters:
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_named and parameter.name not in _NOT_ARGUMENTS and not parameter.name.startswith("_"):
            yield parameter


def _value(module: nn.Module, parameter: inspect.Parameter, shorten: bool) -> Any:
    """Read an argument from the attribute that torch keeps it in."""
    value = getattr(module, parameter.name)
    if isinstance(value, Tensor) or (value is None and isinstance(parameter.default, bool)):
        return value is not None  # whether there is a bias
    if shorten and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]  # (3, 3) is 3 to nearly all layers
    return value


def _makes(code: Call, module: nn.Module) -> bool:
    """Whether a call makes the layer: same weights by name, shape and type, same settings."""
    try:
        with torch.device("meta"):
            made: nn.Module = eval(flat(code), {"nn": nn, "torch": torch})
    except (TypeError, ValueError, RuntimeError):
        return False
    return _weights(made) == _weights(module) and _settings(made).items() <= _settings(module).items()


def _weights(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}


def _settings(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
