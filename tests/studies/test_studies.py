"""Truth and ranking from the command line to files, on a small part of the digits."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import yaml
from nni.nas.space import model_context
from scipy import stats

from nni_cream import config, spaces
from nni_cream.cli import main
from nni_cream.errors import ConfigError
from nni_cream.search import validate_path
from nni_cream.studies.parts import load_parts
from nni_cream.studies.ranking.predictions import predict, replay
from nni_cream.studies.ranking.rank_study import make_variants
from nni_cream.studies.supernets import trained_supernet
from nni_cream.studies.truths.truth import draw_architectures
from nni_cream.training import Recipe, evaluate, make_loader, module_of, seeded
from nni_cream.training.single_network import quiet_lightning
from nni_cream.versions import versions
from tests.patience import PATIENCE

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SPACE = {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1", "identity"]}
NAMED_SPACE = {"name": "digits", "arguments": {key: SPACE[key] for key in ("channels", "operations")}}
DATA = {"name": "digits", "train": 200, "validation": 300}
RANK_DATA = {"name": "digits", "arguments": {"train": 200, "validation": 300}}
TRUTH = {
    "space": SPACE,
    "data": DATA,
    "study": {"architectures": 12, "judging_images": 200, "seeds": [0, 1]},
    "recipe": {"epochs": 2, "batch_size": 50},
}
RANK = {
    "space": SPACE,
    "data": DATA,
    "study": {
        "judging_images": 200,
        "seeds": [3, 4],
        "recalibration_images": 100,
        "resamples": 200,
        "record_steps": True,
    },
    "search": {
        "epochs": 2,
        "batch_size": 50,
        "board_size": 3,
        "warmup": 0,
        "matching": {"name": "meta", "interval": 2},
    },
    "variants": {"spos": {"matching": "none"}, "meta": {}},
}


def write(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a truth and a ranking study with both budgets."""
    folder = tmp_path_factory.mktemp("studied")
    truth = write(folder / "truth.yml", TRUTH)
    assert main(["study", "truth", truth, "--out", str(folder / "truth"), "--workers", "1"]) == 0
    assert main(rank_words(folder, folder / "rank", "--equal-time")) == 0
    return folder


def rank_words(folder: Path, out: Path, *more: str, config: dict[str, Any] = RANK) -> list[str]:
    path = write(folder / "rank.yml", config)
    return ["rank", path, "--truth", str(folder / "truth/truth.json"), "--out", str(out), "--workers", "1", *more]


def test_truth_is_what_training_each_architecture_by_hand_gives(studied):
    content = read(studied / "truth/truth.json")
    assert content["complete"] is True
    assert content["seeds"] == [0, 1]
    assert len(content["architectures"]) == 12
    found = content["architectures"][5]
    parts = load_parts({"name": "digits", "arguments": {"train": 200, "validation": 300}}, 200)
    with seeded(1), quiet_lightning():
        with model_context(found["choices"]):
            network = spaces.create("digits", **NAMED_SPACE["arguments"])
        module = module_of(Recipe(epochs=2, batch_size=50), 10)
        module.set_model(network)
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.fit(module, make_loader(parts.train, 50, shuffle=True))
    assert found["accuracies"]["1"] == evaluate(network, parts.judging)
    table = np.array([list(item["accuracies"].values()) for item in content["architectures"]])
    between = np.corrcoef(table[:, 0], table[:, 1])[0, 1]
    assert content["reliability"] == pytest.approx(2 * between / (1 + between))
    assert content["command"].startswith("nni-cream study truth")
    assert content["versions"] == [versions()]
    assert len(content["data"]["fingerprint"]) == 64


def test_parts_of_a_study_share_no_image_and_hold_no_test_image():
    parts = load_parts({"name": "digits", "arguments": {"train": 200, "validation": 300}}, 200)
    sets = {name: set(map(int, indices)) for name, indices in parts.indices.items()}
    assert {name: len(own) for name, own in sets.items()} == {
        "train": 200, "validation": 100, "judging": 200, "test": 1297,
    }  # fmt: skip
    for one in sets:
        for other in sets:
            assert one == other or not sets[one] & sets[other]
    # The images themselves are those of the indices.
    own = parts.splits.validation
    assert all((parts.judging[place][0] == own[100 + place][0]).all() for place in (0, 199))
    assert len(parts.validation) == 100


def test_searches_and_trainings_never_touch_a_test_image(monkeypatch, tmp_path):
    parts = load_parts({"name": "digits", "arguments": {"train": 200, "validation": 300}}, 200)

    class Untouchable:
        def __len__(self) -> int:
            return len(parts.indices["test"])

        def __getitem__(self, place: int) -> None:
            raise AssertionError("a test image was looked at")

    object.__setattr__(parts.splits, "test", Untouchable())
    try:
        small = {**TRUTH, "study": {**TRUTH["study"], "architectures": 10}}
        truth = write(tmp_path / "truth.yml", small)
        assert main(["study", "truth", truth, "--out", str(tmp_path / "truth"), "--workers", "1"]) == 0
        short = {**RANK, "study": {**RANK["study"], "seeds": [0]}}
        assert main(rank_words(tmp_path, tmp_path / "rank", config=short)) == 0
        with pytest.raises(AssertionError, match="a test image was looked at"):
            evaluate(spaces.create("digits"), parts.splits.test)
    finally:
        load_parts.__globals__["_load"].cache_clear()


