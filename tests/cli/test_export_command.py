from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nni_cream.cli import main
from tests.results.saved import BEST, save


@pytest.fixture
def result(tmp_path: Path) -> Path:
    save(BEST, tmp_path / "result" / "best.json", tmp_path / "result" / "weights.pt")
    return tmp_path / "result"


def test_command_writes_a_folder_whose_card_has_the_command(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(result), "--format", "code", "--out", str(tmp_path / "my out")]
    assert main(words) == 0
    assert "multiply-adds" in capsys.readouterr().out
    card = (tmp_path / "my out" / "README.md").read_text()
    assert f"`nni-cream export {result} --format code --out '{tmp_path}/my out'`" in card
    assert main(words) == 1
    assert "holds an export already" in capsys.readouterr().err
    assert main([*words, "--force", "--json", "--weights", str(result / "weights.pt")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["networks"][0]["differences"] == {"code": 0.0}


def test_command_exports_a_pareto_front(result: Path, tmp_path: Path) -> None:
    save(BEST, result / "pareto" / "01.json", result / "pareto" / "01.pt")
    assert main(["export", str(result), "--pareto", "--format", "code", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "01" / "network.py").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--format", "code"], "--out is missing; expected --out FOLDER with --format"),
        (["--format", "code,tflite", "--out", "x"], "'code,tflite'; expected different ones of code, onnx, torch"),
        (["--format", "code,code", "--out", "x"], "expected different ones"),
        (["--format", "", "--out", "x"], "expected different ones"),
        (["--opset", "18", "--out", "x"], "--format is missing; expected it with --opset"),
        (["--pareto", "--out", "x"], "--format is missing; expected it with --pareto"),
        (["--input-shape", "3,8,8"], "--format is missing; expected it with --input-shape"),
        (["--input-shape", "3,8", "--format", "code", "--out", "x"], "'3,8'; expected channels, height and width"),
        (["--weights", "w.pt", "--out", "x"], "--format is missing; expected it with --weights w.pt"),
        (
            ["--pareto", "--weights", "w.pt", "--format", "code", "--out", "x"],
            "--weights is w.pt; expected no file with --pareto",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], problem: str, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(result), *words])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["result"]


def test_formats_of_the_command_line_are_those_that_can_be_written() -> None:
    from nni_cream.cli.export_command import _FORMATS
    from nni_cream.export import FORMATS

    assert _FORMATS == FORMATS
