"""The examples of tasks beyond one label, for a few epochs: each learns, and hands out the network that it scored."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "experiments"
# How its figure after two epochs has to compare with the baseline's: at least, or at most, so many times as large.
ACCURACIES = {"binary_digits": 1.3, "multilabel_digits": 1.3, "segment_digits": 1.5}
ERRORS = {"rotate_digits": 0.75}


@pytest.mark.integration
@pytest.mark.parametrize("name", [*ACCURACIES, *ERRORS])
def test_the_network_of_each_example_is_well_beyond_the_baseline_and_is_the_path_of_the_board(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy, best, images, (found, baseline) = importlib.import_module(f"experiments.{name}").main(epochs=2)
    if name in ACCURACIES:
        assert found > ACCURACIES[name] * baseline
        assert best.entry.validated > ACCURACIES[name] * baseline
    else:
        assert found < ERRORS[name] * baseline
        assert best.entry.validated > -ERRORS[name] * baseline  # the board's score is minus the error
    printed = capsys.readouterr().out
    assert f"{found:.2f}" in printed or f"{found:.3f}" in printed
    assert best.entry == strategy.board.best
    assert strategy.statistics["match_weight"] > 0  # there were teachers, whether or not the gate let them teach

    module = strategy.oneshot_module
    module.supernet.activate(best.entry.path)
    # In training mode both take BatchNorm's statistics of the images; the final validation gave the network its own.
    with module.average.applied(), torch.no_grad():
        expected = module.supernet.space.train()(images)
    with torch.no_grad():
        torch.testing.assert_close(best.network.train()(images), expected)


@pytest.mark.parametrize("name", [*ACCURACIES, *ERRORS])
def test_each_example_is_a_command_whose_help_says_how_it_is_run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "200")  # else argparse breaks the command
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert leaving.value.code == 0
    told = capsys.readouterr().out
    assert f"python experiments/{name}.py" in told
    assert "--epochs" in told
    assert "--seed" in told


@pytest.mark.parametrize("name", [*ACCURACIES, *ERRORS])
def test_the_page_of_tasks_shows_each_example(name: str) -> None:
    page = (FOLDER.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert f"literalinclude}} ../experiments/{name}.py" in page
    assert f"python experiments/{name}.py" in page