class Watched:
    """Images that remember which of them were looked at."""

    def __init__(self, images: Any) -> None:
        self.images, self.seen = images, set()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Any:
        self.seen.add(place)
        return self.images[place]


def test_searches_and_their_scores_never_touch_a_judging_image(studied, tmp_path):
    parts = load_parts({"name": "digits", "arguments": {"train": 200, "validation": 300}}, 200)
    watched = Watched(parts.splits.validation)
    object.__setattr__(parts.splits, "validation", watched)
    try:
        short = {**RANK, "study": {**RANK["study"], "seeds": [0]}}
        assert main(rank_words(studied, tmp_path / "rank", config=short)) == 0
        assert watched.seen == set(range(100))
        evaluate(spaces.create("digits"), load_parts(RANK_DATA, 200).judging)
        assert watched.seen == set(range(300))
    finally:
        load_parts.__globals__["_load"].cache_clear()


def test_table_is_what_scipy_says_of_the_records(studied):
    truth = read(studied / "truth/truth.json")
    means = [np.mean(list(item["accuracies"].values())) for item in truth["architectures"]]
    lines = [json.loads(line) for line in (studied / "rank/records.jsonl").read_text().splitlines()]
    records = {line["key"]: line["result"] for line in lines[1:]}
    content = read(studied / "rank/rank.json")
    assert content["complete"] is True
    spos, meta, macs = content["tables"]["equal epochs"]
    assert (spos["variant"], meta["variant"], macs["variant"]) == ("spos", "meta", "multiply-adds alone")
    assert spos["cost_ratio"]["value"] == 1
    assert "tau" not in spos["differences"]
    for row in (spos, meta):
        for treatment in ("batch", "recalibrated"):
            own = [records[f"{row['variant']} seed {seed}"]["scores"][treatment] for seed in (3, 4)]
            taus = [stats.kendalltau(scores, means).statistic for scores in own]
            found = row["measures"][treatment]
            assert found["tau"]["value"] == pytest.approx(np.mean(taus))
            assert found["tau"]["low"] <= found["tau"]["high"]
            assert found["spearman"]["value"] == pytest.approx(
                np.mean([stats.spearmanr(scores, means).statistic for scores in own])
            )
            assert found["accuracy"]["value"] == pytest.approx(np.mean(own))
    counted = [item["macs"] for item in truth["architectures"]]
    for treatment in ("batch", "recalibrated"):
        found = macs["measures"][treatment]
        assert found["tau"]["value"] == pytest.approx(stats.kendalltau(counted, means).statistic)
        assert "accuracy" not in found  # multiply-adds are none
        gained = macs["differences"][treatment]["tau"]["value"]
        assert gained == pytest.approx(found["tau"]["value"] - spos["measures"][treatment]["tau"]["value"])
    gained = meta["differences"]["recalibrated"]["tau"]["value"]
    values = [row["measures"]["recalibrated"]["tau"]["value"] for row in (meta, spos)]
    assert gained == pytest.approx(values[0] - values[1])
    seconds = [[records[f"{name} seed {seed}"]["search_cpu_seconds"] for seed in (3, 4)] for name in ("meta", "spos")]
    assert meta["cost_ratio"]["value"] == pytest.approx(np.mean(np.divide(*seconds)))


def test_prior_of_size_is_told_apart_from_what_the_losses_and_the_scores_say(studied):
    truth, content = read(studied / "truth/truth.json"), read(studied / "rank/rank.json")
    means = [np.mean(list(item["accuracies"].values())) for item in truth["architectures"]]
    macs = np.array([item["macs"] for item in truth["architectures"]])
    paths = [item["choices"] for item in truth["architectures"]]
    lines = [json.loads(line) for line in (studied / "rank/records.jsonl").read_text().splitlines()]
    results = [line["result"] for line in lines[1:] if line["key"].startswith("meta seed")]
    expected: dict[str, list[float]] = {"predicted": [], "predicted, without size": [], "with size": []}
    for result in results:
        assert result["trained"]["sizes"] is not None
        scores = np.array(result["scores"]["recalibrated"])
        sized = scores + 0.5 * scores.std() * stats.zscore(macs)
        ranked = [
            predict(NAMED_SPACE, result["trained"], paths),
            predict(NAMED_SPACE, {**result["trained"], "sizes": None}, paths),
            sized,
        ]
        for own, values in zip(expected.values(), ranked, strict=True):
            own.append(stats.kendalltau(values, means).statistic)
    spos, meta, _ = content["tables"]["equal epochs"]
    for name, taus in expected.items():
        assert meta["measures"][name]["tau"]["value"] == pytest.approx(np.mean(taus))
        assert "accuracy" not in meta["measures"][name]
        gained = np.mean(taus) - spos["measures"]["recalibrated"]["tau"]["value"]
        assert meta["differences"][name]["tau"]["value"] == pytest.approx(gained)
    document = (studied / "rank/rank.md").read_text()
    assert "| predictor without its prior of size |" in document
    assert "| scores with the predictor's prior of size |" in document


