"""The folder layout of ImageNet (ILSVRC 2012)."""

from __future__ import annotations

import re
from pathlib import Path

from nni_cream.data.folders.class_folders import class_folders
from nni_cream.errors import DataError

__all__ = ["LAYOUT", "PARTS", "WNID", "check_layout"]

PARTS = ("train", "val")

WNID = re.compile(r"n\d{8}$")
"""Form of the name of a class folder: its WordNet id."""

LAYOUT = (
    "Expected the layout train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, with folders such as n01440764. To get it: "
    "register at https://image-net.org, download ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz into one folder, and let torchvision unpack them there: "
    "torchvision.datasets.ImageNet(folder, split) for the splits 'train' and 'val'."
)


def check_layout(name: str, root: Path, how: str = LAYOUT) -> None:
    """Raise ``DataError`` if a folder does not look like ImageNet; ``how`` says what was expected and how to get it."""
    if not root.is_dir():
        raise DataError(f"data set {name!r}: {root.absolute()}: there is no such folder. {how}")
    for part in PARTS:
        folder = root / part
        if not folder.is_dir():
            raise DataError(f"data set {name!r}: {root}: holds no folder {part}. {how}")
        classes = class_folders(folder)
        if not classes:
            files = sum(1 for _ in folder.iterdir())
            raise DataError(f"data set {name!r}: {folder}: holds {files} files but no class folders. {how}")
        odd = [label for label in classes if not WNID.match(label)]
        if odd:
            raise DataError(
                f"data set {name!r}: {folder}: {odd[0]!r} is no WordNet id such as n01440764. {how} Images of classes "
                "with other names are read by the data set 'folder'."
            )
