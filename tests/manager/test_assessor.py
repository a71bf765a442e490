"""Early stopping: with NNI's own assessors, fed by NNI's own dispatcher."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nni
import pytest
import yaml
from nni.algorithms.hpo.curvefitting_assessor import curvefitting_assessor
from nni.assessor import Assessor, AssessResult
from nni.runtime import msg_dispatcher
from nni.runtime.tuner_command_channel import CommandType
from nni.tools.package_utils import create_builtin_class_instance
from nni.tuner import Tuner

from nni_cream.errors import ConfigError
from nni_cream.manager.assessor import RetrainAssessor, RetrainAssessorArgsValidator
from nni_cream.manager.experiment_file import load_experiment

SHIPPED = Path(__file__).parents[2] / "experiments" / "cream_experiment.yml"
CLASS = "nni_cream.manager.assessor.RetrainAssessor"


class Dispatcher:
    """NNI's dispatcher, with nobody at the other end of its channel."""

    def __init__(self, assessor: Assessor) -> None:
        self._dispatcher = msg_dispatcher.MsgDispatcher("ws://_unittest_assessor", Tuner(), assessor)
        self._dispatcher.send = self._sent
        self.killed: list[str] = []

    def _sent(self, command: CommandType, data: str) -> None:
        assert command is CommandType.KillTrialJob
        self.killed.append(json.loads(data))

    def run(self, trial: str, accuracies: list[float], role: str | None = "retrain") -> bool:
        """Let a trial report its accuracies and end, unless it is stopped; return whether it got to its end."""
        for sequence, accuracy in enumerate(accuracies):
            value = {"default": accuracy, **({} if role is None else {"role": role}), "epoch": sequence + 1}
            metric = {"parameter_id": 0, "trial_job_id": trial, "type": "PERIODICAL", "sequence": sequence}
            self._dispatcher.handle_report_metric_data(metric | {"value": nni.dump(value)})
            if trial in self.killed:
                break
        event = "EARLY_STOPPED" if trial in self.killed else "SUCCEEDED"
        hyper_params = nni.dump({"parameter_id": 0})
        self._dispatcher.handle_trial_end({"trial_job_id": trial, "event": event, "hyper_params": hyper_params})
        return event == "SUCCEEDED"


@pytest.fixture(autouse=True)
def _no_trial_of_another_test() -> Iterator[None]:
    yield
    msg_dispatcher._trial_history.clear()
    msg_dispatcher._ended_trials.clear()


def medianstop() -> Assessor:
    return create_builtin_class_instance("Medianstop", {}, "assessors")  # type: ignore[no-any-return]


def test_bad_retrain_trial_is_stopped_and_good_ones_are_not() -> None:
    dispatcher = Dispatcher(RetrainAssessor("Medianstop"))
    assert dispatcher.run("first", [0.5, 0.7, 0.8])
    assert not dispatcher.run("bad", [0.3, 0.4, 0.5])
    assert dispatcher.run("good", [0.5, 0.75, 0.85])
    assert dispatcher.killed == ["bad"]


def test_start_step_gives_a_retrain_trial_its_time() -> None:
    dispatcher = Dispatcher(RetrainAssessor("Medianstop", start_step=3))
    assert dispatcher.run("first", [0.5, 0.7, 0.8, 0.8])
    assert dispatcher.run("late", [0.1, 0.2, 0.9, 0.9])
    assert not dispatcher.run("bad", [0.1, 0.2, 0.3, 0.3])


@pytest.mark.parametrize(("wrap", "stopped"), [(medianstop, True), (lambda: RetrainAssessor("Medianstop"), False)])
def test_second_search_would_be_stopped_by_the_bare_assessor_and_is_not_by_ours(
    wrap: Callable[[], Assessor], stopped: bool
) -> None:
    dispatcher = Dispatcher(wrap())
    assert dispatcher.run("first", [0.0, 0.6, 0.8], role="search")
    assert dispatcher.run("second", [0.0, 0.2, 0.3], role="search") is not stopped


@pytest.mark.parametrize(("wrap", "stopped"), [(medianstop, True), (lambda: RetrainAssessor("Medianstop"), False)])
def test_retrain_trial_is_not_compared_with_a_search(wrap: Callable[[], Assessor], stopped: bool) -> None:
    dispatcher = Dispatcher(wrap())
    assert dispatcher.run("search", [0.9, 0.9, 0.9], role="search")
    assert dispatcher.run("retrain", [0.3, 0.6, 0.8]) is not stopped


def test_search_after_retraining_is_not_stopped_either() -> None:
    dispatcher = Dispatcher(RetrainAssessor("Medianstop"))
    assert dispatcher.run("retrain", [0.9, 0.9])
    assert dispatcher.run("search", [0.0, 0.1], role="search")


@pytest.mark.parametrize("role", [None, "something else"])
def test_trial_of_which_nothing_is_known_is_left_alone(role: str | None) -> None:
    dispatcher = Dispatcher(RetrainAssessor("Medianstop"))
    assert dispatcher.run("retrain", [0.9, 0.9])
    assert dispatcher.run("unknown", [0.0, 0.1], role=role)


def test_metric_that_is_a_bare_number_is_left_alone() -> None:
    assert RetrainAssessor("Medianstop").assess_trial("x", [0.1, 0.2]) is AssessResult.Good


def test_stopped_retrain_trial_is_no_yardstick_for_the_next() -> None:
    dispatcher = Dispatcher(RetrainAssessor("Medianstop"))
    assert dispatcher.run("first", [0.8, 0.8])
    assert not dispatcher.run("bad", [0.1, 0.1])
    assert not dispatcher.run("middling", [0.5, 0.5])  # below the first, above the median of both


