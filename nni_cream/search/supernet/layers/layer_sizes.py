"""The sizes that a layer with choices among its arguments can have."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nni.mutable import Categorical, Mutable
from nni.nas.nn.pytorch.base import ParametrizedModule
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nni_cream.errors import SpaceError
from nni_cream.search.paths.encoded_path import Path

__all__ = ["Combination", "Cut", "LayerSizes", "cuts_of", "plain_attributes", "same", "shapes_of", "sliced"]

Cut = tuple[int, int, int, int]
"""Dimension, number of equal parts of it that are each cut, first entry, number of entries."""
_GATES: Mapping[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
_MACHINERY = (vars(nn.Module()).keys() - {"training"}) | {
    "trace_args", "trace_kwargs", "_mutables", "_flat_weights", "_flat_weight_refs",
}  # fmt: skip


@dataclass
class Combination:
    """One combination of arguments: shapes by the names of weights and buffers, attributes by the names of modules."""

    sample: Path
    shapes: dict[str, tuple[int, ...]]
    attributes: dict[str, dict[str, Any]]


class LayerSizes:
    """Every combination of a layer's arguments, and what they have in common.

    Parameters
    ----------
    title
        Name and class of the layer, for errors.
    layer
        The layer with choices, as NNI built it.

    Attributes
    ----------
    whole
        Name of a weight or buffer -> the largest size of each dimension.
    shared
        Name of a module within the layer -> its attributes that no choice decides.
    invalid
        Combinations that torch refuses -> its reason.
    partly_kept
        Weights that the space initialises itself, for one of their sizes.

    Raises
    ------
    SpaceError
        If the combinations cannot be slices of the same weights.
    """

    limit = 10_000

    def __init__(self, title: str, layer: Any) -> None:
        self.title = title
        self.partly_kept: str | None = None
        self._kind: type[nn.Module] = layer._bound_type
        self._args, self._kwargs = layer.trace_args, {k: v for k, v in layer.trace_kwargs.items() if k != "device"}
        self._device = layer.trace_kwargs.get("device")
        self.choices: dict[str, Categorical] = self._find_choices(layer.mutables)
        self.invalid: dict[tuple[int, ...], str] = {}
        self.combinations = list(self._list())
        if not self.combinations:
            raise SpaceError(f"{title}: torch refuses every combination of its arguments: {self.invalid.popitem()[1]}")
        self.whole = self._largest_sizes()
        self.shared = self._common_attributes()

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerSizes:
        """Return the object itself: it does not change once its layer is made."""
        return self

    def key(self, sample: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the index of each choice."""
        return tuple(choice.values.index(sample[label]) for label, choice in self.choices.items())

    def _sample(self, key: tuple[int, ...]) -> Path:
        choices = self.choices.items()
        return {label: choice.values[index] for index, (label, choice) in zip(key, choices, strict=True)}

    def build(self, key: tuple[int, ...], device: Any = "meta") -> nn.Module:
        """Build the plain layer of a combination; raise ``SpaceError`` if torch refuses it."""
        if key in self.invalid:
            raise SpaceError(f"{self.title}: {self.invalid[key]}")
        args, kwargs = ParametrizedModule.freeze_init_arguments(self._sample(key), *self._args, **self._kwargs)
        with torch.device(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the space's own layer has warned already
            return self._kind(*args, **kwargs)

    def fresh(self, combination: Combination) -> nn.Module:
        """Build a combination with torch's initial values."""
        return self.build(self.key(combination.sample), self._device or torch.get_default_device())

    def largest(self) -> nn.Module:
        """Build a layer with the largest size of every weight, with torch's initial values as far as it has them."""
        most = max(self.combinations, key=lambda item: sum(map(math.prod, item.shapes.values())))
        layer = self.fresh(most)
        for name, shape in self.whole.items():
            if most.shapes.get(name) == shape:
                continue
            source = next(item for item in self.combinations if name in item.shapes)
            self._enlarge(layer, name, shape, self.fresh(source) if name not in most.shapes else layer)
        return layer

    def _enlarge(self, layer: nn.Module, name: str, shape: tuple[int, ...], source: nn.Module) -> None:
        path, _, leaf = name.rpartition(".")
        giver, taker = source.get_submodule(path), layer.get_submodule(path)
        values = getattr(giver, leaf).detach()
        # Drawn from the initial values: no single layer of torch has these sizes.
        drawn = values.flatten()[torch.randint(values.numel(), (math.prod(shape),), device=values.device)].view(shape)
        if leaf in giver._parameters:
            taker._parameters[leaf] = nn.Parameter(drawn)
        else:
            taker._buffers[leaf] = drawn

    def _find_choices(self, mutables: Sequence[Mutable]) -> dict[str, Categorical]:
        choices: dict[str, Any] = {}
        for mutable in mutables:
            choices |= mutable.simplify()
        wrong = next((str(label) for label, item in choices.items() if not isinstance(item, Categorical)), None)
        if wrong is not None:
            raise SpaceError(f"{self.title}: {wrong!r} is no nni.choice of single values, which an argument needs")
        count = math.prod(len(choice.values) for choice in choices.values())
        if count > self.limit:
            raise SpaceError(
                f"{self.title} has {count:,} combinations of its choices {[*map(str, choices)]}; expected at most "
                f"{self.limit:,}. Use fewer labels or values"
            )
        return choices

    def _list(self) -> Iterator[Combination]:
        for key in itertools.product(*(range(len(choice.values)) for choice in self.choices.values())):
            sample = self._sample(key)
            try:
                module = self.build(key)
            except (ValueError, RuntimeError, AssertionError, TypeError, ZeroDivisionError) as error:
                values = {str(label): value for label, value in sample.items()}
                self.invalid[key] = f"torch refuses {values}: {error}"
                continue
            attributes = {name: plain_attributes(part) for name, part in module.named_modules()}
            yield Combination(sample, shapes_of(module), attributes)

    def _largest_sizes(self) -> dict[str, tuple[int, ...]]:
        whole: dict[str, tuple[int, ...]] = {}
        modules = max((set(item.attributes) for item in self.combinations), key=len)
        for item in self.combinations:
            if not item.attributes.keys() <= modules:
                raise SpaceError(f"{self.title}: its choices change which layers it holds; use a LayerChoice instead")
            for name, shape in item.shapes.items():
                known = whole.setdefault(name, shape)
                if len(known) != len(shape):
                    raise SpaceError(
                        f"{self.title}: {name} has {len(known)} or {len(shape)} dimensions, depending on "
                        f"{[*map(str, self.choices)]}; expected one number. Use a LayerChoice instead"
                    )
                whole[name] = tuple(map(max, known, shape))
        return whole

    def _common_attributes(self) -> dict[str, list[str]]:
        shared: dict[str, dict[str, Any]] = {}
        for item in self.combinations:
            for path, attributes in item.attributes.items():
                known = shared.setdefault(path, dict(attributes))
                differing = [
                    name for name in known if name not in attributes or not same(known[name], attributes[name])
                ]
                for name in differing:
                    del known[name]
        return {path: [*attributes] for path, attributes in shared.items()}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight and buffer by its name."""
    tensors = itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds beside weights, buffers, modules and hooks."""
    return {name: value for name, value in vars(module).items() if name not in _MACHINERY}


def same(first: Any, second: Any) -> bool:
    """Return whether two attributes are equal."""
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return first is second
    return type(first) is type(second) and bool(first == second)


def cuts_of(module: nn.Module, name: str, shape: Sequence[int], whole: Sequence[int]) -> list[Cut]:
    """Return how a weight of a plain layer is cut from the largest one."""
    cuts = []
    for dimension, (size, most) in enumerate(zip(shape, whole, strict=True)):
        if size == most:
            continue
        parts = _parts(module, name, dimension)
        parts = 1 if most % parts else parts
        # NNI takes the centre of a kernel too.
        centred = isinstance(module, _ConvNd) and dimension >= 2
        cuts.append((dimension, parts, (most - size) // 2 if centred else 0, size // parts))
    return cuts


def _parts(module: nn.Module, name: str, dimension: int) -> int:
    """Count the blocks that a dimension consists of: gates, query, key and value, or two directions."""
    if dimension == 0:
        if isinstance(module, nn.MultiheadAttention):
            return 3 if name.startswith("in_proj") else 1
        return 1 if name.startswith("weight_hr") else _GATES.get(type(module), 1)
    second = isinstance(module, nn.RNNBase) and module.bidirectional and name.startswith("weight_ih")
    return 2 if second and "_l0" not in name else 1


def sliced(value: Tensor | None, cuts: list[Cut]) -> Tensor | None:
    """Cut a tensor; without cuts, return the tensor itself."""
    if value is None:
        return None
    for dimension, parts, start, length in cuts:
        if parts == 1:
            value = value.narrow(dimension, start, length)
        else:
            blocks = value.unflatten(dimension, (parts, -1)).narrow(dimension + 1, start, length)
            value = blocks.flatten(dimension, dimension + 1)
    return value
