"""The whole way from a configuration to a delivered network, on a few digits."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from nni_cream import cli, config, data
from nni_cream.errors import ConfigError, CreamError, FileError
from nni_cream.report.result import read_result
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import read_board
from nni_cream.results.rebuilt_network import build_network
from nni_cream.results.retrained_file import load_retrained
from nni_cream.runs import go_run
from nni_cream.runs.go_run import check_go, run_go
from nni_cream.runs.retrain_parts import train_images
from nni_cream.training.retrain_recipe import FullRecipe

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

TASK: dict[str, Any] = {
    "space": {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]},
    "data": {"name": "digits", "train": 200, "validation": 100},
    "search": {"epochs": 2, "batch_size": 50, "learning_rate": 0.05, "board_size": 3, "warmup": 0},
    "retrain": {"top": 2, "epochs": 2, "batch_size": 20, "learning_rate": 0.05, "nesterov": False},
    "trainer": {"accelerator": "cpu", "threads": 1},
}


def configuration(**sections: dict[str, Any]) -> dict[str, Any]:
    task = copy.deepcopy(TASK)
    for name, changes in sections.items():
        task[name] |= changes
    return config.SEARCH.resolve(task)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("go") / "out"
    run_go(configuration(), out, formats=["code"], command="nni-cream go small.yml")
    return out


def test_chosen_network_is_the_one_with_the_best_validation_accuracy(whole: Path) -> None:
    entries = [load_best(whole / "retrained" / name) for name in ("01", "02")]
    best, rows = load_best(whole), load_retrained(whole / "retrained.json")
    accuracies = [entry.retrained["validation_accuracy"] for entry in entries if entry.retrained is not None]
    assert best.retrained is not None
    assert best.retrained["validation_accuracy"] == max(accuracies) == rows[0]["validation_accuracy"]
    assert rows[0]["choices"] == best.choices
    assert sorted(row["validation_accuracy"] for row in rows) == sorted(accuracies)


def test_entries_are_those_of_the_board_with_their_one_shot_figures(whole: Path) -> None:
    board = json.loads((whole / "search" / "board.json").read_text())["entries"]
    for number, entry in enumerate(board[:2], start=1):
        described = load_best(whole / "retrained" / f"{number:02d}.json")
        assert (described.choices, described.cost) == (entry["path"], entry["cost"])
        assert (described.accuracy, described.score) == (entry["validated"], entry["accuracy"])


def test_evaluation_equals_scikit_learn_on_the_delivered_weights(whole: Path) -> None:
    network = build_network(load_best(whole))
    network.load_state_dict(torch.load(whole / "weights.pt", weights_only=True))
    test = data.create("digits", train=200, validation=100).test
    images, labels = (torch.stack(list(column)) for column in zip(*test, strict=True))
    with torch.no_grad():
        answers = network.eval()(images).argmax(dim=1)
    found = json.loads((whole / "evaluation.json").read_text())
    assert (whole / found["weights"]).read_bytes() == (whole / "weights.pt").read_bytes()
    assert found["confusion"] == confusion_matrix(labels.numpy(), answers.numpy()).tolist()
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels.numpy(), answers.numpy()))
    assert found["top1"] == pytest.approx((answers == labels).float().mean().item())


def test_export_has_the_card_and_the_weights_of_the_chosen_network(whole: Path) -> None:
    assert "nni-cream go small.yml" in (whole / "export" / "README.md").read_text()
    exported, kept = (torch.load(whole / place, weights_only=True) for place in ("export/weights.pt", "weights.pt"))
    assert all(torch.equal(exported[name], kept[name]) for name in kept)


def test_report_shows_the_search_and_every_retraining(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    assert "The search and the retrainings are complete." in page
    best, evaluation = load_best(whole), json.loads((whole / "evaluation.json").read_text())
    assert best.retrained is not None
    for figure in (best.retrained["test_accuracy"], evaluation["balanced_accuracy"], best.accuracy):
        assert f"{100 * figure:.2f} %" in page
    result = read_result(whole)
    assert result.search is not None
    assert result.search.complete
    assert [[line["epoch"] for line in training.figures] for training in result.trainings] == [[1, 2], [1, 2]]
    assert [result.is_chosen(row["choices"]) for row in result.retrained] == [True, False]


def test_report_that_a_kill_prevented_is_written_by_a_resume(whole: Path) -> None:
    (whole / "report.html").unlink()
    run_go(configuration(), whole, formats=["code"], resume=True)
    assert (whole / "report.html").exists()


def test_finished_run_resumes_to_the_same_result_without_work(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_run, "run_search", None)
    result = run_go(configuration(), whole, formats=["code"], resume=True)
    assert (result.best, result.seconds) == (load_best(whole), 0.0)


@pytest.mark.parametrize("stage", ["run_retraining", "evaluate_result", "export_result"])
def test_interrupted_run_resumes_at_its_stage_with_the_same_result(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    if stage == "run_retraining":
        monkeypatch.setattr(go_run, stage, _second_call(go_run.run_retraining))
    else:
        _copy_without_end(whole, out)
        monkeypatch.setattr(go_run, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_go(configuration(), out, formats=["code"], resume=out.exists())
    assert not (out / "best.json").exists()
    monkeypatch.undo()
    searched = (out / "search" / "best.json").stat().st_mtime_ns
    run_go(configuration(), out, formats=["code"], resume=True)
    assert load_best(out) == load_best(whole)
    assert (out / "search" / "best.json").stat().st_mtime_ns == searched


def _second_call(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[Any] = []

    def called(*arguments: Any, **options: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return function(*arguments, **options)

    return called


def _copy_without_end(whole: Path, out: Path) -> None:
    """Copy a finished run to the state before its third stage."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "export")
    for name in ("best.json", "weights.pt", "evaluation.json", "retrained.json", "report.html"):
        (out / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrain": {"top": 0}}, "retrain.top is 0; expected at least 1"),
        ({"trainer": {"devices": 2}}, "trainer.devices is 2; expected 1 with `nni-cream go`"),
    ],
)
def test_configuration_that_cannot_be_delivered_is_refused_before_the_search(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_go(configuration(**changes), ["code"])


def test_retraining_takes_its_values_from_the_section_retrain() -> None:
    found = check_go(configuration(retrain={"label_smoothing": 0.1}, trainer={"accumulate_grad_batches": 3}), ["code"])
    recipe = found["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["optimizer"]) == (2, 60, "momentum")
    assert (recipe["label_smoothing"], recipe["crop_scale"]) == (0.1, None)
    assert found["trainer"]["device_batch_size"] == 20


def test_retraining_without_crops_sees_the_images_as_the_data_set_changes_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (9, 9), (40 * number, 0, 90)).save(tmp_path / name / f"{number}.png")
    splits = data.create("folder", root=str(tmp_path), image_size=8, augment="none", validation=0.2, test=0.2)
    assert train_images(FullRecipe(crop_scale=None), splits) is splits.train
    assert train_images(FullRecipe(), splits) is not splits.train


def test_folder_of_another_command_is_left_alone(whole: Path, tmp_path: Path) -> None:
    search = tmp_path / "search"
    shutil.copytree(whole / "search", search)
    with pytest.raises(FileError, match="holds a run of `nni-cream search, retrain or detect`"):
        run_go(configuration(), search, formats=["code"], force=True)
    assert load_best(search) == load_best(whole / "search")


def test_folder_of_go_is_refused_by_a_search(whole: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "search.yml"
    file.write_text(config.dump(configuration()))
    assert cli.main(["search", str(file), "--out", str(whole), "--force"]) == 1
    assert "holds a run of `nni-cream go`" in capsys.readouterr().err


def test_changed_retraining_does_not_resume(whole: Path) -> None:
    with pytest.raises(CreamError, match=r"was started with other values of retrain\.epochs"):
        run_go(configuration(retrain={"epochs": 3}), whole, formats=["code"], resume=True)


def test_finished_run_exports_another_format_without_training(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    monkeypatch.setattr(go_run, "run_search", None)
    monkeypatch.setattr(go_run, "run_retraining", None)
    run_go(configuration(), out, formats=["torch"], resume=True)
    assert (out / "export" / "network.pt2").exists()
    assert (out / "export" / "network.py").exists()  # of the first export
    assert load_best(out / "export").choices == load_best(out).choices


@pytest.mark.parametrize("force", [False, True])
def test_run_that_fails_before_its_first_checkpoint_leaves_the_folder_as_it_was(
    whole: Path, tmp_path: Path, force: bool
) -> None:
    out = tmp_path / "out"
    if force:
        shutil.copytree(whole, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(CreamError, match="cost_range"):
        run_go(configuration(search={"cost_range": [None, 10]}), out, formats=["code"], force=force)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert out.exists() == force


def test_half_written_export_of_a_killed_run_is_removed(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / ".export.123").mkdir()
    (out / ".export.123" / "network.py").write_text("half")
    (out / "previous").mkdir()
    run_go(configuration(), out, formats=["code"], resume=True)
    assert not (out / ".export.123").exists()
    assert not (out / "previous").exists()


def test_balanced_search_chooses_by_balanced_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([(0.9, 0.5), (0.8, 0.7)])
    run = go_run.run_retraining

    def retraining(*arguments: Any, **options: Any) -> Any:
        result = run(*arguments, **options)
        top1, balanced = next(figures)
        told = {**(result.best.retrained or {}), "validation_accuracy": top1, "validation_balanced_accuracy": balanced}
        return replace(result, best=replace(result.best, retrained=told))

    monkeypatch.setattr(go_run, "run_retraining", retraining)
    result = run_go(configuration(search={"score": "balanced_accuracy"}), tmp_path / "out", formats=["code"])
    assert result.best.choices == load_best(tmp_path / "out" / "retrained" / "02").choices
    assert [row["validation_balanced_accuracy"] for row in result.retrained] == [0.7, 0.5]


def test_board_of_the_folder_is_that_of_its_search(whole: Path) -> None:
    assert read_board(whole) == read_board(whole / "search")


def test_other_configuration_does_not_resume(whole: Path) -> None:
    with pytest.raises(CreamError, match=r"was started with other values of search\.epochs"):
        run_go(configuration(search={"epochs": 3}), whole, formats=["code"], resume=True)


def test_dry_run_adds_the_retraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "search.yml"
    file.write_text(config.dump(configuration()))
    assert cli.main(["go", str(file), "--format", "code", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["parts"]["retraining"] == pytest.approx(found["parts"]["training"] * 2)
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()))
    assert not (tmp_path / "out").exists()