def test_curvefitting_stops_a_curve_that_levels_off_too_low() -> None:
    arguments = {"epoch_num": 20, "start_step": 6, "threshold": 0.95}
    dispatcher = Dispatcher(RetrainAssessor("Curvefitting", **arguments))
    assert dispatcher.run("search", [0.1, 0.1], role="search")
    assert dispatcher.run("first", [1 - 0.5 / (epoch + 1) for epoch in range(20)])
    assert not dispatcher.run("bad", [0.3 - 0.2 / (epoch + 1) for epoch in range(20)])


def test_assessor_that_cannot_decide_does_not_stop_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(RetrainAssessor("Curvefitting", epoch_num=5, start_step=1))
    assert dispatcher.run("first", [0.8, 0.9])
    monkeypatch.setattr(curvefitting_assessor.CurveModel, "predict", lambda *_: 1 / 0)
    assert dispatcher.run("second", [0.1, 0.1])


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({}, ["assessor.classArgs.name is missing; expected one of Medianstop, Curvefitting"]),
        ({"name": "Medianstopp"}, ["assessor.classArgs.name is 'Medianstopp'; expected one of"]),
        ({"name": 3}, ["assessor.classArgs.name is 3; expected one of"]),
        (
            {"name": "Medianstop", "start_stepp": 3, "optimize_mode": "most"},
            [
                "assessor.classArgs.start_stepp is no argument of Medianstop; expected start_step",
                "assessor.classArgs.optimize_mode is 'most'; expected another value (NNI: optimize_mode should be in",
            ],
        ),
        (
            {"name": "Medianstop", "start_step": "3"},
            ["assessor.classArgs.start_step is '3'; expected another value (NNI: start_step should be int type)."],
        ),
        ({"name": "Medianstop", "optimize_mode": "minimize"}, ["expected 'maximize', since retrain trials report an"]),
        (
            {"name": "curvefitting", "start_step": -1, "gap": 0, "other": 1},
            [
                "assessor.classArgs.other is no argument of curvefitting; expected one of epoch_num, start_step,",
                "assessor.classArgs.start_step is -1; expected",
                "assessor.classArgs.gap is 0; expected",
                "assessor.classArgs.epoch_num is missing",
            ],
        ),
    ],
)
def test_wrong_arguments_are_refused_all_at_once(arguments: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        RetrainAssessorArgsValidator().validate_class_args(**arguments)
    for problem in problems:
        assert problem in str(caught.value)
    assert str(caught.value).count("assessor.classArgs.") == len(problems)


def test_constructor_checks_its_arguments_too() -> None:
    with pytest.raises(ConfigError, match=r"assessor\.classArgs\.gap is no argument of"):
        RetrainAssessor("Medianstop", gap=1)


class OwnAssessor(Assessor):
    """Stops every trial at once; registered with NNI by the test below."""

    def __init__(self, patience: int, **_: Any) -> None:
        self.patience = patience

    def assess_trial(self, trial_job_id: str, trial_history: list[Any]) -> bool:  # type: ignore[override]
        return len(trial_history) < self.patience


def test_assessor_that_the_user_registered_with_nni_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNI_CONFIG_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "own_assessor", sys.modules[__name__])
    registered = {
        "assessors": [
            {"builtinName": "Own", "className": "own_assessor.OwnAssessor"},
            {"builtinName": "Gone", "className": "gone_assessor.Gone"},
        ]
    }
    (tmp_path / "registered_algorithms.yml").write_text(yaml.safe_dump(registered))
    dispatcher = Dispatcher(RetrainAssessor("Own", patience=2, further=1))
    assert dispatcher.run("search", [0.1, 0.1, 0.1], role="search")
    assert not dispatcher.run("retrain", [0.1, 0.1, 0.1])
    with pytest.raises(ConfigError, match=r"assessor\.classArgs\.patience is missing"):
        RetrainAssessor("Own")
    with pytest.raises(
        ConfigError, match=r"assessor\.classArgs\.name is 'Gone'; expected an assessor that can be imported"
    ):
        RetrainAssessor("Gone")


def experiment(folder: Path, assessor: Any, **changes: Any) -> Path:
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SHIPPED.read_text()) | {"assessor": assessor} | changes))
    return path


def test_experiment_with_our_assessor_is_accepted(tmp_path: Path) -> None:
    assessor = {"className": CLASS, "codeDirectory": ".", "classArgs": {"name": "Medianstop", "start_step": 3}}
    config = load_experiment(experiment(tmp_path, assessor))
    assert config.json()["assessor"]["classArgs"] == {"name": "Medianstop", "start_step": 3}


@pytest.mark.parametrize(
    ("assessor", "key"),
    [
        ({"name": "Medianstop"}, r"assessor\.name is 'Medianstop'; expected"),
        ({"className": "mine.Assessor", "codeDirectory": "."}, r"assessor\.className is 'mine\.Assessor'"),
    ],
)
def test_assessor_that_would_see_search_trials_is_refused_and_told_how(tmp_path: Path, assessor: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        load_experiment(experiment(tmp_path, assessor))
    assert f"className: {CLASS}" in str(caught.value)
    assert "classArgs: {name: Medianstop}" in str(caught.value)


def test_malformed_assessor_is_refused_with_all_other_problems(tmp_path: Path) -> None:
    assessor = {"className": CLASS, "codeDirectory": ".", "classArgs": {"name": "Medianstop", "start_stepp": 3}}
    path = experiment(tmp_path, assessor, searchSpace={"sed": {"_type": "choice", "_value": [0]}})
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    for problem in ("assessor.classArgs.start_stepp is no argument of", "expected searchSpace.seed."):
        assert problem in str(caught.value)
