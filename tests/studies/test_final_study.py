"""The study of final architectures from the command line to files, on a small part of the digits."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nni.nas.space import model_context
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import config, spaces
from nni_cream.cli import main
from nni_cream.search import encode_path
from nni_cream.studies import searches, study_run
from nni_cream.studies.final_study import shared_by_all
from nni_cream.studies.parts import load_parts
from nni_cream.studies.searches import board_search, plain
from nni_cream.studies.stand_alone import train_alone
from nni_cream.studies.supernets import trained_supernet

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

FINAL: dict[str, Any] = {
    "space": {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1", "identity"]},
    "data": {"name": "digits", "train": 200, "validation": 300},
    "study": {"judging_images": 200, "seeds": [3, 4], "retrain_seeds": [0, 1], "population": 4},
    "search": {
        "epochs": 2,
        "batch_size": 50,
        "learning_rate": 0.2,
        "board_size": 3,
        "warmup": 0,
        "scoring": {"interval": 2, "recalibration_images": 100},
    },
    "recipe": {"epochs": 3, "batch_size": 50},
}
RESOLVED = config.FINAL.resolve(FINAL)
LIMITED, FREE = ("evolution", "random"), ("evolution, any cost", "random, any cost")


def words(folder: Path, out: Path, *more: str, content: dict[str, Any] = FINAL) -> list[str]:
    path = folder / "final.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return ["study", "final", str(path), "--out", str(out), "--workers", "1", *more]


def read(folder: Path) -> Any:
    return json.loads((folder / "final.json").read_text())


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()[1:]]
    return {line["key"]: line for line in lines}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole study."""
    folder = tmp_path_factory.mktemp("final")
    assert main(words(folder, folder / "out")) == 0
    return folder / "out"


def test_board_gives_the_entry_that_is_best_when_each_is_validated(studied):
    found = records_of(studied)["board, seed 4"]["result"]
    with trained_supernet(shared_by_all(RESOLVED), {**RESOLVED["search"], "seed": 4}) as supernet:
        entries = supernet.strategy.board.entries
        validated = {json.dumps(encode_path(entry.path)): supernet.validate(entry.path) for entry in entries}
        assert found["scored"] == supernet.module.statistics["scored"] > len(entries)
    assert len(validated) == 3
    assert validated[json.dumps(found["path"])] == found["validated"] == max(validated.values())
    assert found["steps"] == 8


def test_baselines_choose_by_scores_of_the_plain_supernet(studied):
    record = records_of(studied)["baselines, seed 3"]
    settings = plain({**RESOLVED["search"], "seed": 3})
    assert record["arguments"]["search"] == settings
    assert (settings["matching"]["name"], settings["scoring"]["rescore_interval"]) == ("none", None)
    with trained_supernet(shared_by_all(RESOLVED), settings) as supernet:
        for own in record["result"]["choices"].values():
            for choice in own.values():
                path = supernet.decode(choice["path"])
                assert choice["score"] == supernet.score(path)
                assert choice["validated"] == supernet.validate(path)
        assert supernet.module.tally.distilled == 0


def test_number_of_paths_follows_from_the_records(studied):
    records = records_of(studied)
    for seed in (3, 4):
        board, baselines = (records[f"{name}, seed {seed}"]["result"] for name in ("board", "baselines"))
        choices = baselines["choices"]
        left = board["search_cpu_seconds"] - baselines["training_cpu_seconds"] - 3 * baselines["validation_cpu_seconds"]
        number = max(1, int(left / baselines["path_cpu_seconds"]))
        for method in FREE:  # the space has 16 paths
            assert choices["equal cost"][method]["scored"] == min(16, number)
            assert choices["equal paths"][method]["scored"] == min(16, board["scored"])


def test_limited_methods_take_no_more_multiply_adds_than_the_board(studied):
    content = read(studied)
    board = {choice["seed"]: choice["macs"] for choice in content["choices"] if choice["method"] == "board"}
    assert {choice["method"] for choice in content["choices"]} == {"board", *LIMITED, *FREE}
    for choice in content["choices"]:
        with model_context(choice["path"]):
            network = spaces.create("digits", **RESOLVED["space"]["arguments"]).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 1, 8, 8))
        assert choice["macs"] == counter.get_total_flops() / 2
        assert choice["macs"] <= board[choice["seed"]] or choice["method"] in FREE


def test_no_method_leaves_the_range_of_cost_of_the_search():
    ranges = {"cost_range": [9_000, 60_000]}
    settings = plain({**RESOLVED["search"], **ranges, "seed": 3})
    with trained_supernet(shared_by_all(RESOLVED), settings) as supernet:
        cost = supernet.module.costs.primary
        everything = sorted(
            cost({f"layer_{number}": choice for number, choice in enumerate(pair, 1)})
            for pair in itertools.product(FINAL["space"]["operations"], repeat=2)
        )
        for most in (float("inf"), 40_000):
            own = searches._Searches(supernet, {"search": {"seed": 3}, "finalists": 3, "population": 4, "macs": most})
            for method in searches.METHODS:
                own.choose(method, 100)
                found = sorted(cost(item.path) for item in own._traces[method].known)
                limit = min(60_000, most if method in LIMITED else 60_000)
                assert found == [macs for macs in everything if 9_000 <= macs <= limit]
                assert 1 < len(found) < 16


