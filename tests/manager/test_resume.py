"""Experiments that are killed and resumed end as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from nni_cream.manager.ports import check_port, free_port
from nni_cream.results.architecture_file import load_best
from tests.manager.experiments import (
    Finished,
    Hold,
    Manager,
    begin,
    in_warm_python,
    long_enough_to_disturb,
    nnictl,
    processes_of,
    wait_until,
)


@pytest.fixture
def hold(folder: Path) -> Hold:
    return Hold(folder, search=0)


@pytest.fixture
def experiment(folder: Path, hold: Hold, python: list[str]) -> Iterator[Manager]:
    """Yield an experiment, started by nnictl."""
    out, port = folder / "out", free_port()
    path = in_warm_python(long_enough_to_disturb(folder, experimentWorkingDirectory=str(out)), python)
    hold.apply(path)
    manager = Manager(port, out, python)
    begin(manager, "create", "--config", path)
    yield manager
    if processes_of(out):
        nnictl("stop", manager.id)
    wait_until(lambda: processes_of(out) == [])
    check_port(port)


def epochs_done(experiment: Manager) -> int:
    files = experiment.folder.glob("[!_]*/environments/local-env/trials/*/search/metrics.jsonl")
    return max((len(file.read_text().splitlines()) for file in files), default=0)


def kill_trial(experiment: Manager) -> None:
    for process in experiment.trials():  # after a kill of the manager the one before, and the one that waits for it
        process.kill()


def kill_manager(experiment: Manager) -> None:
    left = experiment.trials()
    kill(experiment.process)
    resume(experiment)
    assert all(process.is_running() for process in left)


def kill_both(experiment: Manager) -> None:
    kill(experiment.process, *experiment.trials())
    resume(experiment)


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        process.kill()
    # nnictl takes a process for alive that has ended and that init has not got round to.
    wait_until(lambda: not any(psutil.pid_exists(process.pid) for process in processes))


def stop(experiment: Manager) -> None:
    nnictl("stop", experiment.id)
    resume(experiment)


def resume(experiment: Manager) -> None:
    # Trials outlive the manager, the tuner does not.
    wait_until(lambda: len(processes_of(experiment.folder)) == len(experiment.trials()))
    check_port(experiment.port)
    begin(experiment, "resume", experiment.id)


@dataclass(frozen=True)
class at:
    """An epoch of the search is done; the search runs on, but for a few epochs alone."""

    epoch: int

    def __call__(self, experiment: Manager) -> bool:
        return bool(experiment.trials()) and epochs_done(experiment) >= self.epoch

    @property
    def limits(self) -> dict[str, int]:
        return {"search": self.epoch + 2}


class retraining:
    """A retrain trial runs, and does not end."""

    limits: ClassVar = {"retrain": 2}

    def __call__(self, experiment: Manager) -> bool:
        return "retrain" in experiment.roles().values() and bool(experiment.trials())


Step = tuple[at | retraining, Callable[[Manager], None]]

# Each way to kill at several moments: before the first checkpoint or just after it, in the middle, and near the end.
DISTURBANCES: dict[str, list[Step]] = {
    "both, trial, stop, manager": [(at(0), kill_both), (at(4), kill_trial), (at(8), stop), (at(12), kill_manager)],
    "manager, both, trial, both": [
        (at(1), kill_manager),
        (at(6), kill_both),
        (at(13), kill_trial),
        (retraining(), kill_both),
    ],
}


@pytest.mark.integration
@pytest.mark.parametrize("disturbances", DISTURBANCES.values(), ids=DISTURBANCES)
def test_disturbed_experiment_ends_as_an_undisturbed_one(
    experiment: Manager, hold: Hold, disturbances: list[Step], undisturbed: dict[str, Any]
) -> None:
    for moment, disturb in disturbances:
        hold.until(**moment.limits)
        wait_until(partial(moment, experiment))
        disturb(experiment)
    hold.until()
    wait_until(lambda: experiment.get("check-status")["status"] in ("DONE", "ERROR"))
    assert experiment.get("check-status") == {"status": "DONE", "errors": []}
    roles = experiment.roles()
    succeeded = [roles[job["trialJobId"]] for job in experiment.get("trial-jobs") if job["status"] == "SUCCEEDED"]
    assert sorted(succeeded) == ["retrain", "search"]
    assert without_times(load_best(experiment.folder / experiment.id / "log").to_json()) == undisturbed


@pytest.fixture(scope="module")
def undisturbed(finished: Finished) -> dict[str, Any]:
    """Return the choice of the same experiment where nobody disturbs it."""
    assert finished.code == 0, finished.messages
    return without_times(load_best(Path(finished.out)).to_json())


def without_times(best: dict[str, Any]) -> dict[str, Any]:
    del best["retrained"]["seconds"]
    return best
