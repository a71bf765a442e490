from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nni_cream.errors import ConfigError
from nni_cream.experiment import tuner as module
from nni_cream.experiment.best import load_best
from nni_cream.experiment.tuner import CreamTuner, CreamTunerArgsValidator

ARGUMENTS = {"space": "digits", "data": "digits", "retrain": {"top": 2}}
SEEDS = {"seed": {"_type": "choice", "_value": [0, 1]}}
ONE_SEED = {"seed": {"_type": "choice", "_value": [0]}}


def search_metric(*accuracies: float) -> dict[str, Any]:
    entries = [
        {"path": {"layer_1": f"op{accuracy}"}, "accuracy": accuracy, "cost": 1.0, "step": 1} for accuracy in accuracies
    ]
    best = {
        "format": "nni_cream.best/1",
        "space": {"name": "digits", "arguments": {}},
        "choices": entries[0]["path"],
        "accuracy": accuracies[0],
        "cost": 1.0,
        "cost_name": "macs",
        "data": {"name": "digits", "arguments": {}},
        "seed": 0,
        "versions": {},
    }
    return {"default": accuracies[0], "board": {"entries": entries}, "best": best}


def retrain_metric(accuracy: float) -> dict[str, Any]:
    return {"default": accuracy, "validation_accuracy": accuracy, "test_accuracy": accuracy}


