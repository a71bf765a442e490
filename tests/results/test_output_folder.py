from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nni_cream import config
from nni_cream.errors import ConfigError, FileError
from nni_cream.files import append_line, read_json, replacing, write_json
from nni_cream.results import output_folder as files
from nni_cream.results.output_folder import OutputFolder, State

CONFIG = config.resolve({"space": "digits", "data": "digits"})


def unfinished(path: Path) -> OutputFolder:
    folder = OutputFolder(path)
    folder.begin(config.dump(CONFIG), "a test")
    folder.board.write_text("old board")
    return folder


def finished(path: Path) -> OutputFolder:
    folder = unfinished(path)
    folder.best.write_text("old best")
    return folder


def content(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in sorted(path.rglob("*")) if file.is_file()}


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["board.json"]


def test_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text("old")

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert content(tmp_path) == {"board.json": "old"}


def test_values_that_are_no_json_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "board.json", {"accuracy": float("nan")})
    assert os.listdir(tmp_path) == []


def test_file_in_a_missing_folder_cannot_be_written(tmp_path: Path) -> None:
    for write in (lambda path: write_json(path, {}), lambda path: append_line(path, {})):
        with pytest.raises(FileError, match="cannot be written"):
            write(tmp_path / "missing" / "board.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [(None, r"is missing; expected a board\. Run it\."), ("{", r"is no JSON \(.*\); expected a board\. Run it\.")],
)
def test_unreadable_json_is_named(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "board.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=problem) as caught:
        read_json(path, "a board", "Run it.")
    assert str(path) in str(caught.value)


def test_new_and_empty_folders_may_be_used(tmp_path: Path) -> None:
    assert OutputFolder(tmp_path).check() is State.EMPTY
    assert OutputFolder(tmp_path / "a" / "b").check() is State.EMPTY
    assert os.listdir(tmp_path) == []


def test_check_changes_nothing(tmp_path: Path) -> None:
    folder = finished(tmp_path / "out")
    before = content(tmp_path)
    folder.check(force=True)
    assert content(tmp_path) == before


def test_finished_folder_needs_force_or_resume(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    with pytest.raises(FileError, match="holds a result already") as caught:
        folder.check()
    assert "--force" in str(caught.value)
    assert folder.check(force=True) is State.FINISHED
    assert folder.check(resume=True) is State.FINISHED


def test_unfinished_folder_needs_force_or_resume(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    with pytest.raises(FileError, match=r"unfinished run\. Continue it with --resume"):
        folder.check()
    with pytest.raises(FileError, match=r"unfinished run\. Continue it with `nni-cream resume"):
        folder.check(resume=None)
    assert folder.check(resume=True) is State.UNFINISHED


@pytest.mark.parametrize("name", ["notes.txt", "best.json", "config.yml"])
def test_folder_of_somebody_else_is_refused_even_with_force(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("space: digits\n")
    with pytest.raises(FileError, match="files that nni_cream did not write"):
        OutputFolder(tmp_path).check(force=True, resume=True)


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError, match="is not a folder"):
        OutputFolder(tmp_path / "out").check()
    with pytest.raises(FileError, match=r"is not a folder|cannot be written to"):
        OutputFolder(tmp_path / "out" / "inside").check()


def test_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(FileError, match="cannot be written to: Permission denied"):
        OutputFolder(tmp_path / "out").check()


def test_forced_start_keeps_the_result_before_until_the_new_one_is_complete(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    folder.begin("space: other\n", "a test", force=True)
    assert folder.state is State.UNFINISHED
    assert (tmp_path / "previous" / "best.json").read_text() == "old best"
    assert (tmp_path / "previous" / "board.json").read_text() == "old board"
    assert config.load(tmp_path / "previous" / "config.yml") == CONFIG
    folder.best.write_text("new best")
    folder.finish()
    assert set(content(tmp_path)) == {"config.yml", "best.json", "notes.txt"}
    assert folder.best.read_text() == "new best"


def test_report_and_pictures_go_with_the_result_that_they_describe(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (tmp_path / "report.html").write_text("old report")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "cost.svg").write_text("old picture")
    folder.begin("space: other\n", "a test", force=True)
    assert set(content(tmp_path / "previous")) >= {"report.html", "plots/cost.svg"}
    assert not (tmp_path / "report.html").exists()


def test_second_forced_start_keeps_the_same_result_before(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    for _ in range(2):
        folder.begin("space: other\n", "a test", force=True)
        folder.board.write_text("newer board")
    assert (tmp_path / "previous" / "best.json").read_text() == "old best"


@pytest.mark.parametrize("moves", range(3))
def test_forced_start_that_is_killed_halfway_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    folder = finished(tmp_path)
    folder.metrics.write_text("old metrics")
    before = content(tmp_path)
    real, left = os.replace, [moves]

    def killed_after_some(source: Path, target: Path) -> None:
        if "previous" in str(target):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        real(source, target)

    monkeypatch.setattr(files.os, "replace", killed_after_some)
    with pytest.raises(KeyboardInterrupt):
        folder.begin("space: other\n", "a test", force=True)
    monkeypatch.setattr(files.os, "replace", real)
    folder.begin("space: other\n", "a test", force=True)
    assert content(tmp_path / "previous") == before


def test_abandoned_start_leaves_no_folder_where_there_was_none(tmp_path: Path) -> None:
    made, found = OutputFolder(tmp_path / "made"), OutputFolder(tmp_path / "found")
    found.path.mkdir()
    for folder in (made, found):
        folder.begin("space: digits\n", "a test")
        folder.abandon()
    assert not made.path.exists()
    assert found.path.is_dir()


def test_abandoned_start_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = content(tmp_path)
    folder.begin("space: other\n", "a test", force=True)
    folder.board.write_text("newer board")
    folder.abandon()
    assert content(tmp_path) == before


def test_resume_with_another_configuration_names_the_keys(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    folder.check_same_config(CONFIG)
    other = config.resolve({"space": "digits", "data": {"name": "digits", "seed": 1}, "search": {"epochs": 5}})
    with pytest.raises(ConfigError, match=r"other values of data.arguments.seed, search.epochs \("):
        folder.check_same_config(other)


def test_resume_with_another_way_to_retrain_is_the_same_search(tmp_path: Path) -> None:
    other = config.resolve({"space": "digits", "data": "digits", "retrain": {"top": 9}})
    unfinished(tmp_path).check_same_config(other)


def test_resume_over_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    folder.config.write_text(folder.config.read_text() + "search: [")
    with pytest.raises(FileError, match=r"config.yml: is broken"):
        folder.check_same_config(CONFIG)
