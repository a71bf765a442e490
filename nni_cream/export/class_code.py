"""Code of the class of a module with a ``forward`` of its own."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from nni_cream.errors import ExportError
from nni_cream.export.expressions import Expression, call, constant, flat, write
from nni_cream.export.functions import argument_code, operation_code
from nni_cream.export.layers import ADVICE
from nni_cream.export.module_graph import TENSOR, Calls, CallShape, Tree, trace

__all__ = ["Block", "Described", "describe_block"]

_SHADOWED = {"F", "Tensor", "nn", "self", "torch"}
_LARGEST_LITERAL = 64


@dataclass(frozen=True)
class Block:
    """Class but for its name; equal ones are written once."""

    origin: str  #: Module and name of the class that it comes from.
    base: str  #: ``nn.Module``, or ``nn.Sequential`` where the modules have numbers for names.
    children: tuple[str, ...]  #: Names of the modules in it.
    parameters: tuple[str, ...]  #: Names of the parameters that it holds itself.
    #: Names of its buffers; ``False`` for one that is no part of the ``state_dict``.
    buffers: tuple[tuple[str, bool], ...]
    forward: str  #: Lines of the method, empty if it is never called.

    def code(self, name: str) -> str:
        """Write the class under a name."""
        doc = f'    """{self.origin}, with its choices made."""'
        methods = [part for part in (self._init(), self.forward) if part]
        return "\n\n".join([f"class {name}({self.base}):\n{doc}", *methods]) + "\n"

    def _init(self) -> str:
        if self.base == "nn.Sequential":
            return ""
        arguments = [f"{name}: nn.Module" for name in self.children]
        arguments += [f"{name}: nn.Parameter" for name in self.parameters]
        arguments += [f"{name}: Tensor" for name, _ in self.buffers]
        if not arguments:
            return ""
        lines = [write(call("__init__", "self", *arguments), 4, "def ", " -> None:"), "        super().__init__()"]
        lines += [f"        self.{name} = {name}" for name in (*self.parameters, *self.children)]
        for name, persistent in self.buffers:
            extra = {} if persistent else {"persistent": "False"}
            lines.append(write(call("self.register_buffer", flat(constant(name)), name, **extra), 8))
        return "\n".join(lines)


@dataclass(frozen=True)
class Described:
    """Result of :func:`describe_block`."""

    called: frozenset[nn.Module]  #: The modules below that it calls itself.
    tensors: dict[str, Expression]  #: Name of each parameter and buffer that it holds itself -> code that makes one.
    _block: Block = field(repr=False)

    def block(self, children: tuple[str, ...]) -> Block:
        """Return its class, with the modules that it has to hold."""
        return replace(self._block, children=children)


def describe_block(module: nn.Module, calls: Calls, path: str) -> Described:
    """Write the class of a module with a ``forward`` of its own; ``path`` is its name in the network, for messages.

    Raises ``ExportError`` if it cannot be written.
    """
    base = "nn.Sequential" if isinstance(module, nn.Sequential) else "nn.Module"
    tensors = dict(_tensors(module, path))
    _check_names(module, path, base, tensors)
    forward, called = "", frozenset[nn.Module]()
    if module in calls:  # a head that only training uses is kept for the sake of its weights
        graph = trace(module, calls, path)
        forward = _forward(module, graph, calls[module], path)
        called = frozenset(module.get_submodule(str(node.target)) for node in graph.find_nodes(op="call_module"))
    kind = type(module)
    block = Block(
        origin=f"{kind.__module__}.{kind.__qualname__}",
        base=base,
        children=(),
        parameters=tuple(name for name, _ in module.named_parameters(recurse=False)),
        buffers=tuple(
            (name, name not in module._non_persistent_buffers_set) for name, _ in module.named_buffers(recurse=False)
        ),
        forward=forward,
    )
    return Described(called, tensors, block)


def _check_names(module: nn.Module, path: str, base: str, tensors: Mapping[str, Expression]) -> None:
    names = [name for name, _ in module.named_children()]
    if base == "nn.Sequential":
        usable = names == [str(index) for index in range(len(names))] and not tensors
    else:
        usable = all(name.isidentifier() and not keyword.iskeyword(name) for name in (*names, *tensors))
    if not usable:
        raise ExportError(f"module {path!r} holds {', '.join((*names, *tensors))}; expected names of Python. {ADVICE}")


def _tensors(module: nn.Module, path: str) -> Iterator[tuple[str, Expression]]:
    for name, parameter in module.named_parameters(recurse=False):
        extra = {} if parameter.requires_grad else {"requires_grad": "False"}
        yield name, call("nn.Parameter", _zeros(parameter), **extra)
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, _zeros(buffer)
        elif buffer.numel() <= _LARGEST_LITERAL:
            yield name, call("torch.tensor", constant(buffer.tolist()), dtype=constant(buffer.dtype))
        else:
            raise ExportError(
                f"module {path!r}: buffer {name!r} holds {buffer.numel()} numbers that no state_dict keeps. {ADVICE}"
            )


def _zeros(tensor: Tensor) -> Expression:
    kind = {} if tensor.dtype is torch.float32 else {"dtype": constant(tensor.dtype)}
    return call("torch.zeros", *(map(str, tensor.shape) if tensor.ndim else ["()"]), **kind)


def _forward(module: nn.Module, graph: fx.Graph, shape: CallShape, path: str) -> str:
    values: dict[fx.Node, str] = {}
    parameters, lines = ["self"], []
    *nodes, output = graph.nodes
    for position, node in enumerate(nodes):
        try:
            code = _value(module, node, values)
        except ExportError as error:
            raise ExportError(f"module {path!r} ({type(module).__name__}): {error}. {ADVICE}") from error
        values[node] = _local_name(node.name)
        if node.op == "placeholder":
            parameters.append(f"{values[node]}: {_annotation(shape.inputs[str(node.target)])}")
        elif node.op == "get_attr":
            values[node] = flat(code)
        elif position == len(nodes) - 1 and output.args[0] is node:
            lines.append(write(code, 8, "return "))
        else:
            lines.append(write(code, 8, f"{values[node]} = " if node.users else ""))
    if not (lines and lines[-1].startswith("        return ")):
        lines.append(write(argument_code(output.args[0], values), 8, "return "))
    header = write(call("forward", *parameters), 4, "def ", f" -> {_annotation(shape.output)}:")
    return "\n".join([header, *lines])


def _local_name(name: str) -> str:
    if name.startswith("_"):  # modules that have numbers for names
        return f"layer{name}"
    return f"{name}_" if name in _SHADOWED else name


def _value(module: nn.Module, node: fx.Node, values: Mapping[fx.Node, str]) -> Expression:
    if node.op == "placeholder":
        return node.name
    if node.op == "get_attr":
        return _place(module, str(node.target))
    if node.op == "call_module":
        arguments = (argument_code(item, values) for item in node.args)
        keywords = {key: argument_code(item, values) for key, item in node.kwargs.items()}
        return call(_place(module, str(node.target)), *arguments, **keywords)
    return operation_code(node, values)


def _place(module: nn.Module, target: str) -> str:
    """Write the place of a module or tensor below: ``self.ops[0][1]``."""
    place = "self"
    for name in target.split("."):
        if isinstance(module, nn.Sequential | nn.ModuleList) and name.isdecimal():
            place += f"[{name}]"
        elif isinstance(module, nn.ModuleDict):
            place += f"[{flat(constant(name))}]"
        elif name.isidentifier() and not keyword.iskeyword(name):
            place += f".{name}"
        else:
            raise ExportError(f"{target!r} is no name that code can use")
        module = getattr(module, name)
    return place


def _annotation(tree: Tree) -> str:
    if tree is TENSOR:
        return "Tensor"
    if isinstance(tree, tuple):
        return f"tuple[{', '.join(map(_annotation, tree))}]"
    if isinstance(tree, list | dict):
        kinds = {_annotation(item) for item in (tree.values() if isinstance(tree, dict) else tree)}
        kind = kinds.pop() if len(kinds) == 1 else "Any"
        return f"list[{kind}]" if isinstance(tree, list) else f"dict[str, {kind}]"
    return "Any"
