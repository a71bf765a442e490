"""Graph of one module's computation, in which its own modules are single calls (``torch.fx``).

A module is traced as it was called: a run on real images shows its inputs, tensors or lists of them. So code that looks
at its arguments (``isinstance``, ``len``, a loop over a list) is followed, and each call written out.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from nni_cream.errors import ExportError
from nni_cream.export.functions import is_known
from nni_cream.export.layers import ADVICE, torch_class

__all__ = ["TENSOR", "CallShape", "Calls", "Tree", "record_calls", "trace"]

Tree = Any
"""A tensor's place (:data:`TENSOR`), or a list, tuple or mapping of such, or a constant."""


class _TensorPlace:
    def __repr__(self) -> str:
        return "Tensor"


TENSOR = _TensorPlace()


@dataclass(frozen=True)
class CallShape:
    """Arguments and result of a module's call."""

    inputs: dict[str, Tree]  #: Name of each argument that holds a tensor -> its tree, in the order of ``forward``.
    constants: dict[str, Any]  #: The other arguments.
    output: Tree  #: Tree of the result.


Calls = dict[nn.Module, CallShape]


def record_calls(network: nn.Module, images: Tensor) -> Calls:
    """Run a network, in evaluation mode and without gradients, and return how each of its modules is called.

    A module that the network does not use is absent. Raises ``ExportError`` if one module is called in two ways.
    """
    calls: Calls = {}
    names = {module: name or type(network).__name__ for name, module in network.named_modules()}

    def note(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        shape = _call_shape(module, arguments, keywords, output)
        if calls.setdefault(module, shape) != shape:
            raise ExportError(
                f"module {names[module]!r} is called in two ways, once with {calls[module].inputs} and once with "
                f"{shape.inputs}. {ADVICE}"
            )

    handles: list[RemovableHandle] = [
        module.register_forward_hook(note, with_kwargs=True) for module in network.modules()
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _call_shape(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> CallShape:
    trees = {name: _tree(value) for name, value in _bind(module, arguments, keywords).items()}
    inputs = {name: tree for name, tree in trees.items() if _holds_tensor(tree)}
    return CallShape(inputs, {name: tree for name, tree in trees.items() if name not in inputs}, _tree(output))


def _bind(module: nn.Module, arguments: Any, keywords: Any) -> dict[str, Any]:
    """Name each argument; those behind a star are numbered."""
    bound = inspect.signature(module.forward).bind(*arguments, **keywords)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}_{index}": item for index, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _tree(value: Any) -> Tree:
    if isinstance(value, Tensor):
        return TENSOR
    if type(value) in (list, tuple):
        return type(value)(_tree(item) for item in value)
    if type(value) is dict:
        return {key: _tree(item) for key, item in value.items()}
    return value


def _holds_tensor(tree: Tree) -> bool:
    if isinstance(tree, list | tuple | dict):
        return any(_holds_tensor(item) for item in (tree.values() if isinstance(tree, dict) else tree))
    return tree is TENSOR


def _filled(tree: Tree, proxy: Any) -> Any:
    """Return the tree with a part of the traced value at each tensor's place, so that it is a real list or tuple."""
    if tree is TENSOR or not _holds_tensor(tree):
        return proxy if tree is TENSOR else tree
    if isinstance(tree, dict):
        return {key: _filled(item, proxy[key]) for key, item in tree.items()}
    return type(tree)(_filled(item, proxy[index]) for index, item in enumerate(tree))


def trace(module: nn.Module, calls: Calls, path: str) -> fx.Graph:
    """Trace one module; the modules in it that hold weights, and the layers of ``torch.nn``, are calls in its graph.

    The graph has placeholders named after the inputs, the calls, and one output. Raises ``ExportError`` if the module
    decides by the values or sizes of tensors, or cannot be written as a sequence of calls.
    """
    try:
        graph = _Tracer(calls).trace(module)
    except Exception as error:  # what a user's own forward raises for a traced value may be anything
        raise ExportError(
            f"module {path!r} ({type(module).__name__}) cannot be written as code: {type(error).__name__}: {error}. "
            "What it computes must not depend on the values of tensors. Export to the formats onnx or torch instead."
        ) from error
    graph.eliminate_dead_code(_is_dead_weight)
    return graph


def _is_dead_weight(node: fx.Node) -> bool:
    # An unused operation may still change a tensor in place; to take an item out of a list cannot.
    return not (node.target in (getattr, operator.getitem) or node.op == "get_attr")


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self._calls = calls

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Give the module its recorded arguments, with traced values in place of tensors."""
        module = self.root
        shape = self._calls[module]
        values = dict(shape.constants)
        for name, tree in shape.inputs.items():
            values[name] = _filled(tree, self.create_proxy("placeholder", name, (), {}))
        arguments, keywords = _unbind(module, values)
        return lambda: root_fn(module, *arguments, **keywords), []

    def create_arg(self, a: Any) -> Any:
        """Refuse tensors that are not the network's own; torch would leave a copy of them in the network."""
        if (
            isinstance(a, Tensor)
            and not isinstance(a, nn.Parameter)
            and all(a is not own for own in self.root.buffers())
        ):
            raise ExportError(f"it uses a tensor {tuple(a.shape)} that is neither an input nor a parameter or buffer")
        return super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, *arguments: Any, **keywords: Any) -> Any:
        """Trace into functions outside torch, which libraries mark to be kept as one call."""
        if kind == "call_function" and not is_known(target):
            args, kwargs = arguments[:2]
            return target(*args, **kwargs)
        return super().create_proxy(kind, target, *arguments, **keywords)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays one call: all but modules outside torch that hold nothing."""
        return torch_class(m) is not None or any(True for _ in m.children()) or bool(m.state_dict())

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module as its class is written: with its inputs in order, and no constants."""
        if not self.is_leaf_module(m, ""):
            return forward(*args, **kwargs)
        if torch_class(m) is None:
            given = _bind(m, args, kwargs)
            args, kwargs = tuple(given[name] for name in self._calls[m].inputs), {}
        return _filled(self._calls[m].output, super().call_module(m, forward, args, kwargs))


def _unbind(module: nn.Module, named: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Turn the result of :func:`_bind` back into arguments of a call."""
    arguments: list[Any] = []
    left = dict(named)
    parameters = inspect.signature(module.forward).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += [left.pop(key) for key in _numbered(parameter.name, left)]
        elif parameter.name not in left or parameter.kind is parameter.KEYWORD_ONLY:
            break  # a default: what comes after it is given by its name
        else:
            arguments.append(left.pop(parameter.name))
    return arguments, left


def _numbered(name: str, named: dict[str, Any]) -> Iterator[str]:
    return (key for key in list(named) if key.removeprefix(f"{name}_").isdecimal() and key.startswith(f"{name}_"))
