"""What the predictor makes of recorded steps, and what it would choose of a whole truth that is made up."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nni_cream.search import path_key
from nni_cream.studies.intervals import Estimate
from nni_cream.studies.plots import draw_searches, have_matplotlib
from nni_cream.studies.ranking.choice_rules import WholeTruth, choice_rows, chosen_of_board
from nni_cream.studies.ranking.predictions import predict, predicted_meanwhile, replay
from nni_cream.studies.ranking.rank_study import Choices, Row
from nni_cream.studies.ranking.whole_searches import RegretCurve, regret_curves
from nni_cream.studies.report import choice_cells, curve_cells, every_rank_cells
from nni_cream.studies.truths.truth import Truth

OPERATIONS = ["conv_3x3", "mbconv_k3e2", "conv_1x1"]
SPACE = {"name": "digits", "arguments": {"channels": [8, 8, 8], "operations": OPERATIONS}}
LABELS = [f"layer_{number}" for number in (1, 2, 3)]
PATHS = [dict(zip(LABELS, chosen, strict=True)) for chosen in itertools.product(OPERATIONS, repeat=3)]
GAINS = np.array([[0.0, 0.03, -0.01], [0.02, 0.0, 0.05], [0.0, 0.01, 0.04]])


def quality(path: dict[str, Any]) -> float:
    return float(sum(GAINS[place, OPERATIONS.index(path[label])] for place, label in enumerate(LABELS)))


def truth() -> Truth:
    """Return accuracies of all 27 architectures, a sum over the choices and a little of their own."""
    noise = np.random.default_rng(1).normal(scale=0.002, size=len(PATHS))
    return Truth(
        space=SPACE,
        data={"name": "made up", "arguments": {}, "fingerprint": None, "judging_images": 0},
        recipe={},
        seeds=(0,),
        architectures=tuple(PATHS),
        accuracies=tuple({0: 0.8 + quality(path) + own} for path, own in zip(PATHS, noise, strict=True)),
        macs=tuple(float(1 + number) for number in range(len(PATHS))),
        made_by={},
    )


def trained(seed: int, steps: int = 300) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    predictor = replay(SPACE, {"columns": [], "losses": []})
    drawn = [PATHS[place] for place in generator.integers(len(PATHS), size=steps)]
    losses = [2.0 * np.exp(-step / steps) - quality(path) for step, path in enumerate(drawn)]
    columns = [" ".join(map(str, predictor.columns(path))) for path in drawn]
    return {"columns": columns, "losses": [*np.array(losses) + generator.normal(scale=0.05, size=steps)]}


def result(seed: int, scored: Truth) -> dict[str, Any]:
    generator = np.random.default_rng(100 + seed)
    scores = [quality(path) + generator.normal(scale=0.05) for path in scored.architectures]
    board = [{"path": PATHS[seed], "accuracy": 0.3}, {"path": PATHS[seed + 1], "accuracy": 0.4}]
    return {"scores": {"batch": scores}, "trained": trained(seed), "board": board}


def test_figures_of_each_way_to_choose_are_those_of_scipy_and_of_a_look_at_all() -> None:
    whole = truth()
    scored = whole.part(12)
    results = {"spos": {seed: result(seed, scored) for seed in (0, 1, 2)}}
    rows = {row.rule: row for row in choice_rows(results, "spos", SPACE, WholeTruth(whole, scored))}
    means = np.array(whole.means)
    predictions = [np.array(predict(SPACE, results["spos"][seed]["trained"], PATHS)) for seed in (0, 1, 2)]
    taus = [stats.kendalltau(own, means).statistic for own in predictions]
    assert rows["predicted"].figures["tau"].value == pytest.approx(np.mean(taus))
    assert rows["predicted"].figures["tau"].value > 0.6
    top = [means[sorted(range(27), key=lambda place: -own[place])[:10]].mean() for own in predictions]
    assert rows["predicted"].figures["mean of the 10 highest"].value == pytest.approx(np.mean(top))
    half = [place for place in range(27) if whole.macs[place] <= np.quantile(whole.macs, 0.5)]
    regrets = [max(means[half]) - means[max(half, key=lambda place: own[place])] for own in predictions]
    assert rows["predicted"].figures["regret, 50 %"].value == pytest.approx(np.mean(regrets))
    every = []
    for share in np.linspace(0.05, 0.95, 19):
        within = [place for place in range(27) if whole.macs[place] <= np.quantile(whole.macs, share)]
        every += [max(means[within]) - means[max(within, key=lambda place: own[place])] for own in predictions]
    assert rows["predicted"].figures["regret, mean of 5 to 95 %"].value == pytest.approx(np.mean(every))
    assert rows["predicted, without size"].figures == rows["predicted"].figures  # these steps have no sizes
    board = [max(means) - means[seed + 1] for seed in (0, 1, 2)]
    assert rows["board"].figures["regret"].value == pytest.approx(np.mean(board))
    assert "tau" not in rows["board"].figures
    largest = rows["largest"]
    assert largest.variant == "multiply-adds alone"
    assert largest.figures["tau"].value == pytest.approx(stats.kendalltau(whole.macs, means).statistic)
    assert largest.figures["regret"].value == pytest.approx(max(means) - means[-1])  # the last one is the largest
    assert largest.figures["regret, 50 %"].value == pytest.approx(max(means[half]) - means[max(half)])
    assert largest.figures["regret"].low == largest.figures["regret"].high
    gained = largest.figures["regret"].value - rows["scored"].figures["regret"].value
    assert largest.differences["regret"].value == pytest.approx(gained)
    assert not rows["scored"].differences
    # Correlations over 12 and over 27 architectures differ by more than the rule; what is chosen can be compared.
    assert {name.partition(",")[0] for name in rows["predicted"].differences} == {"regret"}
    results["spos"] = {seed: result(seed, whole) for seed in (0, 1, 2)}
    rows = {row.rule: row for row in choice_rows(results, "spos", SPACE, WholeTruth(whole, whole))}
    own = [stats.kendalltau(results["spos"][seed]["scores"]["batch"], means).statistic for seed in (0, 1, 2)]
    assert rows["predicted"].differences["tau"].value == pytest.approx(np.mean(taus) - np.mean(own))


def test_equal_scores_share_their_places_and_intervals_stay_within_the_possible() -> None:
    whole = truth()
    means = np.array(whole.means)
    three = [PATHS.index(path) for path in PATHS[3:6]]
    results = {seed: result(seed, whole) for seed in (0, 1)}
    for seed, own in results.items():
        own["scores"]["batch"] = [float(place in three) - 0.1 * (place in three[:seed]) for place in range(len(PATHS))]
    row = choice_rows({"spos": results}, "spos", SPACE, WholeTruth(whole, whole))[0]
    regrets = [max(means) - means[three].mean(), max(means) - means[three[1:]].mean()]
    assert row.figures["regret"].value == pytest.approx(np.mean(regrets))
    rest = [place for place in range(len(PATHS)) if place not in three]
    assert row.figures["mean of the 10 highest"].value == pytest.approx(
        (3 * means[three].mean() + 7 * means[rest].mean()) / 10
    )
    assert all(-1 <= figure.low <= figure.high <= 1 for figure in row.figures.values())
    assert all(figure.low >= 0 for name, figure in row.figures.items() if name not in ("tau", "spearman"))


def test_equal_accuracies_of_those_scored_have_no_figures() -> None:
    whole = truth()
    scored = whole.part(12)
    known = {path_key(path) for path in scored.architectures}
    accuracies = tuple(
        {0: 0.8} if path_key(path) in known else own for path, own in zip(PATHS, whole.accuracies, strict=True)
    )
    same = replace(whole, accuracies=accuracies)
    assert (
        choice_rows({"spos": {0: result(0, scored)}}, "spos", SPACE, WholeTruth(same, same.part(12)))[0].figures == {}
    )


def test_what_ranks_nothing_has_no_figures_and_the_table_is_written_all_the_same() -> None:
    whole = truth()
    few = result(0, whole) | {"trained": trained(0, steps=4)}
    few["scores"]["batch"] = [0.5] * len(PATHS)
    rows = choice_rows({"spos": {0: few}}, "spos", SPACE, WholeTruth(whole, whole))
    own = {row.rule: list(row.figures) for row in rows if row.variant == "spos"}
    assert own == {"scored": [], "predicted": [], "predicted, without size": [], "board": ["regret"]}
    head, lines = choice_cells(rows)
    assert {len(line) for line in lines} == {len(head)}


def test_best_of_the_board_that_the_truth_does_not_know_has_no_regret() -> None:
    whole = truth()
    known = {path_key(path) for path in whole.part(20).architectures}
    unknown = next(path for path in PATHS if path_key(path) not in known)
    own = result(0, whole.part(20)) | {"board": [{"path": unknown, "accuracy": 0.9}]}
    rows = choice_rows({"spos": {0: own}}, "spos", SPACE, WholeTruth(whole.part(20), whole.part(20)))
    assert [row.rule for row in rows] == ["scored", "predicted", "predicted, without size", "largest"]


def test_a_rule_whose_choice_of_one_seed_is_not_known_has_no_row() -> None:
    whole = truth()
    part = replace(whole, **{name: getattr(whole, name)[2:] for name in ("architectures", "accuracies", "macs")})
    results = {seed: result(seed, part) for seed in (0, 4)}  # the board of seed 0 chooses the second of all
    rows = choice_rows({"spos": results}, "spos", SPACE, WholeTruth(part, part))
    assert {row.rule for row in rows} == {"scored", "predicted", "predicted, without size", "largest"}
    rows = choice_rows({"spos": {4: results[4]}}, "spos", SPACE, WholeTruth(part, part))
    assert "board" in {row.rule for row in rows}


def test_entries_of_a_board_are_chosen_by_score_by_prediction_or_by_both() -> None:
    own = result(0, truth())
    own["board"] = [
        {"path": path, "accuracy": 0.5, "validated": 0.5 + 0.01 * place} for place, path in enumerate(PATHS)
    ]
    assert list(chosen_of_board(SPACE, own)) == ["board", "board, predicted"]
    own["validation_images"] = 10**9  # no noise at all
    chosen = chosen_of_board(SPACE, own)
    assert chosen["board"] == chosen["board, both"] == PATHS[-1]
    assert chosen["board, predicted"] == PATHS[int(np.argmax(predict(SPACE, own["trained"], PATHS)))]
    own["trained"] = trained(0, steps=4)
    assert list(chosen_of_board(SPACE, own)) == ["board"]
    assert chosen_of_board(SPACE, own | {"board": []}) == {}


def test_prediction_during_a_training_is_that_of_the_steps_so_far():
    steps = trained(0, steps=100)
    found = predicted_meanwhile(SPACE, steps, PATHS, 3)
    assert [share for share, _ in found] == [0.33, 0.66, 1.0]
    for share, prediction in found:
        past = {name: own[: round(100 * share)] for name, own in steps.items()}
        assert prediction.mean == pytest.approx(predict(SPACE, past, PATHS))
    first = predicted_meanwhile(SPACE, steps, PATHS, 50)[0][1]
    assert np.isnan(first.mean).all()  # two steps tell nothing


def test_time_to_a_regret_is_the_one_from_which_its_mean_stays_there():
    curve = RegretCurve(np.array([0.5, 1.0, 1.5]), np.array([[0.004, 0.012, 0.002], [0.004, 0.016, 0.004]]))
    assert [curve.time_to(regret) for regret in (0.02, 0.014, 0.0135, 0.003, 0.0029)] == [0.5, 0.5, 1.5, 1.5, None]
    assert curve_cells({"one": curve})[1] == [["one", "2", "1.50", "1.50", "1.50", "1.50", "0.30 [0.00, 1.57]"]]


def searched(seed: int, whole: Truth, scores: dict[int, float]) -> dict[str, Any]:
    """Return a plain training of 10 seconds with searches that scored some paths, 1 second each."""
    trace = [{"path": PATHS[place], "score": score} for place, score in scores.items()]
    searches = {"evolution": trace, "random": trace, "path_cpu_seconds": 1.0}
    figures = {"figures": {"scored": 0}, "search_cpu_seconds": 10.0}
    return {**result(seed, whole), "searches": searches, **figures}


def test_curves_are_those_of_the_best_so_far_and_of_seeds_that_have_one(tmp_path: Path) -> None:
    whole = truth()
    means = np.array(whole.means)
    plain = {0: searched(0, whole, {20: np.nan, 2: 0.1, 3: 0.3, 9: 0.2}), 1: searched(1, whole, {26: 0.5, 25: 0.4})}
    own = {seed: {**result(seed, whole), "figures": {}, "search_cpu_seconds": 12.0} for seed in (1, 2)}
    curves = regret_curves({"spos": plain, "own": own}, "spos", SPACE, WholeTruth(whole, whole))
    curve = curves["all architectures"]["SPOS + random"]
    assert curve.costs == pytest.approx([1.1, 1.2])  # the second seed has two paths
    assert curve.regrets == pytest.approx(means.max() - means[[[20, 2], [26, 26]]])  # no score is beaten by any
    half = curves["the half with fewer multiply-adds"]
    assert half["SPOS + random"].regrets == pytest.approx(means[:14].max() - means[[[2, 3, 3]]])
    assert "SPOS + evolution" not in half
    for name in ("best prediction of all", "best prediction without its prior of size"):
        assert half[f"own: {name}"].regrets.shape == (1, 12)  # seed 2 has no plain training
        assert half[f"own: {name}"].costs[-1] == pytest.approx(1.2)
    assert regret_curves({"spos": own}, "spos", SPACE, WholeTruth(whole, whole)) == {}
    if have_matplotlib():  # of architectures of one size there is no largest
        rows = choice_rows({"spos": plain}, "spos", SPACE, WholeTruth(replace(whole, macs=(1.0,) * 27), whole))
        draw_searches(tmp_path / "curves.png", Choices(rows, (), curves))
        assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_a_ranking_names_what_ranks_and_ends_with_what_has_no_result() -> None:
    tau = {"tau": Estimate(0.5, 0.4, 0.6, 1)}
    found = {"batch": tau, "predicted": tau}
    rows = [
        Row("one", "", 2, (0,), 1, found),
        Row("two", "", 2, (), 1),
        Row("multiply-adds alone", "", 0, (), 0, found),
    ]
    head, lines = every_rank_cells(rows)
    assert head[:2] == ["variant", "ranked by"]
    assert [line[:2] for line in lines] == [
        ["one", "scores, BatchNorm batch"], ["one", "predictor"], ["two", ""], ["multiply-adds alone", ""]
    ]  # fmt: skip
    assert lines[2][4] == "0 of 1 (partial)"
    assert [line[0] for line in every_rank_cells(rows[1:2])[1]] == ["two"]
    assert {len(line) for line in lines} == {len(head)}
