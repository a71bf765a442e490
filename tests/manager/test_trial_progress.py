"""What the console shows of trials on other machines, and of a manager that ended."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nni_cream.manager.rest_client import Manager, NoAnswerError, job_machine
from nni_cream.manager.status_tables import trials_table
from nni_cream.manager.trial_progress import explain_end, watch_trials
from tests.manager.fakes import FakeManager, job

REMOTE = "192.0.2.11:~/nni-experiments/abc123/environments/remote-worker1/trials/trial0"
HERE = "/home/alice/out/nni/abc123/environments/local-env/trials/trial1"

# As NNI 3.0 writes it: an earlier start, then one that ends because a machine cannot be reached.
LOG = """\
[2026-11-29 23:11:09] INFO (main) Start NNI manager
[2026-11-29 23:11:19] ERROR (TrainingServiceCompat) Training srevice initialize failed: Error: an earlier one
[2026-11-29 23:11:29] INFO (main) Start NNI manager
[2026-11-29 23:11:34] INFO (NNIManager) submitTrialJob: form: {
  sequenceId: 0,
}
[2026-11-29 23:11:39] ERROR (TrainingServiceCompat) Training srevice initialize failed: Error: connect EHOSTUNREACH
    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1494:16) {
  code: 'EHOSTUNREACH',
}
[2026-11-29 23:11:40] WARNING (ShutdownManager) initiate() invoked but already stopping: SIGTERM
  signal: 15
[2026-11-29 23:11:41] ERROR (RemoteV3.remote) Worker channel closed unexpectedly: shutdown
"""


def test_end_is_explained_by_the_errors_of_the_last_start(tmp_path: Path) -> None:
    (tmp_path / "nnimanager.log").write_text(LOG)
    explained = str(explain_end(tmp_path))
    assert explained.splitlines()[:-1] == [
        "NNI's manager ended after an error:",
        "  (TrainingServiceCompat) Training srevice initialize failed: Error: connect EHOSTUNREACH",
        "    code: 'EHOSTUNREACH',",
        "  }",
    ]
    assert f"The whole log is {tmp_path / 'nnimanager.log'}." in explained.splitlines()[-1]
    assert "--force" in explained


def test_end_without_an_error_or_a_log_is_not_explained(tmp_path: Path) -> None:
    assert explain_end(tmp_path) is None
    quiet = [line for line in LOG.splitlines()[2:] if "ERROR (Training" not in line]
    (tmp_path / "nnimanager.log").write_text("\n".join(quiet))
    assert explain_end(tmp_path) is None


def test_machine_of_a_trial_is_read_from_where_nni_keeps_its_files() -> None:
    assert job_machine({"logPath": REMOTE}) == "192.0.2.11"
    assert job_machine({"logPath": HERE}) is None
    assert job_machine({}) is None  # while it waits


def test_console_names_the_machine_of_a_remote_trial() -> None:
    jobs = [job(0, "SUCCEEDED") | {"logPath": REMOTE}, job(1, "FAILED", "retrain") | {"logPath": HERE}]
    shown = io.StringIO()
    with FakeManager(jobs, status="DONE").up() as fake:
        watch_trials(Manager(fake.port), 2, Path(), Console(file=shown, width=100))
    assert shown.getvalue().splitlines() == [
        "trial 0 (search): succeeded on 192.0.2.11",
        "trial 1 (retrain): failed",
    ]


def test_interrupt_that_python_dropped_ends_the_watch_of_an_experiment_that_runs() -> None:
    looks = iter([None, KeyboardInterrupt])

    def check() -> None:
        if (found := next(looks)) is not None:
            raise found

    with FakeManager([job(0, "RUNNING")]).up() as fake, pytest.raises(KeyboardInterrupt):
        watch_trials(Manager(fake.port), 1, Path(), Console(file=io.StringIO()), check)


def test_manager_that_is_gone_raises_an_error_of_its_own() -> None:
    with FakeManager().up() as fake:
        pass
    with pytest.raises(NoAnswerError, match="does not answer"):
        Manager(fake.port).jobs()


@pytest.mark.parametrize(("machine", "last"), [("192.0.2.11", "machine"), (None, "accuracy")])
def test_table_has_a_column_of_machines_if_there_are_any(machine: str | None, last: str) -> None:
    known = {"number": 0, "role": "search", "status": "RUNNING", "accuracy": None}
    table = trials_table([known | {"machine": machine}, known | {"machine": None}])
    assert table.columns[-1].header == last
    if machine:
        assert list(table.columns[-1].cells) == ["192.0.2.11", "this one"]
