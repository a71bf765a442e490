"""A result does not decide what is imported, unless the user trusts it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nni_cream.cli import main
from nni_cream.errors import FileError
from nni_cream.results.rebuilt_network import build_network
from nni_cream.results.sources import best_teacher, find_source
from tests.results.saved import BEST, save

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from nni_cream.spaces import DigitsSpace
class Space(DigitsSpace): pass
def load(**arguments):
    from nni_cream import data
    return data.create("digits", **arguments)
"""
RETRAIN = "data: {name: digits, train: 200, validation: 100, seed: 3}\nrecipe: {epochs: 1}\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "foreign_space.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("foreign_space", None)
    save(BEST, tmp_path / "result" / "best.json", tmp_path / "result" / "weights.pt")
    return "foreign_space"


def test_space_of_a_result_is_not_imported_unless_the_user_trusts_it(
    tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result, ran = tmp_path / "result", tmp_path / "ran"
    replace(BEST, space={**BEST.space, "name": f"{module}:Space"}).save(result / "best.json")
    (tmp_path / "retrain.yml").write_text(RETRAIN)
    config, out = str(tmp_path / "retrain.yml"), str(tmp_path / "out")
    commands = (
        ["evaluate", str(result), config],
        ["retrain", str(result), config, "--out", out],
        ["retrain", str(result), config, "--dry-run"],
        ["export", str(result), "--format", "code", "--out", out],
        ["export", str(result), "--weights", "--out", f"{out}.json"],
    )
    for words in commands:
        assert main(words) == 1
        error = capsys.readouterr().err
        assert f"space.name is '{module}:Space', which would run code that the result names" in error
        assert "add --trust-code (in Python: trust_code=True)" in error
    assert not ran.exists()
    assert not Path(out).exists()
    assert main(["evaluate", str(result), config, "--trust-code"]) == 0
    assert ran.exists()
    assert main(["evaluate", str(result), config]) == 0  # it is imported by now


def test_data_of_a_result_is_not_called_even_if_it_is_imported(
    tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result"
    replace(BEST, data={"name": "os:system", "arguments": {"command": f"touch {tmp_path}/ran"}}).save(
        result / "best.json"
    )
    words = ["export", str(result), "--format", "code", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "data.name is 'os:system', which would run code that the result names" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    replace(BEST, data={**BEST.data, "name": f"{module}:load"}).save(result / "best.json")
    assert main([*words, "--trust-code"]) == 0


def test_teacher_is_trusted_no_more_than_the_result(tmp_path: Path, module: str) -> None:
    foreign = replace(BEST, space={**BEST.space, "name": f"{module}:Space"}, choices={"layer_1": "conv_1x1"})
    (tmp_path / "result" / "pareto").mkdir()
    foreign.save(tmp_path / "result" / "pareto" / "01.json")
    with pytest.raises(FileError, match="would run code"):
        best_teacher(find_source(tmp_path / "result")).check_code()
    best_teacher(find_source(tmp_path / "result", trust_code=True)).check_code()


@pytest.mark.parametrize("name", ["nowhere:Space", "os:system", "json:JSONDecoder", "sys:modules.os.system"])
def test_only_spaces_that_are_imported_pass_without_trust(name: str) -> None:
    with pytest.raises(FileError, match="would run code"):
        build_network(replace(BEST, space={"name": name, "arguments": {}}))
    build_network(replace(BEST, space={**BEST.space, "name": "nni_cream.spaces:DigitsSpace"}))