def test_scores_are_those_of_the_supernet_with_and_without_statistics_of_its_own(studied):
    lines = [json.loads(line) for line in (studied / "rank/records.jsonl").read_text().splitlines()]
    scores = next(line["result"]["scores"] for line in lines[1:] if line["key"] == "meta seed 4")
    resolved = config.RANK.resolve(RANK)
    settings = {**resolved["search"], **resolved["variants"]["meta"], "seed": 4}
    with trained_supernet(lines[0]["shared"], settings) as supernet:
        paths = [supernet.decode(path) for path in lines[0]["shared"]["paths"]]
        assert scores["batch"] == [supernet.module.scorer.score(path) for path in paths]
        loaders = make_loader(supernet.parts.train, 100), make_loader(supernet.parts.validation, 100)
        own = [validate_path(supernet.module, path, *loaders, 100) for path in paths]
    assert scores["recalibrated"] == pytest.approx(own, abs=0.011)  # another batch size may move an image
    assert scores["recalibrated"] != scores["batch"]


def test_replayed_steps_predict_as_the_predictor_of_the_search_did(studied):
    lines = [json.loads(line) for line in (studied / "rank/records.jsonl").read_text().splitlines()]
    trained = next(line["result"]["trained"] for line in lines[1:] if line["key"] == "meta seed 4")
    assert len(trained["columns"]) == len(trained["losses"]) == 2 * 200 // 50
    settings = {**config.RANK.resolve(RANK)["search"], "seed": 4}
    with trained_supernet(lines[0]["shared"], settings) as supernet:
        own, other = supernet.module.predictor.state_dict(), replay(NAMED_SPACE, trained).state_dict()
    assert own["steps"] == other["steps"]
    assert all(own[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4) for name in own)


def test_choices_are_compared_among_all_architectures_of_the_truth(studied, tmp_path):
    part = {**RANK, "study": {**RANK["study"], "scored": 10, "recalibration_images": None, "seeds": [3]}}
    assert main(rank_words(studied, tmp_path / "rank", config=part)) == 0
    truth, content = read(studied / "truth/truth.json"), read(tmp_path / "rank/rank.json")
    assert (content["scored"], content["truth"]["architectures"]) == (10, 12)
    lines = [json.loads(line) for line in (tmp_path / "rank/records.jsonl").read_text().splitlines()]
    records = {line["key"]: line["result"] for line in lines[1:]}
    means = [np.mean(list(item["accuracies"].values())) for item in truth["architectures"]]
    places = [[item["choices"] for item in truth["architectures"]].index(path) for path in lines[0]["shared"]["paths"]]
    scores = records["spos seed 3"]["scores"]["batch"]
    assert "recalibrated" not in records["spos seed 3"]["scores"]
    rows = {(row["variant"], row["rule"]): row["figures"] for row in content["choices"]["equal epochs"]}
    found = rows["spos", "scored"]
    highest = [means[place] for place, score in zip(places, scores, strict=True) if score == max(scores)]
    assert found["regret"]["value"] == pytest.approx(max(means) - np.mean(highest))
    assert found["tau"]["value"] == pytest.approx(stats.kendalltau(scores, np.array(means)[places]).statistic)
    table = content["tables"]["equal epochs"][0]
    assert table["measures"]["batch"]["tau"]["value"] == pytest.approx(found["tau"]["value"])
    assert "8 training steps" not in table["undefined"]  # fewer than the effects of its space, or they would tell
    assert "choices among 12 architectures" in (tmp_path / "rank/rank.md").read_text()


