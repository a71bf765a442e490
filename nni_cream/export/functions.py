"""Code of one operation of a traced module: functions of torch by their public names, operators as signs."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from nni_cream.export.expressions import Expression, call, constant, flat, mapping, sequence

__all__ = ["argument_code", "is_known", "operation_code"]

_SIGNS: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
_PREFIXES: dict[Callable[..., Any], str] = {operator.neg: "-", operator.invert: "~", operator.pos: "+"}


def is_known(function: Callable[..., Any]) -> bool:
    """Whether a function has a name in torch, or a sign in Python."""
    return (
        function in _SIGNS or function in _PREFIXES or function in (getattr, operator.getitem) or _name(function) != ""
    )


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    if name.startswith("_"):
        return ""
    for module, prefix in ((functional, "F"), (torch, "torch"), (torch.special, "torch.special")):
        if getattr(module, name, None) is function:
            return f"{prefix}.{name}"
    return ""


def operation_code(node: fx.Node, values: Mapping[fx.Node, str]) -> Expression:
    """Write a ``call_function`` or ``call_method`` node; ``values`` has the code of each earlier node.

    The code needs ``torch`` and ``torch.nn.functional as F``. Raises ``ExportError`` if an argument cannot be written.
    """
    function: Any = node.target
    arguments = [argument_code(item, values) for item in node.args]
    keywords = {key: argument_code(item, values) for key, item in node.kwargs.items()}
    if node.op == "call_method":
        return call(f"{flat(arguments[0])}.{function}", *arguments[1:], **keywords)
    if function in _SIGNS:
        return f"{flat(arguments[0])} {_SIGNS[function]} {flat(arguments[1])}"
    if function in _PREFIXES:
        return f"{_PREFIXES[function]}{flat(arguments[0])}"
    if function is operator.getitem:
        return f"{flat(arguments[0])}[{_index(node.args[1], values)}]"
    if function is builtins.getattr:
        return f"{flat(arguments[0])}.{node.args[1]}"
    return call(_name(function), *arguments, **keywords)


def argument_code(value: Any, values: Mapping[fx.Node, str]) -> Expression:
    """Write an argument of a node: a node, a constant, or a list, tuple, mapping or slice of such."""
    if isinstance(value, fx.Node):
        return values[value]
    if isinstance(value, list | tuple):  # torch.fx keeps its own kinds of both
        return sequence([argument_code(item, values) for item in value], "[]" if isinstance(value, list) else "()")
    if isinstance(value, dict):
        return mapping({key: argument_code(item, values) for key, item in value.items()})
    if isinstance(value, slice):
        parts = [argument_code(part, values) for part in (value.start, value.stop, value.step)]
        return f"slice({', '.join(map(flat, parts))})"
    return constant(value)


def _index(value: Any, values: Mapping[fx.Node, str]) -> str:
    if isinstance(value, tuple) and value:
        inside = ", ".join(_index(item, values) for item in value)
        return f"{inside}," if len(value) == 1 else inside
    if isinstance(value, slice):
        parts = ["" if part is None else flat(argument_code(part, values)) for part in (value.start, value.stop)]
        step = "" if value.step is None else f":{flat(argument_code(value.step, values))}"
        return ":".join(parts) + step
    return flat(argument_code(value, values))
