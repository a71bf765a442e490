"""SubImageNet: a folder of links to some images of some classes of ImageNet, and its list of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nni_cream.argument_checks import check_whole
from nni_cream.data.folders.ilsvrc import PARTS, WNID, check_layout
from nni_cream.data.splits import check_seed
from nni_cream.errors import ConfigError, DataError, FileError

__all__ = ["LIST", "MADE", "SubImageNet", "make_subimagenet", "read_list"]

LIST = "list.txt"
"""The file in the folder made that names every image, one path relative to the folder in each line."""

MADE = "subimagenet.json"
"""The file that says how the folder was made; without it nothing here takes a folder for one of ours."""

_TRAINING_IMAGE = re.compile(r"n\d{8}_\d+\.JPEG$")

_HEAD = (
    "# Images of ImageNet (ILSVRC 2012), chosen by `nni-cream data subimagenet`; docs/data.md describes the format.\n"
)


@dataclass(frozen=True)
class SubImageNet:
    """Summary of a folder that was made."""

    out: str
    classes: int
    train: int  #: Training images of all classes.
    val: int  #: Validation images of all classes.
    seed: int | None  #: ``None`` where a list named every image.
    list_file: str | None
    imagenet: str  #: Folder of the images.
    copied: bool  #: Whether they were copied, instead of linked to.


def make_subimagenet(
    imagenet: str | Path,
    out: str | Path,
    *,
    classes: int = 100,
    train: int = 250,
    val: int = 50,
    seed: int = 0,
    list_file: str | Path | None = None,
    copy: bool = False,
    force: bool = False,
) -> SubImageNet:
    """Choose classes and images, and put links to them into a new folder.

    Source: the paper, section 4.3: 100 classes, 250 training and 50 validation images of each. The paper does not say
    which ones. The list in the authors' repository (microsoft/Cream, ``Cream/data/subimages_list.txt``) has 350
    training images of each and no others. It can be given as ``list_file``.

    Parameters
    ----------
    imagenet
        ImageNet, as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG.
    out
        The folder to make. Whatever interrupts this, it is either complete or as it was.
    classes
        Number of classes to draw, unless a list names them.
    train
        Training images of each class.
    val
        Validation images of each class.
    seed
        Seed of the draw of classes and images.
    list_file
        Text with one entry a line. Paths such as ``train/n01440764/n01440764_10026.JPEG`` name all images; only
        validation images are drawn, if none is named. WordNet ids such as ``n01440764`` name the classes, whose images
        are drawn.
    copy
        Whether to copy the images, instead of linking to them.
    force
        Whether to replace a folder that was made here before.

    Returns
    -------
    SubImageNet
        Summary of the folder.
    """
    source, target = Path(imagenet).absolute(), Path(out).absolute()
    _check_numbers(classes=classes, train=train, val=val)
    check_seed("subimagenet", seed)
    _check_target(target, source, force)
    check_layout("imagenet", source)
    entries = None if list_file is None else read_list(Path(list_file))
    seed_used: int | None = seed
    if entries is None or "/" not in entries[0]:
        names = _draw(source, entries, classes, {"train": train, "val": val}, seed)
    elif all(entry.startswith("train/") for entry in entries):
        named = sorted({entry.split("/")[1] for entry in entries})
        names = [*_check_named(source, entries, str(list_file)), *_draw(source, named, classes, {"val": val}, seed)]
    else:
        names = _check_named(source, entries, str(list_file))
        _check_both_parts(names, str(list_file))
        seed_used = None
    _check_kept(source, target, names)
    made = SubImageNet(
        out=str(target),
        classes=len({PurePosixPath(name).parts[1] for name in names}),
        train=sum(name.startswith("train/") for name in names),
        val=sum(name.startswith("val/") for name in names),
        seed=seed_used,
        list_file=None if list_file is None else str(list_file),
        imagenet=str(source),
        copied=copy,
    )
    try:
        _write(source, target, names, copy, asdict(made))
    except OSError as error:
        raise FileError(f"{target}: cannot be written: {error.strerror or error} ({error.filename}).") from error
    return made


def _check_kept(source: Path, target: Path, names: list[str]) -> None:
    """Refuse to replace the folder that holds the chosen images themselves, if only through links."""
    folder = target.resolve()
    inside = [name for name in names if (source / name).resolve().is_relative_to(folder)]
    if inside:
        raise FileError(
            f"{target}: holds images that are chosen from, such as {source / inside[0]}. Name another folder with "
            "--out."
        )


def read_list(path: Path) -> list[str]:
    """Read a list of images or of classes, and sort it; raises ``ConfigError`` for anything else.

    Empty lines and text after a ``#`` do not count. A label may follow a path, as in published lists. The list of the
    paper has a line ``['n01440764_10026.JPEG', ...]`` of training images for each class.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of images: {error}") from error
    entries: set[str] = set()
    kinds: set[bool] = set()
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        names = _names_of_class(line) or words[:1]
        is_path = _is_path(names[0])
        is_label = len(words) == 2 and is_path and words[1].isdecimal()
        if not (is_path or WNID.match(names[0])) or not (names != words[:1] or len(words) == 1 or is_label):
            raise ConfigError(
                f"{path}: line {number} is {line.strip()[:200]!r}; expected a path such as "
                "train/n01440764/n01440764_10026.JPEG or val/n01440764/ILSVRC2012_val_00000293.JPEG, or, in a list of "
                "classes, a WordNet id such as n01440764."
            )
        twice = [name for name, count in Counter(names).items() if count > 1 or name in entries]
        if twice:
            raise ConfigError(f"{path}: line {number}: {twice[0]} is listed twice. Remove one.")
        entries.update(names)
        kinds.add(is_path)
    if len(kinds) != 1:
        what = "images and classes" if kinds else "nothing"
        raise ConfigError(f"{path}: names {what}; expected paths alone, or WordNet ids alone.")
    return sorted(entries)