def test_whole_searches_are_compared_with_the_best_of_an_evolution_of_the_same_time(studied, tmp_path, capsys):
    space = {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1", "mbconv_k5e4"]}
    table = tmp_path / "table.csv"
    names = itertools.product(space["operations"], repeat=2)
    lines = [f"{one},{two},{0.5 + 0.01 * number},{number + 1}" for number, (one, two) in enumerate(names)]
    table.write_text("\n".join(["layer_1,layer_2,accuracy,macs", *lines]))
    named = json.dumps({"name": "digits", "arguments": {key: space[key] for key in ("channels", "operations")}})
    truth = tmp_path / "truth/truth.json"
    assert main(["study", "import-truth", "csv", str(table), "--space", named, "--out", str(truth)]) == 0
    changes = {"scored": 10, "recalibration_images": None, "seeds": [3], "evolution": 6, "population": 4}
    study = {**RANK, "space": space, "study": {**RANK["study"], **changes}}
    assert main(rank_words(tmp_path, tmp_path / "rank", "--equal-time", config=study)) == 0
    shared, *jobs = [json.loads(line) for line in (tmp_path / "rank/records.jsonl").read_text().splitlines()]
    records = {line["key"]: line["result"] for line in jobs}
    searches, own = records["spos seed 3"]["searches"], records["meta seed 3"]
    assert "finalising_cpu_seconds" not in records["spos seed 3"]
    for name in ("evolution", "random"):
        keys = [json.dumps(item["path"]) for item in searches[name]]
        assert len(keys) == len(set(keys)) == 6
    settings = {**config.RANK.resolve(study)["search"], "matching": {"name": "none", "arguments": {}}, "seed": 3}
    with trained_supernet(shared["shared"], settings) as supernet:
        for item in [*searches["evolution"], *searches["random"]]:
            assert item["score"] == supernet.score(supernet.decode(item["path"]))
    validated = [entry["validated"] for entry in own["board"]]
    assert validated == sorted(validated, reverse=True)
    rows = {row["rule"]: row for row in read(tmp_path / "rank/rank.json")["whole_searches"]["equal epochs"]}
    spos = records["spos seed 3"]
    assert spos["figures"]["scored"] > 0
    # The plain training does not pay for a board that nobody reads.
    plain = spos["search_cpu_seconds"] - spos["figures"]["scored"] * searches["path_cpu_seconds"]
    spent = own["search_cpu_seconds"] + own["finalising_cpu_seconds"]
    wanted = max(1, int((spent - plain) / searches["path_cpu_seconds"]))
    found = rows["board"]
    assert found["cost_ratio"]["value"] == pytest.approx(spent / plain)
    cost = read(tmp_path / "rank/rank.json")["tables"]["equal epochs"][1]["cost_ratio"]
    assert cost["value"] == pytest.approx(own["search_cpu_seconds"] / plain)
    assert (found["wanted"], found["paths"]) == ([wanted] * 2, [min(6, wanted)] * 2)
    accuracies = {json.dumps(item["choices"]): item["accuracies"]["0"] for item in read(truth)["architectures"]}
    for name in ("evolution", "random"):
        best = max(searches[name][: min(6, wanted)], key=lambda item: item["score"])
        theirs = max(accuracies.values()) - accuracies[json.dumps(best["path"])]
        assert found["regrets"][name]["value"] == pytest.approx(theirs)
        regret = max(accuracies.values()) - accuracies[json.dumps(own["board"][0]["path"])]
        assert found["differences"][name]["value"] == pytest.approx(regret - theirs)
    document = (tmp_path / "rank/rank.md").read_text()
    assert "whole searches at the CPU time of each" in document
    assert "SPOS + evolution" in document
    over_time = read(tmp_path / "rank/rank.json")["regret_over_time"]["equal epochs"]
    macs = {json.dumps(item["choices"]): item["macs"] for item in read(truth)["architectures"]}
    half = {key for key in macs if macs[key] <= np.median([*macs.values()])}
    for among, keys, others in (("all architectures", {*macs}, searches), ("the half with fewer", half, ["random"])):
        curves = next(own for name, own in over_time.items() if name.startswith(among))
        for name in {"evolution", "random"} & {*others}:
            scored = [item for item in searches[name] if json.dumps(item["path"]) in keys]
            bests = [max(scored[: place + 1], key=lambda item: item["score"]) for place in range(len(scored))]
            theirs = [max(accuracies[key] for key in keys) - accuracies[json.dumps(best["path"])] for best in bests]
            curve = curves[f"SPOS + {name}"]
            assert [own["value"] for own in curve["regrets"]] == pytest.approx(theirs)
            path_cost = searches["path_cpu_seconds"] / plain
            assert curve["costs"] == pytest.approx([1 + (place + 1) * path_cost for place in range(len(theirs))])
        for rule, steps in (
            ("of all", own["trained"]),
            ("without its prior of size", {**own["trained"], "sizes": None}),
        ):
            curve = curves[f"meta: best prediction {rule}"]
            assert curve["costs"][-1] == pytest.approx(own["search_cpu_seconds"] / plain)
            paths = [json.loads(key) for key in accuracies if key in keys]
            predictions = predict(shared["shared"]["space"], steps, paths)
            best = accuracies[json.dumps(paths[int(np.argmax(predictions))])]
            assert curve["regrets"][-1]["value"] == pytest.approx(max(accuracies[key] for key in keys) - best)
    assert "evolution" not in "".join(curves)  # one that knew of no limit would waste its paths
    content = read(tmp_path / "rank/rank.json")  # whole searches have times of their own
    assert [*content["whole_searches"]] == [*content["regret_over_time"]] == ["equal epochs"]
    assert [*content["choices"]] == ["equal epochs", "equal time"]
    assert (tmp_path / "rank/rank_searches_equal_epochs.png").stat().st_size > 5_000
    capsys.readouterr()
    part = {**study, "study": {**study["study"], "evolution": 6}}
    truth.write_text(json.dumps({**read(truth), "architectures": read(truth)["architectures"][:-1]}))
    assert main(rank_words(tmp_path, tmp_path / "other", config=part)) == 1
    assert "study.evolution is set; expected all architectures of the space" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "other").exists()