def test_cost_of_a_choice_is_that_of_all_that_led_to_it(studied):
    records = records_of(studied)
    for choice in read(studied)["choices"]:
        board, own = (records[f"{name}, seed {choice['seed']}"]["result"] for name in ("board", "baselines"))
        scoring = choice["scored"] * own["path_cpu_seconds"]
        expected = own["training_cpu_seconds"] + scoring + 3 * own["validation_cpu_seconds"]
        if choice["method"] == "board":
            expected = board["search_cpu_seconds"]
        assert choice["cpu_seconds"] == pytest.approx(expected)
        assert choice["steps"] == pytest.approx(expected / (own["training_cpu_seconds"] / own["steps"]))


def test_cost_of_the_board_includes_its_final_validation(monkeypatch):
    clock = iter([0.0, 100.0, 100.0, 107.0])  # training, then final validation
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    found = board_search(shared_by_all(RESOLVED), {"search": {**RESOLVED["search"], "seed": 3}})
    assert found["search_cpu_seconds"] == 107


def test_each_method_chooses_the_best_validated_of_the_best_scored_of_its_own_search(monkeypatch):
    asked = []

    def spied(name, inner):
        def search(*arguments, **options):
            asked.append(name)
            return inner(*arguments, **options)

        return search

    for name in ("evolve", "random_search"):
        monkeypatch.setattr(searches, name, spied(name, getattr(searches, name)))
    monkeypatch.setattr(searches._Searches, "_score", lambda self, path: place(path))
    # Of the three with the highest scores, 13 to 15, the one with the lowest is the best.
    monkeypatch.setattr(searches._Searches, "_validate", lambda self, path: -abs(place(path) - 13))
    with trained_supernet(shared_by_all(RESOLVED), plain({**RESOLVED["search"], "seed": 3})) as supernet:
        own = searches._Searches(
            supernet, {"search": {"seed": 3}, "finalists": 3, "population": 4, "macs": float("inf")}
        )
        assert asked == ["evolve", "random_search"] * 2  # as METHODS has them
        paths = {}
        for method in searches.METHODS:
            chosen = own.choose(method, 16)
            paths[method] = [json.dumps(encode_path(item.path)) for item in own._traces[method].known]
            assert (chosen["scored"], chosen["score"], chosen["validated"]) == (16, 13, 0)
            assert place(supernet.decode(chosen["path"])) == 13
        assert paths["evolution"] != paths["random"]


def place(path) -> int:
    """Number the 16 paths of the space."""
    operations = FINAL["space"]["operations"]
    first, second = (operations.index(path[f"layer_{number}"]) for number in (1, 2))
    return 4 * first + second


def test_each_architecture_is_trained_once_a_seed_whoever_chose_it(studied):
    chosen = {json.dumps(choice["path"], sort_keys=True) for choice in read(studied)["choices"]}
    alone = [line["arguments"] for line in records_of(studied).values() if line["arguments"]["task"] == "alone"]
    trained = [(json.dumps(arguments["path"], sort_keys=True), arguments["seed"]) for arguments in alone]
    assert sorted(trained) == sorted((path, seed) for path in chosen for seed in (0, 1))


