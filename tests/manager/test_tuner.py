from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nni_cream.errors import ConfigError
from nni_cream.manager import rest_client as module
from nni_cream.manager.tuner import CreamTuner
from nni_cream.manager.tuner_arguments import CreamTunerArgsValidator
from nni_cream.results.architecture_file import load_best

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
    accuracies = dict.fromkeys(("default", "validation_accuracy", "test_accuracy"), accuracy)
    return {**accuracies, "epochs": 3, "seconds": 1.0}


class Dispatcher:
    """Stands for NNI's manager and dispatcher, with the order of calls that the two threads of the latter allow."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, search_space: Any = None) -> None:
        self.log = folder / "log"
        self.log.mkdir(exist_ok=True)
        monkeypatch.setenv("NNI_LOG_DIRECTORY", str(self.log))
        monkeypatch.setenv("NNI_TUNER_COMMAND_CHANNEL", "ws://localhost:7999/prefix/tuner")
        monkeypatch.setattr(module.rest, "get", self._get)
        monkeypatch.setattr(module.rest, "put", self._put)
        monkeypatch.setattr(module.rest, "delete", self._delete)
        self.addresses: set[Any] = set()
        self.ended_with: int | None = None
        self.stopped = False
        self.jobs: list[dict[str, Any]] = []
        self.finals: dict[str, Any] = {}
        self.search_space = search_space or ONE_SEED
        self.sent: dict[int, dict[str, Any]] = {}
        self.start()

    def start(self) -> None:
        self.tuner = CreamTuner(**ARGUMENTS)
        self.tuner.update_search_space(self.search_space)

    def _get(self, port: int, api: str, prefix: str) -> Any:
        self.addresses.add((port, prefix))
        if api == "/trial-jobs":
            return list(reversed(self.jobs))
        if api == "/metric-data?type=FINAL":
            return [{"trialJobId": job, "data": json.dumps(json.dumps(value))} for job, value in self.finals.items()]
        assert api == "/experiment"
        return {"params": {"maxTrialNumber": 99}}

    def _put(self, port: int, api: str, data: Any, prefix: str) -> None:
        assert (api, self.ended_with) == ("/experiment?update_type=MAX_TRIAL_NUM", None)
        self.ended_with = data["params"]["maxTrialNumber"]

    def _delete(self, port: int, api: str, prefix: str) -> None:
        assert (port, api, prefix) == (7999, "/experiment", "prefix")
        self.stopped = True

    def _send(self, trial: int, parameters: dict[str, Any]) -> None:
        self.sent[trial] = parameters
        record = json.dumps({"parameter_id": trial, "parameters": parameters})
        number = len(self.jobs)
        self.jobs.append(
            {"trialJobId": f"job{number}", "sequenceId": number, "status": "RUNNING", "hyperParameters": [record]}
        )

    def job(self, trial: int) -> dict[str, Any]:
        return [job for job in self.jobs if json.loads(job["hyperParameters"][0])["parameter_id"] == trial][-1]

    def ask(self, *ids: int) -> None:
        ready = self.tuner.generate_multiple_parameters(list(ids), st_callback=self._send)
        for trial, parameters in zip(ids, ready, strict=False):
            self._send(trial, parameters)

    def report(self, trial: int, value: Any) -> None:
        """The manager has the final metric, the tuner not yet."""
        self.finals[self.job(trial)["trialJobId"]] = value

    def result(self, trial: int, value: Any) -> None:
        self.report(trial, value)
        self.tuner.receive_trial_result(trial, self.sent[trial], value, trial_job_id="x")

    def end(self, trial: int, status: str = "SUCCEEDED") -> None:
        self.job(trial)["status"] = status
        self.tuner.trial_end(trial, status == "SUCCEEDED")

    def resume(self) -> None:
        """The manager starts again, and with it the tuner; it runs those trials again that were running."""
        self.start()
        self.tuner.load_checkpoint()
        finished = [job for job in self.jobs if job["status"] == "SUCCEEDED"]
        self.tuner.import_data([self._finished(job) for job in finished])

    def _finished(self, job: dict[str, Any]) -> dict[str, Any]:
        parameters = json.loads(job["hyperParameters"][0])["parameters"]
        return {"parameter": parameters, "value": self.finals[job["trialJobId"]]}

    def recovered_result(self, trial: int, value: Any) -> None:
        self.report(trial, value)
        self.tuner.import_data([self._finished(self.job(trial))])
        self.job(trial)["status"] = "SUCCEEDED"

    def roles(self) -> dict[int, str]:
        return {trial: parameters["role"] for trial, parameters in self.sent.items()}


@pytest.fixture
def dispatcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    return Dispatcher(tmp_path, monkeypatch)


def test_trials_one_after_the_other_end_the_experiment_with_the_best_in_a_file(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9, 0.8, 0.7))
    dispatcher.end(0)
    dispatcher.ask(1)
    dispatcher.result(1, retrain_metric(0.5))
    dispatcher.end(1)
    assert dispatcher.ended_with is None
    dispatcher.ask(2)
    dispatcher.result(2, retrain_metric(0.6))
    assert dispatcher.roles() == {0: "search", 1: "retrain", 2: "retrain"}
    assert dispatcher.ended_with == 3
    best = load_best(dispatcher.log)
    assert best.choices == {"layer_1": "op0.8"}
    assert {"default": 0.6, **(best.retrained or {})} == retrain_metric(0.6)


def test_further_requests_after_the_end_change_nothing(dispatcher: Dispatcher) -> None:
    test_trials_one_after_the_other_end_the_experiment_with_the_best_in_a_file(dispatcher)
    dispatcher.ask(3)
    dispatcher.end(2)
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
    dispatcher.end(0)
    dispatcher.ask(2)
    assert dispatcher.roles() == {0: "search", 1: "search"}
    dispatcher.result(1, search_metric(0.85, 0.7))
    assert dispatcher.sent[2]["choices"] == {"layer_1": "op0.9"}


def test_failed_trial_is_started_once_more_and_then_counts_as_failed(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1, 2)
    dispatcher.result(0, search_metric(0.9, 0.8))
    dispatcher.end(0)
    dispatcher.result(2, retrain_metric(0.5))
    dispatcher.end(1, "FAILED")
    dispatcher.ask(3)
    assert dispatcher.sent[3] == dispatcher.sent[1]
    assert dispatcher.ended_with is None
    dispatcher.end(3, "FAILED")
    assert dispatcher.ended_with == 4
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.8"}


def test_search_that_fails_twice_ends_the_experiment_without_a_file(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.end(0, "FAILED")
    dispatcher.ask(1)
    assert dispatcher.sent[1] == dispatcher.sent[0]
    dispatcher.end(1, "FAILED")
    assert dispatcher.ended_with == 2
    assert not (dispatcher.log / "best.json").exists()


def test_place_that_waits_is_given_to_the_second_attempt(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1)
    dispatcher.end(0, "FAILED")
    assert dispatcher.roles() == {0: "search", 1: "search"}


@pytest.mark.parametrize("named", [1, 2])
@pytest.mark.parametrize("end_first", [True, False])
def test_which_of_two_trials_failed_is_known_when_the_other_has_ended(
    dispatcher: Dispatcher, named: int, end_first: bool
) -> None:
    dispatcher.ask(0, 1, 2)
    dispatcher.result(0, search_metric(0.9, 0.8))
    dispatcher.end(0)
    metric = {**retrain_metric(0.6), "parameters": dispatcher.sent[2]}
    failed, other = dispatcher.job(named), dispatcher.job(3 - named)  # NNI may have exchanged its records of the two
    dispatcher.finals[other["trialJobId"]] = metric
    assert failed["trialJobId"] not in dispatcher.finals
    dispatcher.ask(3, 4)
    if end_first:
        dispatcher.end(named, "FAILED")
        assert 3 not in dispatcher.sent
    dispatcher.tuner.receive_trial_result(2, dispatcher.sent[2], metric)
    dispatcher.end(3 - named)
    if not end_first:
        assert 3 not in dispatcher.sent
        dispatcher.end(named, "FAILED")
    assert dispatcher.sent[3] == dispatcher.sent[1]
    assert dispatcher.ended_with is None
    dispatcher.result(3, retrain_metric(0.7))
    assert dispatcher.ended_with == 4
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.9"}


def test_trials_that_fail_beside_each_other_start_once_more(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1, 2, 3, 4)
    dispatcher.result(0, search_metric(0.9, 0.8))
    for trial in (2, 1):
        dispatcher.end(trial, "FAILED")
    assert [dispatcher.sent[trial] for trial in (3, 4)] == [dispatcher.sent[trial] for trial in (1, 2)]
    for trial in (3, 4):
        dispatcher.end(trial, "FAILED")
    assert dispatcher.ended_with == 5


def test_trial_that_ends_well_without_a_result_counts_as_failed(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.end(0)
    dispatcher.ask(1)
    dispatcher.end(1)
    assert dispatcher.ended_with == 2


def test_result_may_come_after_the_end_of_its_trial(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1, 2)
    dispatcher.report(0, search_metric(0.9, 0.8))
    dispatcher.end(0)
    assert dispatcher.roles() == {0: "search"}
    dispatcher.result(0, search_metric(0.9, 0.8))
    assert dispatcher.roles() == {0: "search", 1: "retrain", 2: "retrain"}


@pytest.mark.parametrize("result_first", [True, False])
@pytest.mark.parametrize("status", ["FAILED", "USER_CANCELED", "EARLY_STOPPED"])
def test_trial_that_was_told_to_stop_is_not_started_again(
    dispatcher: Dispatcher, status: str, result_first: bool
) -> None:
    dispatcher.ask(0, 1, 2)
    dispatcher.result(0, search_metric(0.9, 0.8))
    dispatcher.end(0)
    stopped = {"default": 0.3, "interrupted": True}
    if result_first:
        dispatcher.result(1, stopped)
        dispatcher.end(1, status)
    else:
        dispatcher.report(1, stopped)
        dispatcher.end(1, status)
        dispatcher.result(1, stopped)
    dispatcher.ask(3)
    assert 3 not in dispatcher.sent
    dispatcher.result(2, retrain_metric(0.5))
    assert dispatcher.ended_with == 3


@pytest.mark.parametrize("metric", [0.9, {"default": 0.9}, {"default": 0.9, "board": {"entries": []}}])
def test_result_of_another_version_counts_as_failed(dispatcher: Dispatcher, metric: Any) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, metric)
    assert dispatcher.ended_with == 1


def test_end_of_a_trial_that_was_never_issued_is_ignored(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.tuner.receive_trial_result(7, {}, {"default": 1.0})
    dispatcher.tuner.trial_end(7, False)
    dispatcher.tuner.import_data([{"parameter": {"lr": 0.1}, "value": 0.5}])
    assert dispatcher.ended_with is None


def test_the_choice_so_far_is_in_the_file_from_the_first_search_on(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9, 0.8))
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.9"}


def test_manager_is_reached_at_its_own_port_and_prefix(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.end(0, "FAILED")
    assert dispatcher.addresses == {(7999, "prefix")}


def test_path_of_this_python_is_left_for_the_trials(dispatcher: Dispatcher) -> None:
    assert (dispatcher.log.parent / "python").read_text() == sys.executable


def test_parameters_are_json_that_a_web_page_can_show(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9))
    assert json.loads(json.dumps(dispatcher.sent)) == {str(trial): value for trial, value in dispatcher.sent.items()}


def test_resumed_experiment_runs_no_finished_trial_again_and_ends_with_the_same_choice(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.result(0, search_metric(0.9, 0.8, 0.7))
    dispatcher.end(0)
    dispatcher.ask(1)
    dispatcher.result(1, retrain_metric(0.5))
    dispatcher.end(1)
    dispatcher.resume()
    dispatcher.ask(2)
    assert dispatcher.sent[2]["choices"] == {"layer_1": "op0.8"}
    dispatcher.result(2, retrain_metric(0.6))
    assert dispatcher.ended_with == 3
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.8"}


def test_resumed_experiment_waits_for_the_trials_that_were_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(tmp_path, monkeypatch, SEEDS)
    dispatcher.ask(0, 1)
    dispatcher.resume()
    dispatcher.ask(2, 3)
    assert dispatcher.sent.keys() == {0, 1}
    dispatcher.recovered_result(1, search_metric(0.9, 0.8))
    dispatcher.ask(4)
    assert dispatcher.sent.keys() == {0, 1}
    dispatcher.recovered_result(0, search_metric(0.7))
    assert dispatcher.roles() == {0: "search", 1: "search", 2: "retrain", 3: "retrain"}
    dispatcher.result(2, retrain_metric(0.5))
    dispatcher.result(3, retrain_metric(0.4))
    assert dispatcher.ended_with == 4


def test_trial_that_was_running_and_fails_after_the_resume_is_started_once_more(dispatcher: Dispatcher) -> None:
    """NNI does not say so; it only asks for another trial."""
    dispatcher.ask(0)
    dispatcher.resume()
    dispatcher.ask(1)
    dispatcher.job(0)["status"] = "FAILED"
    dispatcher.ask(2)
    assert dispatcher.sent[1] == dispatcher.sent[0]
    dispatcher.result(1, search_metric(0.9))
    assert dispatcher.roles() == {0: "search", 1: "search", 2: "retrain"}


def test_failures_before_the_interruption_count(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0)
    dispatcher.end(0, "FAILED")
    dispatcher.resume()
    dispatcher.ask(1)
    dispatcher.end(1, "FAILED")
    assert dispatcher.ended_with == 2


def test_experiment_that_was_interrupted_after_its_last_result_ends(dispatcher: Dispatcher) -> None:
    dispatcher.ask(0, 1, 2)
    dispatcher.result(0, search_metric(0.9, 0.8))
    dispatcher.result(1, retrain_metric(0.5))
    dispatcher.report(2, retrain_metric(0.6))
    for trial in (0, 1, 2):
        dispatcher.job(trial)["status"] = "SUCCEEDED"
    dispatcher.resume()
    dispatcher.ask(3)
    assert dispatcher.ended_with == 3
    assert load_best(dispatcher.log).choices == {"layer_1": "op0.8"}


def test_mistake_of_the_user_stops_the_manager_and_is_said(
    dispatcher: Dispatcher, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        CreamTuner(**ARGUMENTS, serch={})
    assert dispatcher.stopped
    assert "nni-cream: error: tuner.classArgs.serch is no key of this file" in capsys.readouterr().err
    dispatcher.stopped = False
    with pytest.raises(ConfigError):
        CreamTuner(**ARGUMENTS).update_search_space({"sed": {"_type": "choice", "_value": [0]}})
    assert dispatcher.stopped
    assert "searchSpace.sed is no key of this file; expected searchSpace.seed" in capsys.readouterr().err


def test_wrong_arguments_are_refused_all_at_once() -> None:
    for check in (CreamTuner, CreamTunerArgsValidator().validate_class_args):
        with pytest.raises(ConfigError) as caught:
            check(space="digits", search={"epochs": 0}, retrian={})
        for problem in ("tuner.classArgs.data is missing", "search.epochs is 0", "expected tuner.classArgs.retrain."):
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