def test_equal_time_gives_the_cheaper_variant_more_epochs(studied):
    lines = [json.loads(line) for line in (studied / "rank/records.jsonl").read_text().splitlines()]
    seconds = {line["key"]: line["result"]["search_cpu_seconds"] for line in lines[1:]}
    own = {name: np.median([seconds[f"{name} seed {seed}"] for seed in (3, 4)]) for name in ("spos", "meta")}
    rows = {row["variant"]: row for row in read(studied / "rank/rank.json")["tables"]["equal time"]}
    for name in own:
        assert rows[name]["epochs"] == round(2 * max(own.values()) / own[name])
    assert all(row["complete"] for row in rows.values())


def test_pictures_and_a_document_lie_beside_the_tables(studied):
    names = {path.name for path in (studied / "rank").iterdir()}
    pictures = {
        f"rank_{kind}_equal_{budget}.png" for kind in ("scatter", "differences") for budget in ("epochs", "time")
    }
    assert pictures | {"rank.json", "rank.md", "records.jsonl"} <= names
    assert (studied / "truth/truth.png").read_bytes().startswith(b"\x89PNG")
    document = (studied / "rank/rank.md").read_text()
    assert "| spos | scores, BatchNorm recalibrated | 2 |" in document
    assert "nan" not in document.lower()


def test_report_runs_nothing_and_writes_the_same(studied, tmp_path, capsys):
    shutil.copytree(studied / "rank", tmp_path / "rank")
    before = read(tmp_path / "rank/rank.json")
    (tmp_path / "rank/rank.json").unlink()
    records = (tmp_path / "rank/records.jsonl").read_bytes()
    assert main(rank_words(studied, tmp_path / "rank", "--equal-time", "--report", "--json")) == 0
    after = read(tmp_path / "rank/rank.json")
    assert after["tables"] == before["tables"]
    assert (tmp_path / "rank/records.jsonl").read_bytes() == records
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tables"] == before["tables"]


def test_interrupted_study_is_marked_partial_and_goes_on(studied, tmp_path, capsys):
    (tmp_path / "rank").mkdir()
    lines = (studied / "rank/records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rank/records.jsonl").write_text("".join(lines[:4]))  # both variants with seed 3, spos with seed 4
    assert main(rank_words(studied, tmp_path / "rank", "--report")) == 0
    content = read(tmp_path / "rank/rank.json")
    assert content["complete"] is False
    spos, meta = content["tables"]["equal epochs"][:2]
    assert (spos["seeds"], spos["complete"]) == ([3, 4], True)
    assert (meta["seeds"], meta["complete"]) == ([3], False)
    assert meta["differences"]["recalibrated"]["tau"]["seeds"] == 1
    assert "1 of 2 (partial)" in capsys.readouterr().out
    assert "(PARTIAL)" in (tmp_path / "rank/rank.md").read_text()
    assert main(rank_words(studied, tmp_path / "rank")) == 0
    after = read(tmp_path / "rank/rank.json")["tables"]["equal epochs"]
    before = read(studied / "rank/rank.json")["tables"]["equal epochs"]
    for row, other in zip(after, before, strict=True):  # to the last bit, but for the time that it took
        assert row["measures"] == other["measures"]
        assert row["differences"] == other["differences"]


@pytest.mark.parametrize("made", [False, True])
def test_report_of_a_folder_without_a_study_is_an_error_that_names_it(studied, tmp_path, capsys, made):
    if made:
        (tmp_path / "rnak").mkdir()
    truth = ["study", "truth", write(tmp_path / "truth.yml", TRUTH), "--out", str(tmp_path / "rnak")]
    for words in (rank_words(studied, tmp_path / "rnak"), truth):
        assert main([*words, "--report"]) == 1
        assert "rnak: holds no records.jsonl of a study" in capsys.readouterr().err
    assert (tmp_path / "rnak").exists() is made
    assert not made or not [*(tmp_path / "rnak").iterdir()]


