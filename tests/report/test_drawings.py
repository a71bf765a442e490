from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from nni_cream.cli import main
from nni_cream.errors import ExportError, FileError
from nni_cream.report.drawings import write_pictures
from nni_cream.report.result import SearchPart, read_result
from nni_cream.report.search_figures import SearchFigures, search_figures
from tests.report.made_up import (
    RETRAINED,
    best_of,
    experiment_folder,
    made_up_metrics,
    search_folder,
    training_folder,
    whole_folder,
)

SVG = "{http://www.w3.org/2000/svg}"


def figures_of(folder: Path) -> SearchFigures:
    search = read_result(folder).search
    assert search is not None
    return search_figures(search)


def test_numbers_to_draw_are_those_of_the_search(tmp_path: Path) -> None:
    metrics = made_up_metrics()
    found = figures_of(search_folder(tmp_path, metrics))
    scored = [candidate for metric in metrics for candidate in metric["update"]["scored"]]
    assert len(found.scored) == sum(candidate[1] is not None for candidate in scored)
    assert found.rejected == [candidate[2] for candidate in scored if candidate[1] is None]
    assert found.rejected
    assert found.progress[-1] == tuple(metrics[-1][key] for key in ("epoch", "board_best", "board_mean", "board_worst"))
    points = {*found.scored, *found.board}
    assert found.front == sorted(
        (cost, accuracy)
        for cost, accuracy in points
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
    )
    (group,) = found.gains  # all labels share their values
    assert group.gains == metrics[-1]["update"]["predictor"]["gains"]


@pytest.mark.parametrize(
    ("predictor", "reason"),
    [
        ({"problem": None, "gains": [[0.5]], "stds": [[0.1]]}, "the gains do not fit the choices"),
        ({"problem": "3 steps are too few"}, "3 steps are too few"),
        (None, "the search does not say what its choices are worth"),
    ],
)
def test_gains_that_are_not_known_have_a_reason(predictor: Any, reason: str) -> None:
    metrics = made_up_metrics()
    metrics[-1]["update"]["predictor"] = predictor
    assert search_figures(SearchPart({}, metrics, None, complete=True)).unknown == reason


def test_epoch_with_other_content_is_one_error(tmp_path: Path) -> None:
    metrics = made_up_metrics()
    folder = search_folder(tmp_path, metrics)
    metrics[1]["update"]["scored"][0][2] = "cheap"
    lines = [json.dumps(metric["update"]) + "\n" for metric in metrics]
    (folder / "history.jsonl").write_text("".join(lines))
    with pytest.raises(FileError, match=r"history\.jsonl: epoch 2 is not readable .*'cheap' is no finite number"):
        write_pictures(folder)
    assert not (folder / "plots").exists()


def test_every_picture_of_a_whole_folder_is_drawn_with_its_alternative_text(tmp_path: Path) -> None:
    made = write_pictures(whole_folder(tmp_path))
    assert [path.name for path in made.files] == [
        f"{name}.svg" for name in ("progress", "cost", "choices", "architecture", "retraining")
    ]
    assert made.missing == {}
    texts = {path.stem: " ".join(ElementTree.parse(path).getroot().itertext()) for path in made.files}
    for name, words in {
        "progress": ("one-shot accuracy", "epoch", "Best one-shot accuracy of the board"),
        "cost": ("Pareto front", "multiply-adds of one image", "rejected early"),
        "choices": ("layer_1", "mbconv_k3e2", "+0.40", "layer_1: best conv_3x3"),
        "architecture": ("From input to output",),
        "retraining": ("training loss", "validation accuracy, averaged weights", "entry 2 (chosen)"),
    }.items():
        assert [word for word in words if word not in texts[name]] == [], name
    before = [path.read_bytes() for path in made.files]
    assert [path.read_bytes() for path in write_pictures(tmp_path).files] == before  # replaced, and the same


def test_score_of_the_search_is_named_on_the_axes(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    config = folder / "config.yml"
    config.write_text(config.read_text().replace("top1", "balanced_accuracy"))
    for path in write_pictures(folder).files[:2]:
        text = " ".join(ElementTree.parse(path).getroot().itertext())
        assert "one-shot balanced accuracy" in text
        assert "one-shot accuracy" not in text


def test_pictures_that_the_folder_does_not_hold_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training_folder(tmp_path / "out", best_of(made_up_metrics(), 0, RETRAINED))
    assert main(["plot", str(folder), "--out", str(tmp_path / "pictures"), "--format", "png"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [str(tmp_path / "pictures" / name) for name in ("architecture.svg", "retraining.png")]
    assert printed[2] == "not drawn: progress, since there is no search in this folder"
    with Image.open(tmp_path / "pictures" / "retraining.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # lines, not a white sheet


def test_experiment_without_its_database_has_no_empty_chart(tmp_path: Path) -> None:
    made = write_pictures(experiment_folder(tmp_path, database=False))
    assert [path.name for path in made.files] == ["choices.svg", "architecture.svg"]
    assert list(made.missing) == ["progress", "cost", "retraining"]


def test_missing_matplotlib_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = search_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ExportError, match=r"matplotlib is missing; expected it for pictures\. Run pip install"):
        write_pictures(folder)
    assert not (folder / "plots").exists()


def test_file_that_is_no_picture_of_ours_is_not_replaced(tmp_path: Path) -> None:
    folder = search_folder(tmp_path / "out")
    own = tmp_path / "cost.svg"
    own.write_text("<svg>mine</svg>")
    with pytest.raises(FileError, match=r"cost\.svg: is there already, and is no picture of nni-cream"):
        write_pictures(folder, tmp_path)
    assert own.read_text() == "<svg>mine</svg>"
    assert not (tmp_path / "progress.svg").exists()
