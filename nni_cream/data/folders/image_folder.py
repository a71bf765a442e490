"""Any folder of images with one sub-folder a class."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from nni_cream.data.folders.class_folders import FolderContent, check_same_classes, class_folders, counted, join, scan
from nni_cream.data.folders.file_arguments import FileOptions, readable, splits_of_files
from nni_cream.data.splits import PARTS, DataSplits, Indices, stratified_split
from nni_cream.errors import ConfigError, DataError

__all__ = ["load_folder"]

_logger = logging.getLogger(__name__)
# Folder in lower case -> its part.
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_DEFAULT_SHARE = 0.1
_LAYOUT = (
    "Expected either sub-folders train, val and perhaps test with one folder a class in each, or one folder a class, "
    "such as cats/1.jpg and dogs/2.jpg."
)


def load_folder(
    *,
    root: str | os.PathLike[str],
    validation: float | None = None,
    test: float | None = None,
    subset: float | None = None,
    seed: int = 0,
    image_size: int | list[int] = 224,
    augment: str = "crop",
    interpolation: str = "bilinear",
    crop_fraction: float = 0.875,
    max_unreadable: int = 0,
    check: bool = True,
    cache: bool = False,
    channels: int = 3,
    exif: bool = True,
) -> DataSplits:
    """Load images of your own, sorted into one folder a class.

    Where ``root`` holds ``train``, ``val`` (or ``valid``, ``validation``) and ``test``, in upper or lower case, these
    are the parts; ``training`` and ``testing`` mean the same. Where it holds ``train`` and one of the others, that one
    is the test part, and validation images are drawn from train. Where it holds the class folders themselves, all parts
    are drawn from them. A drawn part has the classes in the same proportions as the rest. An image's source index is
    its place among all files, those of train first.

    ``validation`` and ``test`` are the shares of the images to draw, above 0 and below 1; the default is 0.1.
    ``subset`` is the share of train that is used at all, for training and for what is drawn from it. Default: all.
    ``channels`` is 3, or 1 for grey images. ``exif`` says whether images are turned upright as their EXIF orientation
    says. The other arguments are those of :func:`~nni_cream.data.load_imagenet`.
    """
    options = FileOptions(
        image_size, augment, interpolation, crop_fraction, max_unreadable, check, cache, channels, exif
    )
    folders = _part_folders(Path(root))
    shares = _shares(folders, validation, test)
    files = readable("folder", _scan_all(Path(root), folders), options)
    indices = _share_out(files, folders, shares, subset, seed)
    arguments: dict[str, Any] = {"root": os.fspath(root), "validation": validation, "test": test, "seed": seed}
    # Absent unless changed: results from before there were these arguments stay comparable.
    arguments |= ({} if channels == 3 else {"channels": channels}) | ({} if exif else {"exif": False})
    arguments |= {} if subset is None else {"subset": subset}
    return splits_of_files("folder", arguments, files, indices, options)


def _part_folders(root: Path) -> dict[str, str]:
    """Return part -> sub-folder for the parts that have one; ``train`` always has."""
    if not root.is_dir():
        raise DataError(f"data set 'folder': {root.absolute()}: there is no such folder. {_LAYOUT}")
    present = class_folders(root)
    found = [_PARTS.get(name.lower()) for name in present]
    if "train" not in found and (None in found or not found):
        if len(present) < 2:
            raise DataError(f"data set 'folder': {root}: holds {len(present)} folders. {_LAYOUT}")
        return {"train": ""}
    named = dict(zip(found, present, strict=True))
    folders = {part: named[part] for part in PARTS if part in named}
    if "train" not in folders or len(folders) < len(present) or len(folders) == 1:
        raise DataError(f"data set 'folder': {root}: holds the folders {', '.join(present)}. {_LAYOUT}")
    if "test" not in folders:  # it measures the result; the decisions of a search take a share of train
        folders["test"] = folders.pop("validation")
    return folders


def _shares(folders: dict[str, str], validation: float | None, test: float | None) -> dict[str, float]:
    """Return part -> share of the images of ``train`` to draw, for the parts without a folder."""
    shares = {}
    for part, share in (("validation", validation), ("test", test)):
        if part in folders:
            if share is not None:
                raise ConfigError(
                    f"data set 'folder': {part} is {share!r}; expected none, since {folders[part]}/ holds the images. "
                    f"Leave {part} out."
                )
            continue
        shares[part] = _checked_share(part, _DEFAULT_SHARE if share is None else share)
    if sum(shares.values()) >= 1:
        raise ConfigError(
            f"data set 'folder': validation ({shares['validation']}) and test ({shares['test']}) are the whole; "
            "expected less than 1 together, so that train has a share."
        )
    return shares


def _checked_share(name: str, share: Any) -> float:
    if not isinstance(share, float) or not 0 < share < 1:
        raise ConfigError(f"data set 'folder': {name} is {share!r}; expected a share above 0 and below 1.")
    return share


def _scan_all(root: Path, folders: dict[str, str]) -> FolderContent:
    found = {part: scan("folder", root, folder) for part, folder in folders.items()}
    for part, content in found.items():
        check_same_classes("folder", found["train"], content, (folders["train"], folders[part]))
    classes = found["train"].classes
    if len(classes) < 2:
        raise DataError(f"data set 'folder': {root / folders['train']}: holds {len(classes)} class folders. {_LAYOUT}")
    if folders == {"train": ""}:
        _tell_of_inner_folders(found["train"])
    return join(*found.values())


def _tell_of_inner_folders(files: FolderContent) -> None:
    """Warn if all images lie one folder deeper, in folders of the same names: those may be the classes."""
    inner: dict[int, set[str]] = {}
    for name, label in zip(files.names, files.labels, strict=True):
        inner.setdefault(int(label), set()).add(os.path.dirname(name).partition(os.sep)[2])
    shared = sorted(set.intersection(*inner.values()))
    if len(shared) > 1 and not any("" in names for names in inner.values()):
        _logger.warning(
            "data set 'folder': %s: the classes are %s, and each holds %s; expected images. If these are the classes, "
            "rename the outer folders to train, val and test, or let root name one of them",
            files.root,
            counted(list(files.classes), "folder"),
            counted(shared, "folder"),
        )


def _share_out(
    files: FolderContent, folders: dict[str, str], shares: dict[str, float], subset: float | None, seed: int
) -> dict[str, Indices]:
    indices = {
        part: np.flatnonzero([not folder or name.startswith(f"{folder}{os.sep}") for name in files.names])
        for part, folder in folders.items()
    }
    if subset is not None:
        indices["train"] = _part_of(files, indices["train"], _checked_share("subset", subset), seed)
    if shares:
        source = indices["train"]
        labels = files.labels[source]
        if np.bincount(labels).min() <= len(shares):
            few = files.classes[int(np.argmin(np.bincount(labels)))]
            raise ConfigError(
                f"data set 'folder': {files.root}: the number of images of class {few!r} is "
                f"{np.bincount(labels).min()}; expected at least {len(shares) + 1}, one for each part."
            )
        sizes = {part: round(share * len(source)) for part, share in shares.items()}
        for part, size in sizes.items():
            if size < len(files.classes):
                raise ConfigError(
                    f"data set 'folder': {part} is {shares[part]}; expected at least "
                    f"{len(files.classes) / len(source):.2g}, since {size} of {len(source)} images are fewer than the "
                    f"{len(files.classes)} classes."
                )
        train, validation, rest = stratified_split(
            "folder", labels, len(source) - sum(sizes.values()), sizes["validation"], seed
        )
        indices |= {"train": source[train], "validation": source[validation]}
        if "test" in shares:
            indices["test"] = source[rest]
    return indices


def _part_of(files: FolderContent, every: Indices, share: float, seed: int) -> Indices:
    """Draw a share of the training images in which no class is missing."""
    labels, number, kept = files.labels[every], len(files.classes), round(share * len(every))
    counts = np.bincount(labels)
    used = np.zeros(0, dtype=np.int64)
    if counts.min() >= 2 and number <= kept <= len(every) - number:
        used, _, _ = stratified_split("folder", labels, kept, len(every) - kept, seed)
    if len(np.unique(labels[used])) < number:
        raise ConfigError(
            f"data set 'folder': subset is {share}; expected a share that keeps and leaves out images of each class, "
            f"and {files.classes[int(np.argmin(counts))]!r} has {counts.min()}. Choose another share, or leave it out."
        )
    return np.sort(every[used])