class Dispatcher:
    """Stands for NNI's dispatcher, with the order of calls that its two threads can bring about."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, search_space: Any = None) -> None:
        self.log = folder / "log"
        self.log.mkdir()
        monkeypatch.setenv("NNI_LOG_DIRECTORY", str(self.log))
        monkeypatch.setenv("NNI_TUNER_COMMAND_CHANNEL", "ws://localhost:7999/prefix/tuner")
        self.requests: list[tuple[str, Any]] = []
        profile = {"params": {"maxTrialNumber": 99}}
        monkeypatch.setattr(
            module.rest, "get", lambda port, api, prefix: self.requests.append((prefix, port)) or profile
        )
        monkeypatch.setattr(module.rest, "put", lambda port, api, data, prefix: self.requests.append((api, data)))
        self.tuner = CreamTuner(**ARGUMENTS)
        self.tuner.update_search_space(search_space or ONE_SEED)
        self.sent: dict[int, dict[str, Any]] = {}

    def ask(self, *ids: int) -> None:
        ready = self.tuner.generate_multiple_parameters(list(ids), st_callback=self.sent.__setitem__)
        self.sent.update(zip(ids, ready, strict=False))

    def result(self, trial: int, value: Any) -> None:
        self.tuner.receive_trial_result(trial, self.sent[trial], value, trial_job_id="x")

    def roles(self) -> dict[int, str]:
        return {trial: parameters["role"] for trial, parameters in self.sent.items()}

    @property
    def ended_with(self) -> int | None:
        trials = [data["params"]["maxTrialNumber"] for api, data in self.requests if "MAX_TRIAL_NUM" in api]
        assert len(trials) <= 1
        return trials[0] if trials else None


@pytest.fixture
def dispatcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    return Dispatcher(tmp_path, monkeypatch)


def test_trials_one_after_the_other_end_the_experiment_with_the_best_in_a_file(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9, 0.8, 0.7))
    dispatcher.tuner.trial_end(0, True)
    dispatcher.ask(1)
    dispatcher.result(1, retrain_metric(0.5))
    dispatcher.tuner.trial_end(1, True)
    assert dispatcher.ended_with is None
    dispatcher.ask(2)
    dispatcher.result(2, retrain_metric(0.6))
    assert dispatcher.roles() == {0: "search", 1: "retrain", 2: "retrain"}
    assert dispatcher.ended_with == 3
    best = load_best(dispatcher.log)
    assert best.choices == {"layer_1": "op0.8"}
    assert best.retrained == {"validation_accuracy": 0.6, "test_accuracy": 0.6}


def test_further_requests_after_the_end_change_nothing(dispatcher: Dispatcher) -> None:
    test_trials_one_after_the_other_end_the_experiment_with_the_best_in_a_file(dispatcher)
    dispatcher.ask(3)
    dispatcher.tuner.trial_end(2, True)
    assert dispatcher.roles().keys() == {0, 1, 2}
    assert dispatcher.ended_with == 3


def test_idle_places_get_their_trials_as_soon_as_there_are_some(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1, 2)
    assert dispatcher.roles() == {0: "search"}
    dispatcher.result(0, search_metric(0.9, 0.8, 0.7))
    assert dispatcher.roles() == {0: "search", 1: "retrain", 2: "retrain"}


def test_searches_run_side_by_side_and_retraining_waits_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(tmp_path, monkeypatch, SEEDS)
    dispatcher.ask(0, 1)
    dispatcher.result(0, search_metric(0.9, 0.8))
    dispatcher.tuner.trial_end(0, True)
    dispatcher.ask(2)
    assert dispatcher.roles() == {0: "search", 1: "search"}
    dispatcher.result(1, search_metric(0.85, 0.7))
    assert dispatcher.sent[2]["choices"] == {"layer_1": "op0.9"}


def test_failed_retraining_does_not_keep_the_experiment_from_ending(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1, 2)
    dispatcher.result(0, search_metric(0.9, 0.8))
    dispatcher.tuner.trial_end(1, False)
    assert dispatcher.ended_with is None
    dispatcher.result(2, retrain_metric(0.5))
    assert dispatcher.ended_with == 3
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.8"}


def test_failed_search_ends_the_experiment_without_a_file(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.tuner.trial_end(0, False)
    assert dispatcher.ended_with == 1
    assert not (dispatcher.log / "best.json").exists()


def test_trial_that_ends_without_a_result_counts_as_failed(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.tuner.trial_end(0, True)
    assert dispatcher.ended_with is None  # its result might still be on the way
    dispatcher.ask(1)
    assert dispatcher.ended_with == 1


@pytest.mark.parametrize("metric", [0.9, {"default": 0.9}, {"default": 0.9, "board": {"entries": []}}])
def test_result_of_another_version_counts_as_failed(dispatcher: Dispatcher, metric: Any) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, metric)
    assert dispatcher.ended_with == 1


def test_end_of_a_trial_that_was_never_issued_is_ignored(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.tuner.receive_trial_result(7, {}, {"default": 1.0})
    dispatcher.tuner.trial_end(7, False)
    assert dispatcher.ended_with is None


def test_the_choice_so_far_is_in_the_file_from_the_first_search_on(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9, 0.8))
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.9"}


def test_manager_is_reached_at_its_own_port_and_prefix(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.tuner.trial_end(0, False)
    assert dispatcher.requests[0] == ("prefix", 7999)


def test_path_of_this_python_is_left_for_the_trials(dispatcher: Dispatcher) -> None:
    assert (dispatcher.log.parent / "python").read_text() == sys.executable


def test_parameters_are_json_that_a_web_page_can_show(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9))
    assert json.loads(json.dumps(dispatcher.sent)) == {str(trial): value for trial, value in dispatcher.sent.items()}


def test_wrong_arguments_are_refused_all_at_once() -> None:
    for check in (CreamTuner, CreamTunerArgsValidator().validate_class_args):
        with pytest.raises(ConfigError) as caught:
            check(space="digits", search={"epochs": 0}, retrian={})
        for problem in ("tuner.classArgs.data: is missing", "search.epochs: 0", "did you mean 'retrain'?"):
            assert problem in str(caught.value)


@pytest.mark.parametrize("devices", [2, [0, 1], "auto"])
def test_trial_on_several_devices_is_refused(devices: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        CreamTuner(**ARGUMENTS, trainer={"devices": devices})


def test_search_space_of_a_running_experiment_cannot_be_changed(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1)
    dispatcher.tuner.update_search_space(SEEDS)
    assert dispatcher.roles() == {0: "search"}
    dispatcher.result(0, search_metric(0.9))
    assert dispatcher.roles() == {0: "search", 1: "retrain"}