def test_nothing_run_yet_is_a_table_without_figures(studied, tmp_path, capsys):
    (tmp_path / "rank").mkdir()
    head = (studied / "rank/records.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "rank/records.jsonl").write_text(head)
    assert main(rank_words(studied, tmp_path / "rank", "--report")) == 0
    assert "0 of 2 (partial)" in capsys.readouterr().out
    assert main(rank_words(studied, tmp_path / "rank", "--report", "--equal-time")) == 1
    assert "no training of spos, meta has ended yet" in capsys.readouterr().err


def test_partial_truth_counts_the_architectures_that_all_seeds_know(studied, tmp_path, capsys):
    (tmp_path / "truth").mkdir()
    lines = (studied / "truth/records.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"005 seed 1"' not in line]
    (tmp_path / "truth/records.jsonl").write_text("".join(kept))
    truth = write(tmp_path / "truth.yml", TRUTH)
    assert main(["study", "truth", truth, "--out", str(tmp_path / "truth"), "--report"]) == 0
    output = capsys.readouterr().out
    assert "11 of 12 architectures" in output
    assert "(PARTIAL)" in output
    shutil.copytree(studied / "rank", tmp_path / "rank")
    assert main(rank_words(tmp_path, tmp_path / "rank", "--report")) == 0
    content = read(tmp_path / "rank/rank.json")
    assert (content["complete"], content["truth"]["architectures"]) == (False, 11)
    means = [np.mean(list(item["accuracies"].values())) for item in read(studied / "truth/truth.json")["architectures"]]
    records = [json.loads(line) for line in (studied / "rank/records.jsonl").read_text().splitlines()[1:]]
    spos = [line["result"]["scores"]["batch"] for line in records if line["key"] in ("spos seed 3", "spos seed 4")]
    taus = [stats.kendalltau(np.delete(own, 5), np.delete(means, 5)).statistic for own in spos]
    found = content["tables"]["equal epochs"][0]["measures"]["batch"]["tau"]
    assert found["value"] == pytest.approx(np.mean(taus))


def test_constant_scores_are_said_to_rank_nothing(studied, tmp_path, capsys):
    shutil.copytree(studied / "rank", tmp_path / "rank")
    path = tmp_path / "rank/records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        if line["key"].startswith("meta"):
            line["result"]["scores"]["recalibrated"] = [0.1] * 12
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(rank_words(studied, tmp_path / "rank", "--report")) == 0
    spos, meta = read(tmp_path / "rank/rank.json")["tables"]["equal epochs"][:2]
    assert meta["undefined"]["recalibrated"].startswith("seed 3: all 12 scores are 0.1, so they rank nothing")
    assert "recalibrated" not in meta["measures"]
    assert "batch" in meta["measures"]
    assert spos["undefined"] == {}
    text = (tmp_path / "rank/rank.md").read_text() + capsys.readouterr().out
    assert "undefined" in text
    assert "nan" not in text.lower()


def test_a_baseline_that_ranks_nothing_takes_nothing_but_the_differences(studied, tmp_path):
    shutil.copytree(studied / "rank", tmp_path / "rank")
    path = tmp_path / "rank/records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    next(line for line in lines if line.get("key") == "spos seed 4")["result"]["scores"]["batch"] = [0.1] * 12
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(rank_words(studied, tmp_path / "rank", "--report")) == 0
    spos, meta, _ = read(tmp_path / "rank/rank.json")["tables"]["equal epochs"]
    before = read(studied / "rank/rank.json")["tables"]["equal epochs"][1]
    assert spos["undefined"].keys() == {"batch"}
    assert meta["measures"] == before["measures"]
    del before["differences"]["batch"]
    assert meta["differences"] == before["differences"]
    assert meta["unpaired"]["batch"].startswith("baseline, seed 4: all 12 scores are 0.1")
    assert "undefined: baseline, seed 4" in (tmp_path / "rank/rank.md").read_text()


def damaged(path: Path, key: str, **changes: Any) -> bytes:
    """Change values of a result; return what the file holds then."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    next(line for line in lines if line.get("key") == key)["result"].update(changes)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": {"batch": [0.5] * 3}}, "scores.batch is a list of 3; expected scores of 12 architectures"),
        ({"scores": {"batch": [None] * 12}}, "scores.batch[0] is None; expected a finite number"),
        ({"scores": 5}, "scores is 5; expected an object"),
        ({"search_cpu_seconds": 0}, "search_cpu_seconds is 0; expected a number above 0"),
    ],
)
def test_a_broken_result_is_an_error_that_names_file_training_and_key(studied, tmp_path, capsys, changes, reason):
    shutil.copytree(studied / "rank", tmp_path / "rank")
    before = damaged(tmp_path / "rank/records.jsonl", "meta seed 3", **changes)
    assert main(rank_words(studied, tmp_path / "rank", "--report")) == 1
    error = capsys.readouterr().err.replace("\n", " ")
    assert "records.jsonl, result of 'meta seed 3': " in error
    assert reason in error
    assert "Delete its line to have it repeated" in error
    assert (tmp_path / "rank/records.jsonl").read_bytes() == before


@pytest.mark.parametrize("accuracy", [None, "0.9", 1.5, float("nan")])
def test_a_broken_training_of_a_truth_is_named(studied, tmp_path, capsys, accuracy):
    shutil.copytree(studied / "truth", tmp_path / "truth")
    before = damaged(tmp_path / "truth/records.jsonl", "003 seed 1", accuracy=accuracy)
    config = write(tmp_path / "truth.yml", TRUTH)
    assert main(["study", "truth", config, "--out", str(tmp_path / "truth"), "--report"]) == 1
    error = capsys.readouterr().err.replace("\n", " ")
    assert "accuracy is " in error
    assert "; expected a" in error
    assert "Delete" in error
    assert (tmp_path / "truth/records.jsonl").read_bytes() == before


def changed_truth(studied: Path, folder: Path, **changes: Any) -> None:
    content = read(studied / "truth/truth.json")
    for key, value in changes.items():
        content[key] = value(content[key])
    (folder / "truth").mkdir()
    (folder / "truth/truth.json").write_text(json.dumps(content))


def with_accuracies(items: list[dict[str, Any]], value: float) -> list[dict[str, Any]]:
    return [{**item, "accuracies": dict.fromkeys(item["accuracies"], value)} for item in items]


def of_others(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "name": "images of others", "fingerprint": None, "judging_images": 0}


def test_truth_of_others_needs_neither_their_images_nor_all_arguments_of_the_space(studied, tmp_path):
    changed_truth(studied, tmp_path, data=of_others, space=lambda space: {**space, "arguments": {}})
    shutil.copytree(studied / "rank", tmp_path / "rank")
    (tmp_path / "rank/rank.json").unlink()
    assert main(rank_words(tmp_path, tmp_path / "rank", "--report")) == 0
    own, other = (read(folder / "rank/rank.json")["tables"]["equal epochs"] for folder in (tmp_path, studied))
    assert own == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": lambda space: {**space, "name": "fashion"}}, "the space of the truth is"),
        (
            {"data": lambda data: {**data, "fingerprint": "0" * 64}},
            "other images: data hash 000000000000...",
        ),
        ({"data": lambda data: {**data, "judging_images": 5}}, "with 5 judging images"),
        ({"architectures": lambda items: items[:9]}, "has 9 architectures with all seeds; expected at least 10"),
        ({"seeds": lambda seeds: [*seeds, 2]}, "has 0 architectures"),
        ({"kind": lambda kind: "rank"}, "kind is 'rank'; expected 'truth'"),
        (
            {"architectures": lambda items: [{"choices": {}}]},
            "architectures[0].accuracies is missing; expected an object",
        ),
        ({"seeds": lambda seeds: []}, "seeds is []; expected a list of at least one"),
        ({"space": lambda space: ["digits"]}, "space is ['digits']; expected an object with name, arguments"),
        ({"data": lambda data: {**data, "fingerprint": 5}}, "data.fingerprint is 5"),
        (
            {"data": of_others, "space": lambda space: {**space, "name": "fashion"}},
            "the space of the truth is fashion; expected digits",
        ),
        (
            {"architectures": lambda items: with_accuracies(items, 17.0)},
            "architectures[0].accuracies.0 is 17.0; expected a number of at least 0 and at most 1",
        ),
        ({"architectures": lambda items: with_accuracies(items, 0.5)}, "all 12 accuracies of the truth are 0.5"),
        (
            {"architectures": lambda items: [*items[:3], {**items[3], "choices": {"layer_1": "conv_9x9"}}, *items[4:]]},
            "the truth's architecture 3 is not of the space",
        ),
    ],
)
def test_truth_that_does_not_fit_is_refused_before_anything_is_trained(studied, tmp_path, capsys, changes, message):
    changed_truth(studied, tmp_path, **changes)
    assert main(rank_words(tmp_path, tmp_path / "rank")) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "rank").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("study", "seeds", [], "study.seeds is []; expected a list of at least 1 different whole numbers"),
        ("study", "seeds", [1, 1], "study.seeds is [1, 1]; expected"),
        ("study", "baseline", "sposs", "study.baseline is 'sposs'; expected one of variants: spos, meta"),
        ("study", "judging_images", 299, "study.judging_images is 299; expected at most 298 of the 300"),
        ("search", "seed", 3, "search.seed is no key of this file"),
        (
            "variants",
            "meta",
            {"bord_size": 3},
            "variants.meta.bord_size is no key of this file; expected variants.meta.board_size",
        ),
        ("variants", "meta", {"board_size": 0}, "variants.meta.board_size is 0; expected a whole number"),
        ("variants", "meta", {"warmup": 2}, "variants.meta: search.warmup is 2 epochs"),
        ("variants", "meta", {"retired": 7}, "variants.meta.retired is 7; expected a mapping of names to values"),
        ("variants", "meta", {"score_images": 7}, "variants.meta.score_images is no longer a key"),
        ("variants", "meta", 7, "variants.meta is 7; expected keys of search"),
    ],
)
def test_wrong_study_file_is_refused_with_its_key(studied, tmp_path, capsys, section, key, value, message):
    wrong = {**RANK, section: {**RANK.get(section, {}), key: value}}
    path = write(tmp_path / "rank.yml", wrong)
    words = ["rank", path, "--truth", str(studied / "truth/truth.json"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_variant_changes_single_keys_of_teaching_and_scoring_and_replaces_all_others():
    content = {
        **RANK,
        "search": {**RANK["search"], "teaching": "paper", "scoring": {"interval": 10}},
        "variants": {
            "spos": {"matching": "none", "scoring": {"rescore_interval": None}},
            "gate": {"teaching": {"gate": True}, "retired": {"sampling": "fair"}},
            "careful": {"teaching": "careful"},
        },
    }
    study = {**RANK["study"], "retired": {"candidates": "latest", "sampling": "board"}}
    variants = make_variants(config.RANK.resolve({**content, "study": study}))
    spos, gate, careful = (variant.jobs[4].arguments for variant in variants)
    paper = {"joint_loss": "mix", "start": None, "gate": False, "weights": "current", "share": 1.0, "temperature": 1.0}
    assert spos["search"]["teaching"] == paper
    assert gate["search"]["teaching"] == {**paper, "gate": True}
    assert careful["search"]["teaching"] == config.RANK.resolve(RANK)["search"]["teaching"]
    assert (spos["search"]["scoring"]["interval"], spos["search"]["scoring"]["rescore_interval"]) == (10, None)
    assert spos["search"]["matching"] == {"name": "none", "arguments": {}}
    assert gate["search"]["matching"] == {"name": "meta", "arguments": {"interval": 2}}
    assert spos["retired"] == {"candidates": "latest", "sampling": "board"}
    assert gate["retired"] == {"candidates": "latest", "sampling": "fair"}
    assert "retired" not in make_variants(config.RANK.resolve(content))[0].jobs[4].arguments


def test_study_with_retired_settings_is_reported_but_not_run(studied, tmp_path, capsys):
    shutil.copytree(studied / "rank", tmp_path / "rank")
    path = tmp_path / "rank/records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line["arguments"]["retired"] = {"candidates": "latest"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    old = {**RANK, "study": {**RANK["study"], "retired": {"candidates": "latest"}}}
    assert main(rank_words(studied, tmp_path / "rank", config=old)) == 0  # all records are there
    more = {**old, "study": {**old["study"], "seeds": [3, 4, 5]}}
    assert main(rank_words(studied, tmp_path / "rank", config=more)) == 1
    assert "2 of the missing trainings have retired settings (candidates)" in capsys.readouterr().err.replace("\n", " ")
    assert main(rank_words(studied, tmp_path / "rank", "--report", config=more)) == 0
    found = read(tmp_path / "rank/rank.json")["tables"]["equal epochs"][1]["measures"]
    assert found == read(studied / "rank/rank.json")["tables"]["equal epochs"][1]["measures"]


def test_workers_say_nothing_of_the_libraries_below(python, tmp_path):
    config = write(tmp_path / "truth.yml", {**TRUTH, "study": {**TRUTH["study"], "architectures": 2}})
    words = ["study", "truth", config, "--out", str(tmp_path / "out"), "--workers", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    command = [*python, "-m", "nni_cream", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
    lines = [line for line in done.stderr.splitlines() if line]  # rich < 14.3 ends a disabled bar with an empty line
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        f"{number:03d} seed {seed}" for number in range(2) for seed in (0, 1)
    )


def test_folder_of_somebody_else_is_left_alone(studied, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_text("mine")
    assert main(rank_words(studied, tmp_path)) == 1
    assert "holds files but no records.jsonl" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def test_architectures_from_a_file_are_checked(tmp_path, capsys):
    good = draw_architectures(NAMED_SPACE, 3)
    for content, message in (
        ([*good, good[0]], "list.json: architecture 3 is the same as "),
        (
            [*good, {"layer_1": "conv_9x9"}],
            "list.json: architecture 3 is not of the space: the path has missing labels ['layer_2']",
        ),
        ({"a": 1}, "list.json: the content is {'a': 1}; expected a list. Name it with study.architectures"),
    ):
        (tmp_path / "list.json").write_text(json.dumps(content))
        wrong = {**TRUTH, "study": {**TRUTH["study"], "architectures": str(tmp_path / "list.json")}}
        path = write(tmp_path / "truth.yml", wrong)
        assert main(["study", "truth", path, "--out", str(tmp_path / "out")]) in (1, 2)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_truth_of_equal_accuracies_is_written_and_said_to_tell_nothing(studied, tmp_path, capsys):
    (tmp_path / "truth").mkdir()
    lines = [json.loads(line) for line in (studied / "truth/records.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        line["result"]["accuracy"] = 0.1
    (tmp_path / "truth/records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    truth = write(tmp_path / "truth.yml", TRUTH)
    assert main(["study", "truth", truth, "--out", str(tmp_path / "truth"), "--report"]) == 0
    assert "undefined, since no accuracies differ yet" in capsys.readouterr().out
    assert read(tmp_path / "truth/truth.json")["reliability"] is None


def test_more_architectures_than_the_space_has_are_not_to_be_had():
    with pytest.raises(Exception, match="is 17; expected at most 16, the different ones"):
        draw_architectures(NAMED_SPACE, 17)


def test_workers_are_a_positive_number(studied, tmp_path, capsys):
    words = rank_words(studied, tmp_path / "out")
    words[words.index("--workers") + 1] = "0"
    assert main(words) == ConfigError.exit_code
    assert "--workers is 0; expected a whole number of at least 1" in capsys.readouterr().err
