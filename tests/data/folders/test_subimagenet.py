"""SubImageNet: links and their list, by seed or by a published list; whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nni_cream import data
from nni_cream.data.folders.subimagenet import LIST, MADE, read_list
from nni_cream.errors import ConfigError, CreamError, DataError, FileError

Write = Callable[..., Path]


def make(imagenet: Path, out: Path, **changes: Any) -> Any:
    return data.make_subimagenet(imagenet, out, **{"classes": 2, "train": 4, "val": 1, **changes})


def images_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.JPEG"))


def test_draws_classes_and_images_and_lists_them(write_imagenet: Write, tmp_path: Path) -> None:
    root, out = write_imagenet(classes=5), tmp_path / "out"
    made = make(root, out)
    assert (made.classes, made.train, made.val, made.seed) == (2, 8, 2, 0)
    names = images_of(out)
    assert len(names) == 10
    counts = Counter(tuple(name.split("/")[:2]) for name in names)
    assert sorted(counts.values()) == [1, 1, 4, 4]
    assert len({label for _, label in counts}) == 2
    assert read_list(out / LIST) == names
    for name in names:
        assert os.readlink(out / name) == str(root / name)
    assert json.loads((out / MADE).read_text())["imagenet"] == str(root)


def test_seed_decides(write_imagenet: Write, tmp_path: Path) -> None:
    root = write_imagenet(classes=5)
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        make(root, tmp_path / str(number), seed=seed)
        drawn.append(images_of(tmp_path / str(number)))
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_its_own_list_makes_the_same_folder_elsewhere(write_imagenet: Write, tmp_path: Path) -> None:
    root = write_imagenet(classes=5)
    make(root, tmp_path / "first")
    made = make(root, tmp_path / "second", list_file=tmp_path / "first" / LIST, copy=True, seed=7)
    assert images_of(tmp_path / "first") == images_of(tmp_path / "second")
    assert made.seed is None
    copied = tmp_path / "second" / images_of(tmp_path / "second")[0]
    assert not copied.is_symlink()
    assert copied.read_bytes() == (tmp_path / "first" / images_of(tmp_path / "first")[0]).read_bytes()
    splits = [
        data.create("subimagenet", root=str(tmp_path / name), validation=2, image_size=16)
        for name in ("first", "second")
    ]
    assert splits[0].fingerprint == splits[1].fingerprint
    assert [len(splits[0].train), len(splits[0].validation), len(splits[0].test)] == [6, 2, 2]


def test_list_of_classes_decides_the_classes_and_the_seed_the_images(write_imagenet: Write, tmp_path: Path) -> None:
    root = write_imagenet(classes=5)
    (tmp_path / "classes.txt").write_text("# mine\nn00000004\n\nn00000001  # cats\nn00000002\n")
    made = make(root, tmp_path / "out", list_file=tmp_path / "classes.txt", train=2)
    assert (made.classes, made.train, made.val, made.seed) == (3, 6, 3, 0)
    assert {name.split("/")[1] for name in images_of(tmp_path / "out")} == {"n00000001", "n00000002", "n00000004"}


def test_list_of_the_paper_names_training_images_and_the_seed_decides_the_others(
    write_imagenet: Write, tmp_path: Path
) -> None:
    # As the file in microsoft/Cream: Python's own way to write a list, one class a line.
    root = tmp_path / "imagenet"
    names = [[f"n{label:08d}_{number}.JPEG" for number in range(6)] for label in range(3)]
    write_imagenet()
    for label, group in enumerate(names):
        for number, name in enumerate(group):
            folder = root / "train" / f"n{label:08d}"
            (folder / f"train_{label}_{number}.JPEG").rename(folder / name)
    (tmp_path / "list.txt").write_text("".join(f"{group[:4]}\n" for group in names[:2]))
    made = make(root, tmp_path / "out", list_file=tmp_path / "list.txt", val=1, seed=5)
    assert (made.classes, made.train, made.val, made.seed) == (2, 8, 2, 5)
    found = [name for name in images_of(tmp_path / "out") if name.startswith("train")]
    assert found == sorted(f"train/{name[:9]}/{name}" for group in names[:2] for name in group[:4])
    assert data.create("subimagenet", root=tmp_path / "out", validation=2, image_size=16).num_classes == 2


def test_labels_in_a_published_list_are_not_needed(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("val/n00000001/b.JPEG 1\ntrain/n00000001/a.JPEG 1\n")
    assert read_list(tmp_path / "list.txt") == ["train/n00000001/a.JPEG", "val/n00000001/b.JPEG"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["names nothing"]),
        ("n00000001\ntrain/n00000001/a.JPEG\n", ["names images and classes"]),
        ("n00000001\nn00000001\n", ["line 2", "twice"]),
        ("train/n00000001/a.JPEG\n../../etc/passwd\n", ["line 2", "'../../etc/passwd'"]),
        ("train/n00000001/../../x.JPEG\n", ["line 1"]),
        ("test/n00000001/a.JPEG\n", ["line 1", "train/n01440764/n01440764_10026.JPEG"]),
        ("/train/n00000001/a.JPEG\n", ["line 1"]),
        ("train/n00000001/a.JPEG b c\n", ["line 1"]),
        ("cats\n", ["line 1", "WordNet id"]),
    ],
)
def test_list_of_another_form_is_told(tmp_path: Path, content: str, words: list[str]) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_list(tmp_path / "list.txt")
    for word in [str(tmp_path / "list.txt"), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (
            "train/n00000001/absent.JPEG\nval/n00000001/val_1_0.JPEG",
            DataError,
            "1 of the 2 images of .*: train/n00000001",
        ),
        (
            "train/n00000001/train_1_0.JPEG\nval/n00000002/val_2_0.JPEG",
            ConfigError,
            "2 classes are in train or",
        ),
        ("n00000009", DataError, "n00000009: there is no such folder; expected the classes of the list"),
    ],
)
def test_list_that_does_not_fit_the_images_is_told(
    write_imagenet: Write, tmp_path: Path, content: str, error: type[CreamError], words: str
) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(error, match=words):
        make(write_imagenet(), tmp_path / "out", list_file=tmp_path / "list.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": 4}, "classes is 4; expected at most 3"),
        ({"train": 7}, "train is 7; expected at most 6"),
        ({"val": 0}, "val is 0; expected a whole number of at least 1"),
        ({"seed": -1}, "seed is -1; expected a whole number"),
        ({"list_file": "absent.txt"}, r"absent\.txt: cannot be read as a list"),
    ],
)
def test_impossible_number_is_told(
    write_imagenet: Write, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(write_imagenet(), tmp_path / "out", **arguments)


def test_folder_that_is_no_imagenet_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such folder\. Expected the layout train/<wnid>"):
        make(tmp_path / "absent", tmp_path / "out")


def test_folder_that_is_there_is_replaced_by_force_alone(write_imagenet: Write, tmp_path: Path) -> None:
    root, out = write_imagenet(classes=5), tmp_path / "out"
    make(root, out)
    before = images_of(out)
    with pytest.raises(FileError, match="use --force to replace it"):
        make(root, out, seed=1)
    assert images_of(out) == before
    make(root, out, seed=1, force=True)
    assert images_of(out) != before


def test_folder_of_somebody_else_is_never_replaced(write_imagenet: Write, tmp_path: Path) -> None:
    root = write_imagenet()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(FileError, match="was not made by this command"):
        make(root, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_files_that_were_added_to_a_folder_keep_it_from_being_replaced(write_imagenet: Write, tmp_path: Path) -> None:
    root, out = write_imagenet(), tmp_path / "out"
    make(root, out)
    (out / "search").mkdir()
    (out / "search" / "best.json").write_text("mine")
    with pytest.raises(FileError, match=r"holds 1 files that this command did not make.*: search/best\.json\. Move"):
        make(root, out, force=True)
    assert (out / "search" / "best.json").read_text() == "mine"


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_folder_is_never_made_in_the_place_of_its_own_images(
    inside: str, write_imagenet: Write, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make(write_imagenet(), out, copy=True)
    source = out / inside
    if inside:
        write_imagenet(root=source)
    before = images_of(out)
    (tmp_path / "link").symlink_to(source)
    for imagenet in (source, tmp_path / "link"):
        with pytest.raises(FileError, match="which would be lost"):
            make(imagenet, out, force=True, train=2)
    assert images_of(out) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("is_there", [False, True])
def test_interruption_leaves_the_folder_as_it_was(
    write_imagenet: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, is_there: bool
) -> None:
    root, place = write_imagenet(classes=5), tmp_path / "place"
    place.mkdir()
    if is_there:
        make(root, place / "out")
    before = images_of(place)
    link = Path.symlink_to

    def fail(self: Path, target: Path) -> None:
        if len(images_of(place)) > len(before) + 3:
            raise error
        link(self, target)

    monkeypatch.setattr(Path, "symlink_to", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
        make(root, place / "out", seed=1, force=True)
    assert images_of(place) == before
    assert [path.name for path in place.iterdir()] == (["out"] if is_there else [])


def test_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    write_imagenet: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = write_imagenet(classes=5), tmp_path / "out"
    make(root, out)
    before = images_of(out)
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(FileError, match="Input/output error"):
        make(root, out, seed=1, force=True)
    assert images_of(out) == before


def test_loader_tells_a_folder_that_was_not_made_or_is_not_complete(write_imagenet: Write, tmp_path: Path) -> None:
    root, out = write_imagenet(), tmp_path / "out"
    with pytest.raises(DataError, match=r"holds no list\.txt.*nni-cream data subimagenet"):
        data.create("subimagenet", root=str(root))
    make(root, out)
    (out / images_of(out)[0]).unlink()
    with pytest.raises(DataError, match=r"lacks 1 files of list\.txt, and holds 0 others"):
        data.create("subimagenet", root=str(out), validation=2)


def test_loader_tells_that_imagenet_was_moved(write_imagenet: Write, tmp_path: Path) -> None:
    root, out = write_imagenet(), tmp_path / "out"
    make(root, out)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"8 files: .* broken link or unreadable"):
        data.create("subimagenet", root=str(out), validation=2)


def test_folder_is_never_replaced_by_links_to_its_own_images(write_imagenet: Write, tmp_path: Path) -> None:
    made, links = tmp_path / "made", tmp_path / "links"
    make(write_imagenet(), made, copy=True)
    make(made, links)
    before = images_of(made)
    with pytest.raises(FileError, match="holds images that are chosen from"):
        make(links, made, train=2, force=True)
    assert images_of(made) == before
    assert all((made / name).is_file() for name in before)
