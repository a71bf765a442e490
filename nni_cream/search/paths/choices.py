"""The choices of a space: check them, count their values, and read paths from a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import Repeat
from torch import nn
from torch.nn.parameter import is_lazy

from nni_cream.errors import SpaceError
from nni_cream.search.paths.encoded_path import Path, encode_value

__all__ = ["Options", "check_depths", "check_mutables", "check_sizes", "count_values", "decode_path"]


class Options:
    """The options of every choice of a space, to write a path as short indices.

    Parameters
    ----------
    mutables
        The result of the space's ``simplify()``.

    Attributes
    ----------
    choices
        Label -> its options as plain JSON values, in the order of the space.
    """

    def __init__(self, mutables: Mapping[str, LabeledMutable]) -> None:
        self.choices: dict[str, list[Any]] = {}
        self._places: dict[str, dict[str, int]] = {}
        self._several: set[str] = set()
        for label, mutable in mutables.items():
            if isinstance(mutable, Categorical | CategoricalMultiple):
                name = str(label)
                self.choices[name] = [encode_value(value, label) for value in mutable.values]
                # By their JSON text: lists are not hashable, and as keys of a dict 1, 1.0 and True would be one.
                self._places[name] = {json.dumps(value): index for index, value in enumerate(self.choices[name])}
                if isinstance(mutable, CategoricalMultiple):
                    self._several.add(name)

    def indices(self, path: Mapping[str, Any]) -> list[int | list[int]]:
        """Return the index of each choice of an encoded path, or a list of indices where several are chosen."""
        return [
            [places[json.dumps(option)] for option in path[label]]
            if label in self._several
            else places[json.dumps(path[label])]
            for label, places in self._places.items()
        ]


def decode_path(encoded: Mapping[str, Any], mutables: Mapping[str, LabeledMutable]) -> Path:
    """Turn an encoded path (:func:`~nni_cream.search.paths.encoded_path.encode_path`) back into a sample of a space.

    Parameters
    ----------
    encoded
        Label -> JSON value.
    mutables
        The result of the space's ``simplify()``.

    Returns
    -------
    Path
        With the space's own values: a tuple stays a tuple.

    Raises
    ------
    SpaceError
        If a label is missing or unknown, a value is not among the choices, or a constraint is broken.
    """
    choices = {label: mutable for label, mutable in mutables.items() if not isinstance(mutable, Constraint)}
    missing, unknown = sorted(choices.keys() - encoded.keys()), sorted(encoded.keys() - choices.keys())
    if missing or unknown:
        raise SpaceError(
            f"the path has missing labels {missing} and unknown labels {unknown}; expected those of this search space, "
            f"{sorted(choices)}."
        )
    path = {label: _decode(encoded[label], label, mutable) for label, mutable in choices.items()}
    for label, mutable in mutables.items():
        # Only now: a constraint looks at several labels, so all of them must be decoded.
        violation = mutable.check_contains(path)
        if violation is not None:
            raise SpaceError(f"the path breaks the space's rule {label!r}: {violation}.")
    return path


def check_mutables(mutables: Mapping[str, LabeledMutable]) -> None:
    """Raise ``SpaceError`` for a space without a choice, or with one that a supernet cannot hold."""
    if not any(isinstance(mutable, Categorical | CategoricalMultiple) for mutable in mutables.values()):
        raise SpaceError(
            "the search space holds no mutable; expected something to search. Use LayerChoice, InputChoice, Repeat, "
            "Cell or nni.choice in the model."
        )
    for label, mutable in mutables.items():
        if not isinstance(mutable, Categorical | CategoricalMultiple | Constraint):
            raise SpaceError(
                f"mutable {label!r} is a {type(mutable).__name__}; expected a finite choice. Use nni.choice with the "
                "values to try."
            )


def check_sizes(module: nn.Module, what: str) -> None:
    """Raise ``SpaceError`` for a lazy module, whose weights have no shape before the first batch."""
    for name, part in module.named_modules():
        if any(map(is_lazy, [*part._parameters.values(), *part._buffers.values()])):
            kind = type(part).__name__
            raise SpaceError(
                f"module {name!r} of {what} is a {kind} without sizes; expected weights of known shapes. Give its "
                f"sizes: {kind.removeprefix('Lazy')}(...)"
            )


def check_depths(space: nn.Module) -> None:
    """Raise ``SpaceError`` for a ``Repeat`` that may hold no block, which NNI's supernet cannot run."""
    for module in space.modules():
        if not isinstance(module, Repeat) or not isinstance(module.depth_choice, Mutable):
            continue
        # A depth may be an expression of choices, so its values come from its grid and not from one label.
        smallest = min(module.depth_choice.grid())
        if smallest < 1:
            labels = ", ".join(repr(str(label)) for label in module.depth_choice.simplify())
            raise SpaceError(
                f"the smallest depth {labels} of a Repeat is {smallest}; expected at least 1, which a supernet can "
                "run. Leave a block out by a LayerChoice with an nn.Identity instead."
            )


def count_values(mutable: LabeledMutable) -> int:
    """Count the values of a choice; a constraint has one."""
    if isinstance(mutable, Categorical):
        return len(mutable.values)
    if isinstance(mutable, CategoricalMultiple):
        total = len(mutable.values)
        # Without a fixed number NNI draws each value independently: every subset is possible.
        return 2**total if mutable.n_chosen is None else math.comb(total, mutable.n_chosen)
    return 1


def _decode(encoded: Any, label: str, mutable: LabeledMutable) -> Any:
    if isinstance(mutable, CategoricalMultiple):
        if not isinstance(encoded, list):
            raise SpaceError(f"{label!r} is {encoded!r}; expected a list of choices from {mutable.values}.")
        return [_find(item, label, mutable.values) for item in encoded]
    return _find(encoded, label, mutable.values)


def _find(encoded: Any, label: str, values: list[Any]) -> Any:
    for value in values:
        candidate = encode_value(value, label)
        # In Python True equals 1, yet they are different options.
        if candidate == encoded and isinstance(candidate, bool) == isinstance(encoded, bool):
            return value
    raise SpaceError(f"{label!r} is {encoded!r}, which is no choice of this search space; expected one of {values}.")
