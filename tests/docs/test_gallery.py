"""The gallery: its outputs are those of its scripts, and the notebook runs."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from nni_cream.manager.experiment_file import expected_trials, load_experiment

FOLDER = Path(__file__).parents[2] / "docs" / "gallery"
runner: dict[str, Any] = runpy.run_path(str(FOLDER / "run.py"))
SCRIPTS = [FOLDER / f"{name}.sh" for name in runner["examples"]()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_output_is_of_this_script_and_dated_and_on_its_page(script: Path) -> None:
    output = script.with_suffix(".txt").read_text(encoding="utf-8")
    page = script.with_suffix(".md").read_text(encoding="utf-8")
    assert re.match(r"# \d{4}-\d\d-\d\d, \d+ cores?, [\d.]+ minutes", output)
    for block in runner["blocks"](script.read_text(encoding="utf-8")):
        assert "\n".join(f"$ {line}" for line in block.splitlines()) in output, (
            f"run python docs/gallery/run.py {script.stem}"
        )
    assert f"{script.name}\n" in page
    assert f"{script.stem}.txt\n" in page
    assert f"{script.stem}\n" in (FOLDER / "index.md").read_text(encoding="utf-8")


def test_script_that_an_example_needs_is_no_example() -> None:
    assert "two_machines" in runner["examples"]()
    assert "two_machines_stand_in" not in runner["examples"]()


def test_trap_and_variables_of_the_first_paragraph_last_to_the_end(tmp_path: Path) -> None:
    paragraphs = ["trap 'echo cleaned; touch cleaned' EXIT\nname=first", 'echo "$name"; printf unfinished', "pwd"]
    outputs = list(runner["outputs"](paragraphs, str(tmp_path)))
    assert outputs == list(zip(paragraphs, ["", "first\nunfinished", f"{tmp_path}\ncleaned\n"], strict=True))


def test_failed_command_ends_the_run_after_its_output_and_the_trap(tmp_path: Path) -> None:
    paragraphs = ["trap 'touch cleaned' EXIT", "echo before; false; echo after", "echo never"]
    outputs = runner["outputs"](paragraphs, str(tmp_path))
    assert [next(outputs), next(outputs)] == [(paragraphs[0], ""), (paragraphs[1], "before\n")]
    with pytest.raises(SystemExit, match="ended with 1"):
        next(outputs)
    assert (tmp_path / "cleaned").exists()


def test_edits_of_two_machines_fit_the_shipped_file_and_are_accepted(tmp_path: Path) -> None:
    """Without the program `patch`, which not every computer has."""
    text = (FOLDER.parents[1] / "experiments" / "cream_remote.yml").read_text(encoding="utf-8")
    hunks = re.split(r"^@@.*\n", (FOLDER / "two_machines_edits.diff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for hunk in hunks[1:]:
        before, after = (
            "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in f" {sign}") for sign in "-+"
        )
        assert text.count(before) == 1, hunk
        text = text.replace(before, after)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / "id_rsa").write_text("a key")
    (tmp_path / "experiment" / "cream_remote.yml").write_text(text)
    assert expected_trials(load_experiment(tmp_path / "experiment" / "cream_remote.yml")) == 4


def test_long_output_loses_its_middle_and_places_of_the_machine() -> None:
    text = "".join(f"/tmp/place/file {number}\n" for number in range(100))
    lines = runner["shown"](text, "/tmp/place").splitlines()
    assert (lines[0], lines[20], lines[-1], len(lines)) == ("file 0", "... 60 lines ...", "file 99", 41)


def cells() -> list[dict[str, Any]]:
    notebook = json.loads((FOLDER / "tutorial.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.integration
def test_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    for cell in cells():
        source = "".join(cell["source"])
        exec(compile(re.sub(r"EPOCHS = \d+", "EPOCHS = 2", source), "tutorial.ipynb", "exec"), namespace)
    assert len(namespace["strategy"].board.entries) == 5
    assert {"network.onnx", "network.py"} <= {file.name for file in namespace["folder"].iterdir()}
    assert namespace["result"].test_accuracy > 0.2  # of ten classes


def test_notebook_was_executed_without_an_error() -> None:
    assert all(cell["execution_count"] for cell in cells())
    assert not [output for cell in cells() for output in cell["outputs"] if output["output_type"] == "error"]