def test_tables_are_means_of_the_records(studied):
    content = read(studied)
    assert content["complete"] is True
    assert content["command"].startswith("nni-cream study final")
    alone = [line for line in records_of(studied).values() if line["arguments"]["task"] == "alone"]

    def accuracies(method, budget, figure):
        return [
            [line["result"][figure] for line in alone if line["arguments"]["path"] == choice["path"]]
            for choice in content["choices"]
            if (choice["method"], choice["budget"]) == (method, budget)
        ]

    for budget, rows in content["tables"].items():
        assert [row["method"] for row in rows] == ["board", *LIMITED, *FREE]
        for row in rows:
            for name, figure in (("judging", "accuracy"), ("test", "test_accuracy")):
                own, board = (np.array(accuracies(method, budget, figure)) for method in (row["method"], "board"))
                assert own.shape == (2, 2)
                assert row["accuracies"][name]["value"] == pytest.approx(own.mean())
                if row["method"] != "board":
                    gained = row["differences"][name]
                    assert gained["value"] == pytest.approx((board - own).mean())
                    assert gained["low"] <= gained["value"] <= gained["high"]
        assert rows[0]["differences"] == {}
        assert all(row["differences"]["macs"]["value"] >= 0 for row in rows if row["method"] in LIMITED)
    document = (studied / "final.md").read_text()
    assert "Equal cost\n" in document
    assert "| evolution, any cost | 2 |" in document
    assert "nan" not in document.lower()
    assert (studied / "final.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_a_choice_are_those_of_training_it(studied):
    record = next(line for line in records_of(studied).values() if line["arguments"]["task"] == "alone")
    again = train_alone(shared_by_all(RESOLVED), record["arguments"])
    assert again == {name: record["result"][name] for name in again}
    assert again["test_accuracy"] != again["accuracy"]


def test_no_test_image_is_seen_before_the_chosen_architectures_are_trained(tmp_path, capsys):
    parts = load_parts(RESOLVED["data"], 200)

    class Untouchable:
        def __len__(self) -> int:
            return len(parts.indices["test"])

        def __getitem__(self, place: int) -> None:
            raise AssertionError("a test image was looked at")

    object.__setattr__(parts.splits, "test", Untouchable())
    try:
        assert main(words(tmp_path, tmp_path / "out")) == 1
    finally:
        load_parts.__globals__["_load"].cache_clear()
    assert "a test image was looked at" in capsys.readouterr().err
    # By the first training, when it was over: all searches were, and everything was chosen.
    assert [*records_of(tmp_path / "out")] == [
        f"{name}, seed {seed}" for name in ("board", "baselines") for seed in (3, 4)
    ]
    assert len(read(tmp_path / "out")["choices"]) == 2 * 2 * 5


def test_study_leaves_nothing_where_it_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with trained_supernet(shared_by_all(RESOLVED), {**RESOLVED["search"], "seed": 0}) as supernet:
        assert supernet.module.steps == 8
    assert [*tmp_path.iterdir()] == []


def test_report_runs_nothing_and_writes_the_same(studied, tmp_path, capsys, monkeypatch):
    def gone(*_):
        raise AssertionError("tables need no images")

    monkeypatch.setattr(study_run, "load_parts", gone)
    shutil.copytree(studied, tmp_path / "out")
    (tmp_path / "out/final.json").unlink()
    assert main(words(tmp_path, tmp_path / "out", "--report", "--json")) == 0
    assert (tmp_path / "out/records.jsonl").read_bytes() == (studied / "records.jsonl").read_bytes()
    assert read(tmp_path / "out")["tables"] == read(studied)["tables"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tables"] == read(studied)["tables"]


@pytest.mark.parametrize("kept", [1, -1])
def test_interrupted_study_is_marked_partial_and_goes_on(studied, tmp_path, capsys, kept):
    lines = (studied / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/records.jsonl").write_text("".join(lines[:kept]))
    assert main(words(tmp_path, tmp_path / "out", "--report")) == 0
    assert "(PARTIAL)" in capsys.readouterr().out
    partial = read(tmp_path / "out")
    assert partial["complete"] is False
    assert "of 2 (partial)" in (tmp_path / "out/final.md").read_text()
    if kept == -1:  # the last training is of something that the second search chose
        rows = partial["tables"]["equal cost"] + partial["tables"]["equal paths"]
        assert all(3 in row["seeds"] for row in rows)
        assert any(row["seeds"] == [3] for row in rows)
    assert main(words(tmp_path, tmp_path / "out")) == 0
    after = read(tmp_path / "out")
    assert after["complete"] is True
    boards = [
        [item["path"] for item in found["choices"] if item["method"] == "board"] for found in (after, read(studied))
    ]
    assert boards[0] == boards[1]
    if kept == -1:
        assert after["tables"] == read(studied)["tables"]


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("board, seed 3", {"search_cpu_seconds": None}, "search_cpu_seconds is None; expected a number above 0"),
        ("board, seed 3", {"path": "abc"}, "path is 'abc'; expected an object"),
        (
            "baselines, seed 4",
            {"choices": {"equal cost": {"random": {}}}},
            "choices.equal cost.random.path is missing; expected an object",
        ),
        (None, {"test_accuracy": 7}, "test_accuracy is 7; expected a number of at least 0 and"),
    ],
)
def test_a_broken_result_is_an_error_that_names_file_training_and_key(studied, tmp_path, capsys, key, change, reason):
    shutil.copytree(studied, tmp_path / "out")
    path = tmp_path / "out/records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    line = lines[-1] if key is None else next(line for line in lines if line.get("key") == key)
    line["result"].update(change)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = path.read_bytes()
    assert main(words(tmp_path, tmp_path / "out", "--report")) == 1
    error = capsys.readouterr().err.replace("\n", " ")
    assert f"records.jsonl, result of {line['key']!r}: " in error
    assert reason in error
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (
            "study",
            "retrain_seeds",
            [],
            "study.retrain_seeds is []; expected a list of at least 1 different whole number",
        ),
        ("study", "population", 1, "study.population is 1; expected a whole number of at least 2"),
        ("study", "scored_paths", 10, "study.scored_paths is no key of this file"),
        ("search", "seed", 0, "search.seed is no key of this file"),
        ("search", "warmup", 2, "search.warmup is 2 epochs; expected fewer than search.epochs (2)"),
        ("recipe", "epochs", 0, "recipe.epochs is 0; expected"),
    ],
)
def test_wrong_file_is_refused_with_its_key(tmp_path, capsys, section, key, value, message):
    wrong = {**FINAL, section: {**FINAL[section], key: value}}
    assert main(words(tmp_path, tmp_path / "out", content=wrong)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
