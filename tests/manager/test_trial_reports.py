"""What is made of the reports of an experiment's trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nni_cream import config
from nni_cream.errors import ManagerError
from nni_cream.manager.final_metric import INTERRUPTED, PARAMETERS, pack_final
from nni_cream.manager.plan import ExperimentPlan
from nni_cream.manager.rest_client import Manager
from nni_cream.manager.trial_reports import collect, save
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import load_board
from nni_cream.results.output_folder import OutputFolder
from tests.manager.test_plan import entry, retrain_metric, search_metric

CONFIG = config.resolve({"space": "digits", "data": "digits", "retrain": {"top": 2}})


class Jobs(Manager):
    """A manager that knows of these jobs: parameters, status, final metric."""

    def __init__(self, *jobs: tuple[Any, str, Any]) -> None:
        super().__init__(port=1)
        self._jobs = jobs

    def get(self, api: str) -> Any:
        if api == "/trial-jobs":
            return [
                {
                    "trialJobId": f"job{number}",
                    "sequenceId": number,
                    "status": status,
                    "hyperParameters": [json.dumps({"parameter_id": number, "parameters": parameters})],
                }
                for number, (parameters, status, _) in enumerate(self._jobs)
            ]
        assert api == "/metric-data?type=FINAL"
        return [
            {"trialJobId": f"job{number}", "data": json.dumps(json.dumps(final))}
            for number, (_, _, final) in enumerate(self._jobs)
            if final is not None
        ]

    def read_stderr(self, job_id: str) -> str:
        return f"{job_id} says why"


def search_and_retrains() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    plan = ExperimentPlan(CONFIG, {"seed": [0]})
    search = plan.next()
    assert search is not None
    search.receive(BOARD)
    first, second = plan.trials[1:]
    return search.parameters, first.parameters, second.parameters


BOARD = search_metric(entry("a", 0.9), entry("b", 0.8))
BOARD["board"] |= {"format": "nni_cream.board/1", "capacity": 5, "margin": 0.05, "cost_name": "macs", "epoch": 3}


def finished(validation: float) -> dict[str, Any]:
    return {**retrain_metric(validation), "one_shot_accuracy": 0.9}


def test_trial_that_succeeded_in_its_second_attempt_is_no_failure() -> None:
    search, first, _ = search_and_retrains()
    outcome = collect(
        Jobs((search, "USER_CANCELED", None), (search, "SUCCEEDED", BOARD), (first, "SUCCEEDED", finished(0.5)))
    )
    assert [trial["parameters"]["role"] for trial in outcome.trials] == ["search", "retrain"]
    assert outcome.failures == []


def test_trial_that_failed_twice_is_described_once_by_its_last_words() -> None:
    search, first, _ = search_and_retrains()
    outcome = collect(Jobs((search, "SUCCEEDED", BOARD), (first, "FAILED", None), (first, "FAILED", None)))
    assert outcome.failures == ["trial 2 (retrain) ended as FAILED:\n  job2 says why"]


def test_trial_that_was_told_to_stop_is_neither_a_result_nor_a_failure() -> None:
    search, first, _ = search_and_retrains()
    outcome = collect(Jobs((search, "SUCCEEDED", BOARD), (first, "USER_CANCELED", {"default": 0.1, INTERRUPTED: True})))
    assert len(outcome.trials) == 1
    assert outcome.failures == []


def test_trials_that_started_at_once_and_got_each_others_parameters_are_told_apart_by_their_metrics(
    tmp_path: Path,
) -> None:
    search, first, second = search_and_retrains()
    found = [
        {**finished(accuracy), "cost": given["cost"], **pack_final({PARAMETERS: given})}
        for given, accuracy in ((second, 0.7), (first, 0.6))
    ]
    jobs = Jobs((search, "SUCCEEDED", BOARD), (first, "SUCCEEDED", found[0]), (second, "SUCCEEDED", found[1]))
    outcome = collect(jobs)
    assert outcome.failures == []
    by_accuracy = {trial["result"]["validation_accuracy"]: trial["parameters"] for trial in outcome.trials[1:]}
    assert by_accuracy == {0.7: second, 0.6: first}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_failure_is_told_although_its_record_has_the_parameters_of_a_success(order: tuple[int, int]) -> None:
    search, first, second = search_and_retrains()
    done = {**finished(0.6), **pack_final({PARAMETERS: first})}
    retrains = [(first, "FAILED", None), (second, "SUCCEEDED", done)]
    outcome = collect(Jobs((search, "SUCCEEDED", BOARD), *(retrains[place] for place in order)))
    assert [trial["parameters"] for trial in outcome.trials] == [search, first]
    (failure,) = outcome.failures
    assert "ended as FAILED" in failure


@pytest.mark.parametrize("told", ["nonsense", {}, {"role": "retrain"}, {"role": "retrain", "config": 3}, None])
def test_what_a_trial_says_of_its_parameters_counts_only_if_it_can_be_used(told: Any) -> None:
    search, first, _ = search_and_retrains()
    done = {**finished(0.6), PARAMETERS: told}
    outcome = collect(Jobs((search, "SUCCEEDED", BOARD), (first, "SUCCEEDED", done)))
    assert [trial["parameters"] for trial in outcome.trials] == [search, first]


@pytest.mark.parametrize(
    ("final", "problem"),
    [
        (0.9, "0.9; expected an object with best, board"),
        ({"default": 0.9}, "best is missing"),
        ({**BOARD, "best": {**BOARD["best"], "format": "nni_cream.best/0"}}, "best.format is 'nni_cream.best/0'"),
        ({**BOARD, "board": {}}, "board.entries is missing"),
    ],
)
def test_metric_of_a_trial_of_another_version_is_named_with_its_key(final: Any, problem: str) -> None:
    search, *_ = search_and_retrains()
    outcome = collect(Jobs((search, "SUCCEEDED", final)))
    assert outcome.trials == []
    (failure,) = outcome.failures
    assert failure.startswith("trial 0 (search): final metric of the search trial: ")
    assert problem in failure


def test_what_succeeded_is_saved_before_a_failure_is_reported(tmp_path: Path) -> None:
    search, first, second = search_and_retrains()
    jobs = Jobs((search, "SUCCEEDED", BOARD), (first, "SUCCEEDED", finished(0.5)), (second, "FAILED", None))
    plan = ExperimentPlan(CONFIG, {"seed": [0]})
    plan.searches[0].receive(BOARD)
    plan.trials[1].receive(finished(0.5))
    log, out = tmp_path / "log", OutputFolder(tmp_path / "out")
    log.mkdir()
    out.path.mkdir()
    chosen = plan.chosen()
    assert chosen is not None
    chosen.save(log / "best.json")
    with pytest.raises(ManagerError, match=r"1 trial\(s\) failed. The rest is in .*\ntrial 2 .*\n  job2 says why"):
        save(collect(jobs), log, out)
    assert load_best(out.best).choices == {"layer_1": "a"}
    assert [item["path"] for item in load_board(out.board).entries] == [{"layer_1": "a"}, {"layer_1": "b"}]
    (retrained,) = json.loads(out.retrained.read_text())
    assert retrained["validation_accuracy"] == 0.5
