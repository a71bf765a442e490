from __future__ import annotations

import json
from typing import Any

import pytest

from nni_cream import config
from nni_cream.errors import FileError
from nni_cream.manager.final_metric import INTERRUPTED, pack_final, unpack_final
from nni_cream.manager.plan import ExperimentPlan, Job, State, Trial
from nni_cream.results.architecture_file import Best

CONFIG = config.resolve({"space": "digits", "data": "digits", "retrain": {"top": 2}})


def entry(operation: str, accuracy: float, cost: float = 10.0) -> dict[str, Any]:
    return {"path": {"layer_1": operation}, "accuracy": accuracy, "cost": cost, "step": 1}


def search_metric(*entries: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    best = Best(
        space={"name": "digits", "arguments": {}},
        choices=entries[0]["path"],
        accuracy=entries[0]["accuracy"],
        cost=entries[0]["cost"],
        cost_name="macs",
        data={"name": "digits", "arguments": {}, "fingerprint": "f"},
        seed=seed,
        versions={},
    )
    return {"default": best.accuracy, "board": {"entries": list(entries)}, "best": best.to_json()}


def retrain_metric(validation: float, test: float = 0.5) -> dict[str, Any]:
    return {
        "default": validation,
        "validation_accuracy": validation,
        "test_accuracy": test,
        "epochs": 3,
        "seconds": 1.0,
    }


def issue_all(plan: ExperimentPlan) -> list[Trial]:
    trials = []
    while (trial := plan.next()) is not None:
        trials.append(trial)
    return trials


def fail_for_good(trial: Trial) -> None:
    while not trial.ended:
        trial.fail()


def test_there_is_a_search_for_each_combination_of_the_varied_keys() -> None:
    plan = ExperimentPlan(CONFIG, {"seed": [0, 1], "cost_range": [None, [0.0, 9.0]]})
    trials = issue_all(plan)
    found = [(trial.parameters["seed"], trial.parameters["cost_range"]) for trial in trials]
    assert found == [(0, None), (0, [0.0, 9.0]), (1, None), (1, [0.0, 9.0])]
    for trial in trials:
        assert trial.parameters["role"] == "search"
        assert trial.parameters["config"]["search"]["seed"] == trial.parameters["seed"]
        assert trial.parameters["config"]["search"]["cost_range"] == trial.parameters["cost_range"]
    assert CONFIG["search"]["seed"] == 0


def test_nothing_varied_is_one_search() -> None:
    assert len(issue_all(ExperimentPlan(CONFIG, {}))) == 1


def test_no_retraining_starts_before_every_search_has_ended() -> None:
    plan = ExperimentPlan(CONFIG, {"seed": [0, 1]})
    first, second = issue_all(plan)
    first.receive(search_metric(entry("a", 0.9)))
    assert plan.next() is None
    assert not plan.finished
    fail_for_good(second)
    trial = plan.next()
    assert trial is not None
    assert trial.parameters["role"] == "retrain"


def test_the_best_distinct_entries_over_all_boards_are_retrained() -> None:
    plan = ExperimentPlan(CONFIG, {"seed": [0, 1]})
    first, second = issue_all(plan)
    first.receive(search_metric(entry("a", 0.8), entry("b", 0.6)))
    second.receive(search_metric(entry("a", 0.9), entry("c", 0.7)))
    retrained = [trial.parameters for trial in issue_all(plan)]
    assert [parameters["choices"]["layer_1"] for parameters in retrained] == ["a", "c"]
    assert [parameters["one_shot_accuracy"] for parameters in retrained] == [0.9, 0.7]
    assert [parameters["search_trial"] for parameters in retrained] == [1, 1]


def test_of_equally_accurate_entries_the_cheaper_comes_first() -> None:
    plan = ExperimentPlan(CONFIG, {})
    issue_all(plan)[0].receive(search_metric(entry("a", 0.8, 20.0), entry("b", 0.8, 10.0), entry("c", 0.8, 30.0)))
    assert [trial.parameters["choices"]["layer_1"] for trial in issue_all(plan)] == ["b", "a"]


def test_trials_carry_all_that_their_process_needs() -> None:
    plan = ExperimentPlan(CONFIG, {})
    issue_all(plan)[0].receive(search_metric(entry("a", 0.8)))
    parameters = issue_all(plan)[0].parameters
    assert {"space", "data", "trainer", "retrain"} <= parameters["config"].keys()


def test_validation_accuracy_chooses_and_test_accuracy_has_no_say() -> None:
    plan = ExperimentPlan(CONFIG, {})
    issue_all(plan)[0].receive(search_metric(entry("a", 0.9), entry("b", 0.8)))
    first, second = issue_all(plan)
    first.receive(retrain_metric(0.95, test=0.99))
    second.receive(retrain_metric(0.97, test=0.90))
    chosen = plan.chosen()
    assert chosen is not None
    assert chosen.choices == {"layer_1": "b"}
    assert chosen.accuracy == 0.8
    assert chosen.retrained == {key: value for key, value in retrain_metric(0.97, 0.90).items() if key != "default"}
    assert plan.finished


def test_of_equal_validation_accuracies_the_cheaper_is_chosen() -> None:
    plan = ExperimentPlan(CONFIG, {})
    issue_all(plan)[0].receive(search_metric(entry("a", 0.9, 20.0), entry("b", 0.8, 10.0)))
    for trial in issue_all(plan):
        trial.receive(retrain_metric(0.95))
    chosen = plan.chosen()
    assert chosen is not None
    assert chosen.choices == {"layer_1": "b"}


def test_before_anything_is_retrained_the_best_of_all_boards_is_chosen() -> None:
    plan = ExperimentPlan(CONFIG, {"seed": [0, 1]})
    assert plan.chosen() is None
    first, second = issue_all(plan)
    first.receive(search_metric(entry("a", 0.8)))
    second.receive(search_metric(entry("b", 0.9), seed=1))
    chosen = plan.chosen()
    assert chosen is not None
    assert (chosen.choices, chosen.seed, chosen.retrained) == ({"layer_1": "b"}, 1, None)


def test_failed_retraining_leaves_the_choice_to_the_others() -> None:
    plan = ExperimentPlan(CONFIG, {})
    issue_all(plan)[0].receive(search_metric(entry("a", 0.9), entry("b", 0.8)))
    first, second = issue_all(plan)
    fail_for_good(first)
    second.receive(retrain_metric(0.5))
    chosen = plan.chosen()
    assert plan.finished
    assert chosen is not None
    assert chosen.choices == {"layer_1": "b"}


def test_plan_whose_searches_all_failed_is_finished_without_a_choice() -> None:
    plan = ExperimentPlan(CONFIG, {})
    fail_for_good(issue_all(plan)[0])
    assert plan.next() is None
    assert plan.finished
    assert plan.chosen() is None


def test_nothing_to_retrain_ends_with_the_searches() -> None:
    plan = ExperimentPlan(config.resolve({"space": "digits", "data": "digits", "retrain": {"top": 0}}), {})
    issue_all(plan)[0].receive(search_metric(entry("a", 0.9)))
    assert plan.finished
    assert plan.next() is None


@pytest.mark.parametrize(
    ("role", "metric", "problem"),
    [
        ("search", 0.9, "0.9; expected an object with best, board"),
        ("search", {"default": 0.9}, "best is missing"),
        ("search", {**search_metric(entry("a", 0.9)), "board": {}}, "board.entries is missing"),
        ("retrain", {"default": 0.9}, "validation_accuracy is missing"),
    ],
)
def test_metric_of_another_kind_or_version_is_refused_with_its_key(role: str, metric: Any, problem: str) -> None:
    trial = Trial({"role": role})
    with pytest.raises(FileError, match=problem):
        trial.receive(metric)
    assert trial.result is None
    assert trial.state is State.FAILED


def test_failed_trial_is_started_once_more_before_any_other() -> None:
    plan = ExperimentPlan(CONFIG, {"seed": [0, 1, 2]})
    first, second = plan.next(), plan.next()
    assert first is not None
    assert second is not None
    first.fail()
    assert plan.next() is first
    first.fail()
    assert first.state is State.FAILED
    third = plan.next()
    assert third is not None
    assert third.parameters["seed"] == 2
    assert plan.next() is None


def test_trial_that_was_told_to_stop_has_ended_without_a_result_and_is_not_started_again() -> None:
    plan = ExperimentPlan(CONFIG, {})
    (trial,) = issue_all(plan)
    trial.receive({"default": 0.5, INTERRUPTED: True})
    assert (trial.state, trial.result) == (State.STOPPED, None)
    assert plan.next() is None
    assert plan.finished


def through_json(trial: Trial) -> dict[str, Any]:
    """As they come back from NNI's manager, which is a JavaScript program: 1.0 has become 1."""
    content: dict[str, Any] = json.loads(json.dumps(trial.parameters).replace(".0,", ",").replace(".0]", "]"))
    return content


def test_restored_plan_goes_on_where_the_interrupted_one_stood() -> None:
    varied = {"seed": [0, 1], "cost_range": [None, [0.0, 9.0]]}
    before = ExperimentPlan(CONFIG, varied)
    done, failed_once, failed_twice, running = issue_all(before)
    jobs = [
        Job(through_json(done), "SUCCEEDED", search_metric(entry("a", 0.9))),
        Job(through_json(failed_once), "FAILED"),
        Job(through_json(failed_twice), "FAILED"),
        Job(through_json(failed_twice), "USER_CANCELED"),
        Job(through_json(running), "ADD_RESUMED"),
    ]
    after = ExperimentPlan(CONFIG, varied)
    assert after.restore(jobs) == []
    assert [trial.state for trial in after.searches] == [State.SUCCEEDED, State.WAITING, State.FAILED, State.RUNNING]
    again = after.next()
    assert again is after.searches[1]
    assert after.next() is None
    again.fail()
    assert again.state is State.FAILED


def test_restored_plan_retrains_the_same_entries_and_none_twice() -> None:
    before = ExperimentPlan(CONFIG, {"seed": [0, 1]})
    first, second = issue_all(before)
    first.receive(search_metric(entry("a", 0.8), entry("b", 0.7)))
    second.receive(search_metric(entry("c", 0.9)))
    done, running = issue_all(before)
    # NNI lists what it started last first, here.
    jobs = [
        Job(through_json(running), "WAITING"),
        Job(through_json(done), "SUCCEEDED", retrain_metric(0.95)),
        Job(through_json(second), "SUCCEEDED", second.result),
        Job(through_json(first), "SUCCEEDED", first.result),
    ]
    after = ExperimentPlan(CONFIG, {"seed": [0, 1]})
    assert after.restore(jobs) == []
    assert [trial.parameters for trial in after.trials] == [trial.parameters for trial in before.trials]
    assert [trial.state for trial in after.retrains or ()] == [State.SUCCEEDED, State.RUNNING]
    assert after.next() is None


def test_jobs_that_do_not_belong_or_have_another_version_are_named_and_not_taken() -> None:
    plan = ExperimentPlan(CONFIG, {})
    (trial,) = issue_all(ExperimentPlan(CONFIG, {}))
    foreign = {**through_json(trial), "config": {**CONFIG, "search": {**CONFIG["search"], "seed": 7}}}
    problems = plan.restore(
        [
            Job({"lr": 0.1}, "SUCCEEDED", 0.5),
            Job(foreign, "SUCCEEDED", search_metric(entry("a", 0.9))),
            Job(through_json(trial), "SUCCEEDED", {"default": 0.5}),
        ]
    )
    assert len(problems) == 2
    assert "does not belong to this experiment" in problems[0]
    assert "best is missing" in problems[1]
    assert plan.searches[0].state is State.FAILED


def test_final_metric_comes_out_as_it_went_in() -> None:
    metric = {"default": 0.5, "role": "search", "note": "{not JSON", "board": {"entries": [{"path": {"a": [1, None]}}]}}
    packed = pack_final(metric)
    assert all(isinstance(value, float | str) for value in packed.values())
    assert unpack_final(packed) == metric
    assert unpack_final(metric) == metric
    assert unpack_final(0.5) == 0.5


def test_the_final_validation_ranks_the_entries_of_boards_that_have_one() -> None:
    plan = ExperimentPlan(CONFIG, {})
    first = {**entry("a", 0.9), "validated": 0.6}
    second = {**entry("b", 0.8), "validated": 0.7}
    issue_all(plan)[0].receive(search_metric(second, first, entry("c", 0.65)))
    retrained = issue_all(plan)
    assert [trial.parameters["choices"]["layer_1"] for trial in retrained] == ["b", "c"]
    assert [trial.parameters["one_shot_accuracy"] for trial in retrained] == [0.7, 0.65]
    retrained[0].receive(retrain_metric(0.95))
    chosen = plan.chosen()
    assert chosen is not None
    assert (chosen.accuracy, chosen.score) == (0.7, 0.8)
    retrained[1].receive(retrain_metric(0.96))
    chosen = plan.chosen()
    assert chosen is not None
    assert (chosen.accuracy, chosen.score) == (0.65, None)
