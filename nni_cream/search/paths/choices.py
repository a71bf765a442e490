"""The choices of a space: whether a supernet can hold them, how many values they take, and paths read from a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import Repeat
from torch import nn

from nni_cream.errors import SpaceError
from nni_cream.search.paths.encoded_path import Path, encode_value

__all__ = ["Options", "check_depths", "check_mutables", "count_values", "decode_path"]


class Options:
    """The options of every choice of a space, and paths as their indices: a short form for paths by the thousand.

    Parameters
    ----------
    mutables
        What the space's ``simplify()`` returns.

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
                self._places[name] = {json.dumps(value): index for index, value in enumerate(self.choices[name])}
                if isinstance(mutable, CategoricalMultiple):
                    self._several.add(name)

    def indices(self, path: Mapping[str, Any]) -> list[int | list[int]]:
        """Return the place of each choice of a path among its options.

        Parameters
        ----------
        path
            Encoded path (:func:`~nni_cream.search.paths.encoded_path.encode_path`) of this space.

        Returns
        -------
        list
            In the order of :attr:`choices`; a list of indices where several options are chosen.
        """
        return [
            [places[json.dumps(option)] for option in path[label]]
            if label in self._several
            else places[json.dumps(path[label])]
            for label, places in self._places.items()
        ]


def decode_path(encoded: Mapping[str, Any], mutables: Mapping[str, LabeledMutable]) -> Path:
    """Turn the output of :func:`~nni_cream.search.paths.encoded_path.encode_path` back into a sample of a given space.

    Parameters
    ----------
    encoded
        Labels to JSON values.
    mutables
        What the space's ``simplify()`` returns. Each decoded value is the space's own (a tuple stays a tuple).

    Returns
    -------
    Path
        A sample that the space can be frozen with.

    Raises
    ------
    SpaceError
        If a label is missing or unknown, a value is not among the choices, or a constraint of the space is broken.
    """
    choices = {label: mutable for label, mutable in mutables.items() if not isinstance(mutable, Constraint)}
    missing, unknown = sorted(choices.keys() - encoded.keys()), sorted(encoded.keys() - choices.keys())
    if missing or unknown:
        raise SpaceError(
            f"the path does not belong to this search space: missing labels {missing}, unknown labels {unknown}; "
            f"the space has {sorted(choices)}"
        )
    path = {label: _decode(encoded[label], label, mutable) for label, mutable in choices.items()}
    for label, mutable in mutables.items():
        violation = mutable.check_contains(path)
        if violation is not None:
            raise SpaceError(f"the path breaks the space's rule {label!r}: {violation}")
    return path


def check_mutables(mutables: Mapping[str, LabeledMutable]) -> None:
    """Refuse spaces that cannot be sampled as a supernet.

    Parameters
    ----------
    mutables
        What the space's ``simplify()`` returns.

    Raises
    ------
    SpaceError
        If nothing is mutable, or a mutable is neither a choice of one nor a choice of several values.
    """
    if not any(isinstance(mutable, Categorical | CategoricalMultiple) for mutable in mutables.values()):
        raise SpaceError(
            "the search space holds no mutable, so there is nothing to search; use LayerChoice, InputChoice, Repeat, "
            "Cell or nni.choice in the model"
        )
    for label, mutable in mutables.items():
        if not isinstance(mutable, Categorical | CategoricalMultiple | Constraint):
            raise SpaceError(
                f"mutable {label!r} is a {type(mutable).__name__}; a supernet can only hold finite choices, "
                "so use nni.choice with the values to try"
            )


def check_depths(space: nn.Module) -> None:
    """Refuse a ``Repeat`` that may hold no block at all, which NNI's supernet cannot run.

    Parameters
    ----------
    space
        The space, before or after the one-shot mutation.

    Raises
    ------
    SpaceError
        With the labels of the depth.
    """
    for module in space.modules():
        if not isinstance(module, Repeat) or not isinstance(module.depth_choice, Mutable):
            continue
        smallest = min(module.depth_choice.grid())
        if smallest < 1:
            labels = ", ".join(repr(str(label)) for label in module.depth_choice.simplify())
            raise SpaceError(
                f"the depth {labels} of a Repeat can be {smallest}, which a supernet cannot run; let it start at 1, "
                "and leave a block out by a LayerChoice with an nn.Identity"
            )


def count_values(mutable: LabeledMutable) -> int:
    """Count the values that a choice can take; a constraint has one."""
    if isinstance(mutable, Categorical):
        return len(mutable.values)
    if isinstance(mutable, CategoricalMultiple):
        total = len(mutable.values)
        return 2**total if mutable.n_chosen is None else math.comb(total, mutable.n_chosen)
    return 1


def _decode(encoded: Any, label: str, mutable: LabeledMutable) -> Any:
    if isinstance(mutable, CategoricalMultiple):
        if not isinstance(encoded, list):
            raise SpaceError(f"value {encoded!r} of {label!r} should be a list of choices from {mutable.values}")
        return [_find(item, label, mutable.values) for item in encoded]
    return _find(encoded, label, mutable.values)


def _find(encoded: Any, label: str, values: list[Any]) -> Any:
    for value in values:
        candidate = encode_value(value, label)
        if candidate == encoded and isinstance(candidate, bool) == isinstance(encoded, bool):
            return value
    raise SpaceError(f"value {encoded!r} of {label!r} is not a choice of this search space; expected one of {values}")
