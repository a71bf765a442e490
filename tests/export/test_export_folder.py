from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nni_cream.errors import FileError
from nni_cream.export import export_folder as folder_module
from nni_cream.export.export_folder import check_folder, filling, write_manifest


def export(out: Path, text: str, *, force: bool = False) -> None:
    with filling(out, force=force) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text(text)
        write_manifest(folder, {"fact": 1})


def test_folder_appears_whole_and_says_what_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    export(out, "first")
    assert (out / "sub" / "file").read_text() == "first"
    content = json.loads((out / "export.json").read_text())
    assert (content["files"], content["fact"]) == (["sub/file"], 1)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_earlier_export_is_replaced_with_force_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is in nobody's way
    export(out, "first")
    (out / "sub" / "__pycache__").mkdir()
    (out / "sub" / "__pycache__" / "network.cpython-311.pyc").write_text("left by an import")
    with pytest.raises(FileError, match="holds an export already"):
        export(out, "second")
    assert (out / "sub" / "file").read_text() == "first"
    export(out, "second", force=True)
    assert (out / "sub" / "file").read_text() == "second"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("manifest", [None, "{", "[]", '{"format": "other", "files": ["mine.txt"]}'])
def test_files_of_others_are_never_replaced(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    if manifest is not None:
        (tmp_path / "export.json").write_text(manifest)
    with pytest.raises(FileError, match=r"holds files that no export wrote \(.*mine\.txt"):
        export(tmp_path, "x", force=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_file_that_was_added_to_an_export_keeps_it_from_being_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(out, "first")
    (out / "sub" / "notes").write_text("mine")
    with pytest.raises(FileError, match=r"no export wrote \(sub/notes\)"):
        check_folder(out, force=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_export_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    export(out, "first")

    def break_off() -> None:
        with filling(out, force=True) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        break_off()
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "sub" / "file").read_text() == "first"


def test_export_that_cannot_be_moved_into_place_gives_the_earlier_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(out, "first")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(target) == out and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(folder_module.os, "rename", failing)
    with pytest.raises(FileError, match="cannot be written: No space left on device"):
        export(out, "second", force=True)
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "sub" / "file").read_text() == "first"


def test_what_came_there_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def export_slowly() -> None:
        with filling(out) as folder:
            (folder / "file").write_text("x")
            out.mkdir()
            (out / "mine").write_text("mine")

    with pytest.raises(FileError, match="no export wrote"):
        export_slowly()
    assert (out / "mine").read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_place_that_is_a_file_a_link_or_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for out, problem in (
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "link", "is not a folder"),
        (tmp_path / "file" / "below", "cannot be written"),
        (Path("/proc/nothing"), "cannot be written"),
    ):
        with pytest.raises(FileError, match=problem):
            export(out, "x", force=True)
