"""Content of a data set, and the files of it that cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nni_cream.data.folders.image_parts import ImageFiles, ImagePart
from nni_cream.data.folders.unreadable import (
    Unreadable,
    UnreadableFilesError,
    cannot_be_decoded,
    check_limit,
    find_unreadable,
)
from nni_cream.data.registry import arguments_of, create_silently
from nni_cream.data.splits import PARTS, DataSplits

__all__ = ["Inspection", "inspect_data"]

Watch = Callable[[Iterable[Any], int], Iterable[Any]]


def _unwatched(items: Iterable[Any], count: int) -> Iterable[Any]:
    return items


@dataclass(frozen=True)
class Inspection:
    """Result of an inspection; the fields that may be ``None`` are when too many files cannot be read."""

    name: str
    usable: bool  #: Whether a search could run on it.
    parts: dict[str, int]  #: Part -> number of images; empty where too many files cannot be read.
    classes: int | None
    input_shape: tuple[int, ...] | None  #: Shape (C, H, W) of one image.
    fingerprint: str | None
    unreadable: tuple[Unreadable, ...]
    limit: int  #: Largest number of unreadable files allowed.
    left_out: Mapping[str, int] = field(default_factory=dict)  #: Ending -> number of files that are not read.
    dark: Mapping[str, int] = field(default_factory=dict)  #: File of 16 bits that needs fewer -> its largest value.
    repeated: Mapping[str, str] = field(default_factory=dict)  #: File -> file of another part with the same bytes.

    def to_json(self) -> dict[str, Any]:
        """Return it as values for JSON."""
        return asdict(self)


def inspect_data(name: str, arguments: dict[str, Any], *, full: bool = False, watch: Watch = _unwatched) -> Inspection:
    """Load a data set and look at each of its files; takes the arguments of ``create``.

    Files are checked whatever ``check`` says, and nothing is kept in memory. ``full`` decodes every file, instead of
    looking at its beginning and end. ``watch`` gets the results as they come and their number; it passes them on and
    may show progress.
    """
    known = arguments_of(name)
    found: tuple[Unreadable, ...] = ()
    if "max_unreadable" not in known:
        return _describe(create_silently(name, **arguments), (), 0)
    limit = arguments.get("max_unreadable", 0)
    check_limit(name, limit)
    own = {**arguments, "max_unreadable": 0, "check": True, "cache": False}
    try:
        splits = create_silently(name, **own)
    except UnreadableFilesError as error:
        found = error.files
        if len(found) > limit:
            everything = create_silently(name, **{**own, "check": False})
            if full:
                told = {item.file for item in found}
                found += tuple(item for item in _decode_all(everything, watch) if item.file not in told)
            return Inspection(name, False, {}, None, None, None, found, limit, everything.left_out)
        splits = create_silently(name, **{**own, "max_unreadable": len(found)})
    if not full:
        return _describe(splits, found, limit)
    more = tuple(_decode_all(splits, watch))
    repeated = _repeated(splits)
    # A file that only decoding shows to be broken is not left out by a search, so that one is too many.
    return _describe(splits, (*found, *more), limit, not more, repeated)


def _describe(
    splits: DataSplits,
    found: tuple[Unreadable, ...],
    limit: int,
    usable: bool = True,
    repeated: Mapping[str, str] = MappingProxyType({}),
) -> Inspection:
    parts = {part: len(splits.indices[part]) for part in PARTS}
    return Inspection(
        *(splits.name, usable, parts, splits.num_classes, splits.input_shape, splits.fingerprint, found, limit),
        left_out=splits.left_out,
        dark=splits.dark,
        repeated=dict(repeated),
    )


def _files(splits: DataSplits) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each part of image files, with their folder and names."""
    for part in PARTS:
        images = getattr(splits, part)
        if isinstance(images, ImagePart) and isinstance(images.source, ImageFiles):
            yield part, images.source.root, [images.source.name(int(position)) for position in images.positions]


def _decode_all(splits: DataSplits, watch: Watch) -> Iterable[Unreadable]:
    for _, root, names in _files(splits):
        yield from find_unreadable(root, names, cannot_be_decoded, watch).values()


def _repeated(splits: DataSplits) -> dict[str, str]:
    """Return file -> file of an earlier part with the same bytes."""
    sizes: dict[int, list[tuple[str, str, Path]]] = {}
    for part, root, names in _files(splits):
        for name in names:
            path = Path(root, name)
            sizes.setdefault(path.stat().st_size, []).append((part, name, path))
    first: dict[bytes, tuple[str, str]] = {}
    repeated = {}
    for part, name, path in (item for alike in sizes.values() if len(alike) > 1 for item in alike):
        with path.open("rb") as file:
            earlier = first.setdefault(hashlib.file_digest(file, "sha256").digest(), (part, name))
        if earlier[0] != part:
            repeated[name] = earlier[1]
    return repeated
