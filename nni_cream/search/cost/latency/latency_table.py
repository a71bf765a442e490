"""A table of latencies, measured here or on another device, as plain JSON values."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nni.mutable import LabeledMutable
from nni.mutable.annotation import Constraint
from schema import Optional

from nni_cream.errors import SpaceError
from nni_cream.json_reader import NOT_NEGATIVE, OBJECT, check_json, format_of, nullable, one_or_more, wrong_field
from nni_cream.options import TEXT, whole
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import encode_value
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["LatencyTable", "Measured", "space_digest", "value_name"]

_HINT = "`nni-cream latency CONFIG.yml --out FILE` makes a latency table."
_FORMAT = "nni_cream.latency/1"
_FIELDS = {
    "format": format_of(_FORMAT),
    "device": TEXT,
    "sizes": one_or_more(
        {
            "shape": one_or_more(whole(1)),
            "columns": {str: {str: NOT_NEGATIVE}},
            Optional("base"): NOT_NEGATIVE,
            Optional("scale"): NOT_NEGATIVE,
        }
    ),
    Optional("settings"): nullable(OBJECT),
    Optional("space"): nullable(TEXT),
    Optional("versions"): nullable(OBJECT),
    Optional("check"): nullable(OBJECT),
}


@dataclass(frozen=True)
class Measured:
    """Latencies for one size of images.

    Parameters
    ----------
    shape
        Of one input, such as (C, H, W).
    base
        Seconds of the layers around the choices, which every path has.
    columns
        Label -> name of each of its values -> seconds.
    scale
        Factor on the columns: a part may be faster or slower within a network than alone.
    """

    shape: tuple[int, ...]
    base: float
    columns: Mapping[str, Mapping[str, float]]
    scale: float = 1.0

    @property
    def pixels(self) -> int:
        """Height times width, times any further dimensions."""
        return math.prod(self.shape[1:])

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measured:
        """Make one of checked JSON values."""
        columns = {
            label: {value: float(seconds) for value, seconds in column.items()}
            for label, column in content["columns"].items()
        }
        return cls(tuple(content["shape"]), float(content.get("base", 0)), columns, float(content.get("scale", 1)))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        columns = {label: dict(column) for label, column in self.columns.items()}
        return {"shape": list(self.shape), "base": self.base, "scale": self.scale, "columns": columns}


@dataclass(frozen=True)
class LatencyTable:
    """The seconds of each choice of a space on one device.

    Parameters
    ----------
    device
        Its name.
    sizes
        One entry for each size of images, smallest first.
    settings
        How it was measured, for example ``batch_size`` and ``threads``.
    space
        Digest of the space's layers, if known: spaces with the same labels may differ in widths.
    versions
        Versions of the packages that measured it.
    check
        Agreement with whole networks: ``paths``, ``median_error`` and ``worst_error``, relative. ``seconds``: least,
        median and largest time of these networks, at the largest size.
    """

    device: str
    sizes: tuple[Measured, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    check: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """A short name of the content, by which a checkpoint knows it."""
        # Sorted, so that the order of the keys in a file does not matter.
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "format": _FORMAT,
            "device": self.device,
            "settings": dict(self.settings),
            "space": self.space,
            "versions": dict(self.versions),
            "check": None if self.check is None else dict(self.check),
            "sizes": [measured.to_json() for measured in self.sizes],
        }

    @classmethod
    def from_json(cls, content: Any, where: object = "latency table") -> LatencyTable:
        """Read the result of :meth:`to_json`, or a user's file; ``FileError`` names ``where`` and the invalid key."""
        check_json(content, where, _HINT, _FIELDS)
        sizes = [Measured.from_json(item) for item in content["sizes"]]
        # Interpolation between sizes pairs the columns by their labels.
        if any(item.columns.keys() != sizes[0].columns.keys() for item in sizes):
            found, expected = "a list with different labels in columns", "the same labels for every size"
            raise wrong_field(where, "sizes", found, expected, _HINT)
        return cls(
            device=content["device"],
            # ``_at`` finds the neighbouring sizes by their order, which a user's file need not keep.
            sizes=tuple(sorted(sizes, key=lambda item: item.pixels)),
            settings=content.get("settings") or {},
            space=content.get("space"),
            versions=content.get("versions") or {},
            check=content.get("check"),
        )

    def costs(self, supernet: Supernet, shape: Sequence[int]) -> CostTable:
        """Return the seconds of one space for one size of images.

        Parameters
        ----------
        supernet
            The mutated space.
        shape
            Of one input, such as (C, H, W). Between two sizes of the table, latency is linear in the number of pixels.

        Returns
        -------
        CostTable
            In seconds.

        Raises
        ------
        SpaceError
            If the table is of another space (the message names the first labels that differ) or other image sizes.
        """
        self.check_space(supernet)
        base, columns = self._at(tuple(shape))
        values = {label: mutable.values for label, mutable in _choices(supernet).items()}
        named = {
            # Keys of JSON are texts, so a number such as a depth needs its name there.
            label: {value: columns[label][value_name(value, label)] for value in options}
            for label, options in values.items()
        }
        groups = supernet.usage.groups
        if groups is None:
            raise SpaceError(
                "the space has too many combinations of depths and layers; expected fewer, for a table of latencies."
            )
        return CostTable(base, named, groups)

    def check_space(self, supernet: Supernet) -> None:
        """Raise ``SpaceError`` for another space, with the first labels or values that differ."""
        expected = {
            str(label): {value_name(value, label) for value in mutable.values}
            for label, mutable in _choices(supernet).items()
        }
        columns = self.sizes[0].columns
        lacking = [label for label in expected if label not in columns]
        foreign = [label for label in columns if label not in expected]
        if lacking or foreign:
            raise SpaceError(
                f"the latency table is of another space: it lacks the labels {lacking[:3]} and has the foreign labels "
                f"{foreign[:3]}. Make a table of this space with `nni-cream latency`."
            )
        for measured in self.sizes:
            for label, column in measured.columns.items():
                if set(column) != expected[label]:
                    raise SpaceError(
                        f"the latency table is of another space: values of label {label!r} are {sorted(column)}; "
                        f"expected {sorted(expected[label])}. Make a table of this space with `nni-cream latency`."
                    )
        # A table written by hand has no digest.
        if self.space is not None and self.space != space_digest(supernet):
            raise SpaceError(
                "the latency table is of another space: its choices have the same names, but layers of other shapes "
                "(widths, classes or channels). Make a table of this space with `nni-cream latency`."
            )

    def _at(self, shape: tuple[int, ...]) -> tuple[float, dict[str, dict[str, float]]]:
        """Interpolate the base and the scaled columns for inputs of this shape."""
        pixels = math.prod(shape[1:])
        below = [item for item in self.sizes if item.pixels <= pixels]
        above = [item for item in self.sizes if item.pixels >= pixels]
        # Only the sides may differ: other channels make another network.
        same = all(item.shape[0] == shape[0] and len(item.shape) == len(shape) for item in self.sizes)
        if not (below and above and same):
            sizes = ", ".join("x".join(map(str, item.shape)) for item in self.sizes)
            raise SpaceError(
                f"the shape of the inputs is {'x'.join(map(str, shape))}; expected one of {sizes} or between them, "
                "which the latency table has. Measure that size too (image_sizes)."
            )
        low, high = below[-1], above[0]
        # The size itself is in the table: there is nothing to interpolate.
        share = 0.0 if high.pixels == low.pixels else (pixels - low.pixels) / (high.pixels - low.pixels)

        def between(first: float, second: float) -> float:
            return (1 - share) * first + share * second

        columns = {
            label: {
                # Each size has its own fitted scale, so it applies before the interpolation.
                name: between(low.scale * seconds, high.scale * high.columns[label][name])
                for name, seconds in column.items()
            }
            for label, column in low.columns.items()
        }
        return between(low.base, high.base), columns


def value_name(value: Any, label: str) -> str:
    """Return the name of a choice's value in a table: a text as it is, anything else as JSON."""
    encoded = encode_value(value, label)
    return encoded if isinstance(encoded, str) else json.dumps(encoded)


def space_digest(supernet: Supernet) -> str:
    """Return a short digest of a space's layers: their names, kinds and shapes."""
    shapes = [(name, list(value.shape)) for name, value in supernet.space.state_dict().items()]
    kinds = [(name, type(module).__name__) for name, module in supernet.space.named_modules()]
    return hashlib.sha256(json.dumps([shapes, kinds]).encode()).hexdigest()[:16]


def _choices(supernet: Supernet) -> dict[str, LabeledMutable]:
    return {label: item for label, item in supernet.mutables.items() if not isinstance(item, Constraint)}
