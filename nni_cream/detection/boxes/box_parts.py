"""The parts of a data set with boxes, as the section ``data`` names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni_cream.detection.boxes.annotations import Annotations
from nni_cream.detection.boxes.coco_file import read_coco
from nni_cream.detection.boxes.voc_folder import read_voc
from nni_cream.errors import ConfigError, DataError
from nni_cream.named import did_you_mean
from nni_cream.options import unexpected

__all__ = ["PARTS", "BoxParts", "read_parts"]

PARTS = ("train", "validation", "test")
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "coco": {"train": "train2017", "validation": None, "test": "val2017"},
    "voc": {"train": "trainval", "validation": None, "test": "test"},
}


@dataclass(frozen=True)
class BoxParts:
    """A data set with boxes, part by part.

    Parameters
    ----------
    name
        ``coco`` or ``voc``.
    arguments
        All arguments, defaults included.
    parts
        Part -> its images. There may be no validation part.
    """

    name: str
    arguments: Mapping[str, Any]
    parts: Mapping[str, Annotations]

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories; the first has label 1."""
        return next(iter(self.parts.values())).categories

    @property
    def fingerprint(self) -> str:
        """Of all parts."""
        return "-".join(part.fingerprint[:20] for part in self.parts.values())


def read_parts(section: Mapping[str, Any], wanted: tuple[str, ...] = PARTS) -> BoxParts:
    """Read the annotations of a data set.

    Parameters
    ----------
    section
        ``name`` and ``arguments``: ``root``; the names of the parts ``train``, ``validation`` (null for none) and
        ``test``; ``faulty``, ``refuse`` or ``drop``. COCO's layout is ``ROOT/annotations/instances_PART.json`` and
        ``ROOT/PART/``, Pascal VOC's ``ROOT/ImageSets/Main/PART.txt``, ``ROOT/Annotations/`` and ``ROOT/JPEGImages/``.
    wanted
        Which parts.

    Returns
    -------
    BoxParts
        The wanted parts that the section names.

    Raises
    ------
    ConfigError
        If there is no such data set, or an argument is wrong.
    DataError
        If the parts do not agree in their categories, share an image, or one cannot be read.
    """
    name, given = section["name"], section["arguments"]
    if name not in _DEFAULTS:
        raise ConfigError(f"data is {name!r}; expected coco or voc.{did_you_mean(name, _DEFAULTS)}")
    arguments = {"root": None, **_DEFAULTS[name], "faulty": "refuse", **given}
    _check(name, given, arguments)
    root, drop = Path(arguments["root"]), arguments["faulty"] == "drop"
    parts = {}
    for part in wanted:
        if (value := arguments[part]) is None:
            continue
        if name == "coco":
            parts[part] = read_coco(root / "annotations" / f"instances_{value}.json", root / value, drop=drop)
        else:
            parts[part] = read_voc(root, value, drop=drop)
    _check_agreement(parts, root)
    return BoxParts(name, arguments, parts)


def _check(name: str, given: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    for key in given:
        if key not in ("root", *PARTS, "faulty"):
            known = ("root", *PARTS, "faulty")
            raise ConfigError(f"data.{key} is no argument of {name}; expected {', '.join(known)}.")
    if not isinstance(arguments["root"], str):
        raise ConfigError(unexpected("data.root", arguments["root"], "the folder of the data set"))
    for part in PARTS:
        if not (isinstance(arguments[part], str) or (part == "validation" and arguments[part] is None)):
            raise ConfigError(unexpected(f"data.{part}", arguments[part], "the name of a part"))
    if arguments["faulty"] not in ("refuse", "drop"):
        raise ConfigError(unexpected("data.faulty", arguments["faulty"], "refuse or drop"))


def _check_agreement(parts: Mapping[str, Annotations], root: Path) -> None:
    trained = _files(parts.get("train"))
    for part, found in parts.items():
        first, expected = next((name, item.categories) for name, item in parts.items())
        if found.categories != expected:
            raise DataError(
                f"{root}: the categories of {part} are {', '.join(found.categories)}; expected those of {first}: "
                f"{', '.join(expected)}. Write both files with the same categories."
            )
        shared = sorted(_files(found) & trained) if part != "train" else []
        if shared:
            raise DataError(
                f"{root}: {len(shared)} images of {part} are in train, too, the first is {shared[0].name}; expected "
                "none, since the figures would be of images that were learned. Take them out of one of the lists."
            )


def _files(part: Annotations | None) -> set[Path]:
    return set() if part is None else {part.root / image.file for image in part.images}
