"""Layers with choices among their arguments: one set of weights, of which each path uses slices."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from nni.mutable import LabeledMutable, Mutable
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch.base import MutableModule, ParametrizedModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from nni_cream.errors import SpaceError
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.supernet.layers.layer_sizes import Cut, LayerSizes, cuts_of, sliced
from nni_cream.search.supernet.layers.user_changes import keep_changes

__all__ = ["SlicedLayer", "check_shared", "check_sizes"]

_logger = logging.getLogger(__name__)


@dataclass
class _Part:
    """A module of a skeleton, the module of the layer that holds its weights, and how they are cut."""

    module: nn.Module
    own: nn.Module
    parameters: dict[str, list[Cut]]
    buffers: dict[str, list[Cut]]
    shared: list[str]

    def fill(self) -> None:
        """Give the skeleton's module slices of the weights, and the attributes that no choice decides."""
        state, own = self.module.__dict__, self.own.__dict__
        for name in self.shared:
            state[name] = own[name]
        # Straight into the dicts: __setattr__ takes no slice for a parameter.
        for kind, cuts in (("_parameters", self.parameters), ("_buffers", self.buffers)):
            target, source = state[kind], own[kind]
            for name, cut in cuts.items():
                target[name] = sliced(source[name], cut)
        if isinstance(self.module, nn.RNNBase):
            state["_flat_weights"] = [state["_parameters"][name] for name in state["_flat_weights_names"]]

    def separate(self) -> None:
        """Replace the slices by weights of the module's own."""
        state, own = self.module.__dict__, self.own.__dict__
        for name in self.parameters:
            value = state["_parameters"][name].detach().clone()
            state["_parameters"][name] = nn.Parameter(value, own["_parameters"][name].requires_grad)
        for name in self.buffers:
            value = state["_buffers"][name]
            state["_buffers"][name] = None if value is None else value.detach().clone()
        if isinstance(self.module, nn.RNNBase):
            self.module._init_flat_weights()


@dataclass
class _Skeleton:
    module: nn.Module
    parts: list[_Part]

    def filled(self) -> nn.Module:
        for part in self.parts:
            part.fill()
        return self.module


class _Skeletons(dict[tuple[int, ...], _Skeleton]):
    """The skeletons built so far. A copy of their layer starts without: they refer to this layer's modules."""

    def __reduce__(self) -> Any:
        return type(self), ()


class SlicedLayer(BaseSuperNetModule):
    """A layer of torch with choices among its arguments.

    It holds weights of the largest sizes. A path runs a *skeleton*, the plain layer of the chosen arguments, on slices
    of them: the leading entries, the centre of a convolution's kernel, and the leading entries of each gate of a
    recurrent layer and of query, key and value. A frozen layer is the skeleton with copies of the slices, so both
    compute the same by construction.
    """

    sizes: LayerSizes
    _skeletons: _Skeletons
    _key: tuple[int, ...] | None = None
    _simplified: dict[str, LabeledMutable] | None = None

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: dict[Any, Any], mutate_kwargs: dict[str, Any]) -> Any:
        """Replace a layer of NNI by one that holds all its sizes; raise ``SpaceError`` if that cannot be done.

        A layer without choices becomes the plain layer of torch: NNI would freeze it to one with new weights.
        """
        if not isinstance(module, ParametrizedModule) or module._bound_type is None:
            return None
        title = f"layer {name!r} ({type(module).__name__})"
        _check_kind(module, title)
        if not module.mutables:
            del module.trace_args, module.trace_kwargs
            module.__class__ = module._bound_type
            return True
        # NNI visits a layer that two modules hold once in each, and the weights must stay the same.
        if module not in memo:
            memo[module] = cls._of(module, title)
        return memo[module]

    @classmethod
    def _of(cls, module: Any, title: str) -> SlicedLayer:
        sizes = LayerSizes(title, module)
        kind = _class_of(module._bound_type)
        layer = cast(SlicedLayer, kind.__new__(kind))
        own = {"sizes": sizes, "_skeletons": _Skeletons(), "_mutables": list(module.mutables)}
        # Not by setattr, which a recurrent layer has of its own.
        layer.__dict__.update(vars(sizes.largest()) | own)
        keep_changes(layer, module, sizes)
        return layer

    def simplify(self, is_leaf: Any = None) -> dict[str, LabeledMutable]:
        """Cache the choices: NNI computes them again for every layer whenever a path is set."""
        # Another notion of a leaf gives another result, so only the default one is cached.
        if is_leaf is not None:
            return cast("dict[str, LabeledMutable]", super().simplify(is_leaf))
        if self._simplified is None:
            self._simplified = super().simplify()
        return cast("dict[str, LabeledMutable]", self._simplified)

    def resample(self, memo: Mapping[str, Any]) -> Path:
        """Take the values of a path, or draw those that it lacks."""
        choices = self.sizes.choices
        chosen = {label: memo[label] if label in memo else choice.random() for label, choice in choices.items()}
        key = self._key = self.sizes.key(chosen)
        # Built now and not in the forward pass, whose operations are counted. A path need not use this layer, so a
        # combination that torch refuses is an error only there.
        if key not in self._skeletons and key not in self.sizes.invalid:
            self._skeletons[key] = self._skeleton(key)
        return chosen

    def export(self, memo: Mapping[str, Any]) -> Path:
        """Draw the values that a path lacks."""
        return {label: choice.random() for label, choice in self.sizes.choices.items() if label not in memo}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the path's layer."""
        key = self._key
        if key is None:
            raise RuntimeError(f"{self.sizes.title} has no path yet; activate one before the forward pass")
        if key not in self._skeletons:
            self._skeletons[key] = self._skeleton(key)
        return self._skeletons[key].filled().forward(*args, **kwargs)

    def freeze(self, sample: Path) -> nn.Module:
        """Return the plain layer of a path with a copy of its weights."""
        skeleton = self._skeleton(self.sizes.key(sample))
        frozen = skeleton.filled()
        for part in skeleton.parts:
            part.separate()
        return frozen

    def flatten_parameters(self) -> None:
        """Do nothing: the weights of a recurrent layer of all sizes have no flat form."""

    def _skeleton(self, key: tuple[int, ...]) -> _Skeleton:
        module = self.sizes.build(key)
        parts = []
        for path, inner in module.named_modules():
            prefix = f"{path}." if path else ""
            kinds: list[Any] = [inner._parameters, inner._buffers]
            parameters, buffers = (
                {
                    name: cuts_of(inner, name, value.shape, self.sizes.whole[prefix + name])
                    for name, value in kind.items()
                    if value is not None
                }
                for kind in kinds
            )
            parts.append(_Part(inner, self.get_submodule(path), parameters, buffers, self.sizes.shared[path]))
        return _Skeleton(module, parts)


