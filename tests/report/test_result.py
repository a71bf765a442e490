from __future__ import annotations

import json
from pathlib import Path

import pytest

from nni_cream.errors import FileError
from nni_cream.report.result import Kind, read_result
from tests.report.made_up import (
    RETRAINED,
    best_of,
    board_of,
    experiment_folder,
    made_up_metrics,
    search_folder,
    training_folder,
    whole_folder,
)


def test_search_is_read_with_an_update_for_each_epoch(tmp_path: Path) -> None:
    metrics = made_up_metrics()
    result = read_result(search_folder(tmp_path / "out", metrics))
    assert result.kind is Kind.SEARCH
    assert result.search is not None
    assert [record["update"] for record in result.search.records] == [metric["update"] for metric in metrics]
    assert result.search.records[-1]["board_best"] == metrics[-1]["board_best"]
    assert result.search.choices == metrics[0]["update"]["choices"]
    assert result.best == best_of(metrics)
    assert result.notes == []
    assert set(result.configs) == {"config.yml"}


def test_half_a_line_of_a_killed_search_is_left_out(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    (folder / "best.json").unlink()
    history = folder / "history.jsonl"
    history.write_bytes(history.read_bytes()[:-20])
    result = read_result(folder)
    assert result.search is not None
    assert [record["epoch"] for record in result.search.records] == [1, 2, 3, 4, 5]
    assert result.best is None


def test_board_without_its_history_stands_for_its_last_epoch(tmp_path: Path) -> None:
    metrics = made_up_metrics()
    folder = search_folder(tmp_path, metrics)
    (folder / "history.jsonl").unlink()
    result = read_result(folder)
    assert result.search is not None
    assert not result.search.complete
    (record,) = result.search.records
    latest = metrics[-1]["update"]
    assert record["update"]["board"] == latest["board"]
    assert record["update"]["choices"] == metrics[0]["update"]["choices"]
    assert record["update"]["predictor"] == latest["predictor"] | {"predicted": []}
    (note,) = result.notes
    assert "history.jsonl holds no history, so the progress of the search" in note


def test_choices_of_an_old_board_are_the_values_of_its_entries(tmp_path: Path) -> None:
    metrics = made_up_metrics({"width": [1, True, [1, 2]], "edges": ["a", "b"]}, epochs=2)
    folder = search_folder(tmp_path, metrics)
    (folder / "history.jsonl").unlink()
    board = board_of(metrics, effects=False)
    board["entries"] = board["entries"][:2]
    board["entries"][0]["path"] = {"width": True, "edges": ["a", "b"]}
    board["entries"][1]["path"] = {"width": 1, "edges": ["b"]}
    (folder / "board.json").write_text(json.dumps(board))
    search = read_result(folder).search
    assert search is not None
    assert search.choices == {"width": [True, 1], "edges": [["a", "b"], ["b"]]}
    assert [row[0] for row in search.records[0]["update"]["board"]] == [[0, 0], [1, 1]]


def test_retraining_is_a_training_and_a_row(tmp_path: Path) -> None:
    best = best_of(made_up_metrics(), 0, RETRAINED)
    result = read_result(training_folder(tmp_path, best))
    assert result.kind is Kind.RETRAINING
    (training,) = result.trainings
    assert (len(training.figures), training.accuracy_key) == (4, "ema_acc")
    assert result.validation == "validation accuracy, averaged weights"
    assert result.is_chosen(training.choices)
    (row,) = result.retrained
    assert (row["one_shot_accuracy"], row["test_accuracy"]) == (best.accuracy, 0.8125)


def test_unfinished_retraining_shows_the_architecture_it_trains(tmp_path: Path) -> None:
    best = best_of(made_up_metrics())
    folder = training_folder(tmp_path, best)
    (folder / "best.json").unlink()
    result = read_result(folder)
    assert result.best is None
    assert result.trainings[0].choices == best.choices
    assert list(result.retrained) == []


def test_detector_has_curves_and_no_row(tmp_path: Path) -> None:
    detection = {"categories": ["cat"], "anchor_scale": 2.0, "figures": {"ap": 0.5}}
    best = best_of(made_up_metrics(), detection=detection)
    result = read_result(training_folder(tmp_path, best, accuracy="val_ap"))
    assert result.kind is Kind.DETECTION
    assert result.validation == "validation average precision"
    assert list(result.retrained) == []


def test_whole_folder_keeps_the_order_of_the_board(tmp_path: Path) -> None:
    metrics = made_up_metrics()
    result = read_result(whole_folder(tmp_path, metrics))
    assert result.kind is Kind.WHOLE
    assert [training.name for training in result.trainings] == ["entry 1", "entry 2"]
    assert [len(training.figures) for training in result.trainings] == [4, 5]
    assert [result.is_chosen(training.choices) for training in result.trainings] == [False, True]
    assert [result.is_chosen(row["choices"]) for row in result.retrained] == [True, False]
    assert result.export == tmp_path / "export"
    assert list(result.configs) == [
        "config.yml",
        "search/config.yml",
        "retrained/01/config.yml",
        "retrained/02/config.yml",
    ]


def test_whole_folder_without_retrainings_has_the_choice_of_the_search(tmp_path: Path) -> None:
    metrics = made_up_metrics()
    search_folder(tmp_path / "search", metrics)
    result = read_result(tmp_path)
    assert result.best == best_of(metrics)
    assert result.written is None
    assert result.trainings == ()


def test_experiment_is_read_from_the_database_of_nni(tmp_path: Path) -> None:
    result = read_result(experiment_folder(tmp_path))
    assert result.kind is Kind.EXPERIMENT
    assert result.search is not None
    assert result.search.complete
    assert len(result.search.records) == 6
    assert result.search.settings["epochs"] == 6
    assert result.notes == ["Of 2 search trials, the one shown is trial 1, which found the chosen architecture."]
    assert [training.name for training in result.trainings] == ["trial 2", "trial 3"]
    assert [result.is_chosen(training.choices) for training in result.trainings] == [False, True]
    # The later record of an epoch counts.
    assert [line["train_loss"] for line in result.trainings[0].figures] == [1.0, 0.5]


def test_experiment_without_its_database_says_what_is_missing(tmp_path: Path) -> None:
    result = read_result(experiment_folder(tmp_path, database=False))
    assert result.search is not None
    assert not result.search.complete
    assert result.trainings == ()
    assert len(result.retrained) == 2
    assert [note.partition(",")[0] for note in result.notes] == [
        "NNI's database is missing",
        "NNI's database holds no history",
    ]


def test_broken_database_is_one_error(tmp_path: Path) -> None:
    folder = experiment_folder(tmp_path)
    (folder / "nni/abc123/db/nni.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(FileError, match=r"nni\.sqlite: is no database of NNI"):
        read_result(folder)


def test_history_of_another_format_is_one_error(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    history = folder / "history.jsonl"
    history.write_text(history.read_text().replace("nni_cream.update/1", "nni_cream.update/9"))
    with pytest.raises(FileError, match=r"history\.jsonl, line 1: format is 'nni_cream\.update/9'; expected"):
        read_result(folder)


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("nni", "search"):  # as in the repository of NNI
        (tmp_path / name).mkdir()
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(FileError, match=r"holds no result; expected an output folder of nni-cream search"):
        read_result(tmp_path)
    with pytest.raises(FileError, match=r"nowhere: is no folder; expected an output folder"):
        read_result(tmp_path / "nowhere")
