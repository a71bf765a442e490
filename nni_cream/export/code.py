"""Python file of a network that needs torch alone: a class for each kind of block, and one call that builds it."""

from __future__ import annotations

import re
from itertools import chain

from torch import Tensor, nn

from nni_cream.errors import ExportError
from nni_cream.export.class_code import Block, describe_block
from nni_cream.export.expressions import Call, Expression, call, mapping, sequence, write
from nni_cream.export.layers import ADVICE, layer_code, torch_class
from nni_cream.export.module_graph import Calls, record_calls
from nni_cream.export.output_check import evaluating

__all__ = ["network_code"]

_TAKEN = ("Any", "F", "OrderedDict", "Path", "Tensor", "build", "load", "nn", "torch")


def network_code(network: nn.Module, images: Tensor, title: str) -> str:
    """Write a network as Python code.

    Each module with its own ``forward`` becomes a class, whose arguments are the layers. ``build()`` makes the whole
    architecture. Outside the layers of ``torch.nn``, training mode is ignored.

    Parameters
    ----------
    network
        Images in, logits out; the same network always gives the same code.
    images
        Images (N, C, H, W) to run it on once.
    title
        First lines of the file.

    Returns
    -------
    str
        The file. The names of the weights are the network's own, so that its ``state_dict`` fits.

    Raises
    ------
    ExportError
        If a module cannot be written; the message names it.
    """
    _check_shared(network)
    with evaluating(network):
        writer = _Writer(record_calls(network, images))
        built = writer.describe(network, "")
    return writer.file(title, built)


class _Writer:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._names: dict[Block, str] = {}

    def describe(self, module: nn.Module, path: str, called: frozenset[nn.Module] = frozenset()) -> Expression:
        """Write the call that makes a module, and note the classes that it needs."""
        kind = torch_class(module)
        if kind is nn.Sequential:
            return self._sequential(module, path)
        if kind in (nn.ModuleList, nn.ModuleDict):
            return self._holder(module, path, called)
        if kind is None:
            return self._block(module, path)
        if any(True for _ in module.children()):
            raise ExportError(f"module {path!r} is a {kind.__name__} with modules of its own. {ADVICE}")
        return layer_code(module, path)

    def _sequential(self, module: nn.Module, path: str) -> Expression:
        children = {name: self.describe(child, _below(path, name)) for name, child in module.named_children()}
        if list(children) == [str(index) for index in range(len(children))]:
            return call("nn.Sequential", *children.values())
        return call("nn.Sequential", call("OrderedDict", mapping(children)))

    def _holder(self, module: nn.Module, path: str, called: frozenset[nn.Module]) -> Expression:
        children = {
            # What does nothing keeps its place, so that the others keep their numbers.
            name: self.describe(child, _below(path, name), called) if _needed(child, called) else "nn.Identity()"
            for name, child in module.named_children()
        }
        if isinstance(module, nn.ModuleDict):
            return call("nn.ModuleDict", mapping(children))
        return call("nn.ModuleList", sequence(children.values(), "[]"))

    def _block(self, module: nn.Module, path: str) -> Expression:
        described = describe_block(module, self._calls, path)
        children = {
            name: self.describe(child, _below(path, name), described.called)
            for name, child in module.named_children()
            if _needed(child, described.called)
        }
        block = described.block(tuple(children))
        name = self._names.get(block) or self._names.setdefault(block, self._free_name(type(module).__name__))
        if block.base == "nn.Sequential":
            return call(name, *children.values())
        return call(name, **children, **described.tensors)

    def _free_name(self, wanted: str) -> str:
        taken = {*_TAKEN, *self._names.values()}
        names = chain([wanted], (f"{wanted}_{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)

    def file(self, title: str, built: Expression) -> str:
        """Assemble the file."""
        root = built.function if isinstance(built, Call) else "nn.Module"
        classes = [block.code(name) for block, name in self._names.items()]
        functions = _FUNCTIONS.replace("ROOT", root).replace("BUILT", write(built, 4, "return "))
        body = "\n\n".join([*classes, functions])
        return f'"""{title}"""\n\n{_imports(body)}\n\n\n{body}'


_FUNCTIONS = '''\
def build() -> ROOT:
    """Build the network with new weights."""
BUILT


def load(weights: str | Path | None = None) -> ROOT:
    """Build the network with weights from a file, by default the one beside this."""
    path = Path(__file__).with_name("weights.pt") if weights is None else Path(weights)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file. Save the weights of this network there "
            "with torch.save(network.state_dict(), path), name their file with "
            "load(path), or take new ones from build()."
        )
    network = build()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
'''


def _imports(body: str) -> str:
    lines = ["from __future__ import annotations\n"]
    if re.search(r"\bOrderedDict\b", body):
        lines.append("from collections import OrderedDict")
    lines.append("from pathlib import Path")
    if re.search(r"\bAny\b", body):
        lines.append("from typing import Any")
    lines.append("\nimport torch")
    if re.search(r"\bF\.", body):
        lines.append("import torch.nn.functional as F")
    lines.append("from torch import Tensor, nn" if re.search(r"\bTensor\b", body) else "from torch import nn")
    return "\n".join(lines)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _needed(module: nn.Module, called: frozenset[nn.Module]) -> bool:
    return bool(module.state_dict()) or any(part in called for part in module.modules())


def _check_shared(network: nn.Module) -> None:
    """Refuse shared weights: built anew, they would be two tensors, which training would drive apart."""
    first: dict[Tensor, str] = {}
    for name, tensor in chain(
        network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    ):
        if first.setdefault(tensor, name) != name:
            raise ExportError(f"{first[tensor]!r} and {name!r} are one and the same tensor. {ADVICE}")