def _names_of_class(line: str) -> list[str]:
    """Read a line such as ``['n01440764_10026.JPEG', ...]`` as paths; other lines give none."""
    text = line.strip()
    names = [word.strip(" '") for word in text[1:-1].split(",")]
    if not (text.startswith("[") and text.endswith("]") and all(_TRAINING_IMAGE.match(name) for name in names)):
        return []
    return [f"train/{name.partition('_')[0]}/{name}" for name in names]


def _is_path(word: str) -> bool:
    parts = PurePosixPath(word).parts
    return len(parts) == 3 and parts[0] in PARTS and bool(WNID.match(parts[1])) and "/".join(parts) == word


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        check_whole(name, value, 2 if name == "classes" else 1)


def _check_target(target: Path, source: Path, force: bool) -> None:
    if source.resolve().is_relative_to(target.resolve()):
        raise FileError(f"{target}: holds the images of {source}, which would be lost. Name another folder with --out.")
    if not os.path.lexists(target):
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    if not (target / MADE).is_file():
        raise FileError(
            f"{target}: is there already, and was not made by this command. Name another folder with --out."
        )
    if not force:
        raise FileError(f"{target}: is there already. Name another folder with --out, or use --force to replace it.")
    foreign = sorted(_files(target) - {LIST, MADE, *read_list(target / LIST)})
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise FileError(
            f"{target}: holds {len(foreign)} files that this command did not make, which would be lost: {shown}. Move "
            "them, or name another folder with --out."
        )


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _check_named(source: Path, names: list[str], list_file: str) -> list[str]:
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{source}: lacks {len(missing)} of the {len(names)} images of {list_file}: {shown}")
    return names


def _check_both_parts(names: list[str], list_file: str) -> None:
    folders = {part: {name.split("/")[1] for name in names if name.startswith(f"{part}/")} for part in PARTS}
    if folders["train"] != folders["val"]:
        odd = sorted(folders["train"] ^ folders["val"])
        raise ConfigError(
            f"{list_file}: {len(odd)} classes are in train or in val alone, such as {odd[0]}; expected the same "
            "classes in both."
        )


def _draw(source: Path, wanted: list[str] | None, classes: int, sizes: dict[str, int], seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    if wanted is None:
        known = sorted(_folders(source / "train") & _folders(source / "val"))
        if len(known) < classes:
            raise ConfigError(f"classes is {classes}; expected at most {len(known)}, those of {source}.")
        wanted = sorted(generator.choice(known, classes, replace=False).tolist())
    names: list[str] = []
    for label in wanted:
        for part, size in sizes.items():
            files = _images(source / part / label)
            if len(files) < size:
                raise ConfigError(
                    f"{part} is {size}; expected at most {len(files)}, the images in {source / part / label}."
                )
            chosen = generator.choice(len(files), size, replace=False)
            names += [f"{part}/{label}/{files[index]}" for index in chosen]
    return sorted(names)


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if WNID.match(path.name)}


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; expected the classes of the list in this ImageNet.")
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))


def _write(source: Path, target: Path, names: Iterable[str], copy: bool, made: dict[str, Any]) -> None:
    """Fill a temporary folder next to the target and rename it at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        new = scratch / "new"
        for name in names:
            place = new / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if copy:
                shutil.copyfile(source / name, place)
            else:
                place.symlink_to(source / name)
        (new / LIST).write_text(_HEAD + "".join(f"{name}\n" for name in names), encoding="utf-8")
        (new / MADE).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        _put_in_place(new, target, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(new: Path, target: Path, old: Path) -> None:
    try:
        if os.path.lexists(target):
            os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
        raise
