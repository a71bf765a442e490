"""Notes of a resume that came to nothing are taken back; test_foreground.py has the same in a real experiment."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nni_cream.manager import known_experiments
from nni_cream.manager.known_experiments import KnownExperiment, remember_trials, running_in
from nni_cream.manager.processes import only_process
from nni_cream.results.output_folder import OutputFolder

COLUMNS = "timestamp, trialJobId text, event text, data, logPath, sequenceId, message, environmentId"


def test_trials_are_as_before_the_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = [
        ("first", "RUNNING"), ("second", "WAITING"), ("first", "ADD_RESUMED"), ("second", "ADD_RESUMED"),
        ("first", "RUNNING"), ("first", "SUCCEEDED"), ("second", "ADD_RESUMED"), ("third", "ADD_CUSTOMIZED"),
    ]  # fmt: skip
    file = tmp_path / "db" / "nni.sqlite"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(f"create table TrialJobEvent ({COLUMNS})")
        for number, (trial, event) in enumerate(events):
            database.execute("insert into TrialJobEvent values (?,?,?,?,?,?,?,?)", (number, trial, event, *[None] * 5))
    for _ in range(2):
        remember_trials(tmp_path)
        with closing(sqlite3.connect(file)) as database:
            left = database.execute("select trialJobId, event from TrialJobEvent order by rowid").fetchall()
        assert left == [event for place, event in enumerate(events) if place not in (3, 6)]
    assert len(caplog.records) == 1
    assert "did not get round to 2 trials" in caplog.text


def test_a_file_that_cannot_be_read_is_told_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remember_trials(tmp_path)
    assert not caplog.records
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "nni.sqlite").write_text("no database, but long enough to be looked at as one" * 40)
    with caplog.at_level(logging.WARNING):
        remember_trials(tmp_path)
    assert "a resume may have left trials behind" in caplog.text


def test_trial_that_has_outlived_its_manager_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder(tmp_path)
    known = KnownExperiment("abc", folder.manager)
    monkeypatch.setattr(known_experiments, "all_experiments", lambda: [known])
    with only_process(folder.manager / "abc" / "environments" / "local-env" / "trials" / "def", None):
        assert running_in(folder) is known
        assert running_in(OutputFolder(tmp_path / "another")) is None
    assert running_in(folder) is None
