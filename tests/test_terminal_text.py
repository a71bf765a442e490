from __future__ import annotations

import json
from pathlib import Path

import pytest

from nni_cream.cli import main
from nni_cream.results.console_tables import make_console
from nni_cream.terminal_text import visible
from tests.test_json_reader import BOARD, ENTRY

ATTACK = "\x1b]0;owned\x07\x1b[2J[bold red]\u202e\x9b31m\r\x00"


def test_control_characters_are_written_out_and_other_text_is_kept() -> None:
    assert visible(ATTACK) == r"\x1b]0;owned\x07\x1b[2J[bold red]\u202e\x9b31m\r\x00"
    assert visible("Größe ✓\tein\nzwei 😀") == "Größe ✓\tein\nzwei 😀"
    assert visible("\ud800") == r"\ud800"


def test_names_in_a_board_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = {**BOARD, "cost_name": "\x1b\x07", "entries": [{**ENTRY, "path": {"layer": "[bold red]\x1b\u202e"}}]}
    (tmp_path / "board.json").write_text(json.dumps(board))
    assert main(["board", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert r"[bold red]\x1b\u202e" in printed
    assert r"\x1b\x07" in printed
    assert not set(printed) & set("\x1b\x07\x9b\u202e\r\x00")


def test_error_about_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = tmp_path / "\x1b[31mred"
    assert main(["board", str(name)]) == 1
    printed = capsys.readouterr().err
    assert r"\x1b[31mred" in printed
    assert "\x1b" not in printed


def test_text_printed_directly_is_made_safe(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print(f"chosen: {ATTACK}")
    assert "\x1b" not in capsys.readouterr().out