def check_sizes(space: nn.Module, mutables: Mapping[str, LabeledMutable]) -> None:
    """Raise ``SpaceError`` for a combination that torch refuses; warn once of initial values that are partly kept."""
    every = [module.sizes for module in space.modules() if isinstance(module, SlicedLayer)]
    invalid = next((sizes for sizes in every if sizes.invalid), None)
    # A constraint may exclude these combinations.
    if invalid is not None and not any(isinstance(mutable, Constraint) for mutable in mutables.values()):
        reason = next(iter(invalid.invalid.values()))
        raise SpaceError(f"{invalid.title}: {reason}. Change the choices, or exclude it by a constraint")
    partly = [sizes for sizes in every if sizes.partly_kept]
    if partly:
        _logger.warning(
            "The space initialises weights of %d layers with choices itself, such as %s. These values are kept for the "
            "sizes that the space built; the rest of the largest sizes has torch's default initialisation.",
            len(partly),
            "; ".join(str(sizes.partly_kept) for sizes in partly[:3]),
        )
    for sizes in partly:
        sizes.partly_kept = None


def check_shared(space: nn.Module) -> None:
    """Raise ``SpaceError`` for what NNI's mutation would part: layers with choices that share weights or a parent."""
    owners: dict[int, list[str]] = {}
    for name, module in space.named_modules():
        for weight in module._parameters.values():
            owners.setdefault(id(weight), []).append(name)
        chosen = [child for child in module._modules.values() if isinstance(child, MutableModule) and child.mutables]
        twice = next((child for child in chosen if sum(other is child for other in chosen) > 1), None)
        if twice is not None:
            raise SpaceError(
                f"module {name!r} holds one {type(twice).__name__} with choices under two names; expected one name. "
                "Use that in forward wherever the module runs"
            )
    for name, module in space.named_modules():
        if isinstance(module, ParametrizedModule) and module.mutables:
            others = {other for weight in module.parameters(recurse=False) for other in owners[id(weight)]} - {name}
            if others:
                raise SpaceError(
                    f"layer {name!r} ({type(module).__name__}) shares weights with {sorted(others)}, and has choices; "
                    "its weights of all sizes would be others. Use the layer itself in both places"
                )


@functools.cache
def _class_of(kind: type[nn.Module]) -> Any:
    # A subclass of the layer's own class, since much code asks for isinstance(module, nn.Linear) and the like.
    return type(f"Sliced{kind.__name__}", (SlicedLayer, kind), {})


def _check_kind(module: Any, title: str) -> None:
    """Raise ``SpaceError`` for a layer that is not what NNI builds of its arguments."""
    kind = type(module)
    if "_bound_type" not in vars(kind):
        raise SpaceError(
            f"{title} is a subclass or a parametrization of {kind.__mro__[1].__name__}, which NNI freezes to a plain "
            f"{module._bound_type.__name__}. Write it as an nn.Module of its own that holds the layer"
        )
    if issubclass(kind, LazyModuleMixin) and module.mutables:
        raise SpaceError(f"{title} is lazy; a layer with choices needs all its sizes from the start")
    if not (module.mutables or any(_nested(list(_values(module))))):
        return
    if not kind._bound_type.__module__.startswith("torch.nn.") and next(module.buffers(), None) is not None:
        raise SpaceError(f"{title} has choices and buffers, which may depend on these; use a LayerChoice instead")
    if getattr(module, "sparse", False):
        raise SpaceError(f"{title} has sparse=True and choices; torch has no sparse gradient of a slice")
    for value in _values(module):
        if isinstance(value, list | tuple | dict | set) and any(_nested(value)):
            raise SpaceError(
                f"{title}: an argument is {value!r}, with a choice inside; expected an nni.choice of whole values. "
                "Write nni.choice('kernel', [(1, 3), (3, 3)]) or the like, or an nni.mutable.MutableList"
            )
        if isinstance(value, nn.Module):
            raise SpaceError(f"{title} has choices and takes a module as an argument; use a LayerChoice instead")


def _values(module: Any) -> Iterator[Any]:
    yield from module.trace_args
    yield from module.trace_kwargs.values()


def _nested(values: Any) -> Iterator[bool]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, list | tuple | dict | set):
            yield from _nested(value)
        else:
            yield isinstance(value, Mutable) and not isinstance(value, nn.Module)
