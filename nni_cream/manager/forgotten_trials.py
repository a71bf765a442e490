"""Trials that NNI's manager would forget at a resume, after one that did not last."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

__all__ = ["remember_trials"]

_logger = logging.getLogger(__name__)

# NNI resumes the trials whose latest event is that they wait or run, and notes this as another event. If the manager
# ends before they run, as where its tuner is late on a busy machine, the next one finds that event and lets them be.
_FORGOTTEN = """
delete from TrialJobEvent where event = 'ADD_RESUMED' and rowid > (
    select coalesce(max(rowid), 0) from TrialJobEvent as other
    where other.trialJobId = TrialJobEvent.trialJobId and other.event <> 'ADD_RESUMED'
)
"""


def remember_trials(experiment: Path) -> None:
    """Take back notes of a resume that came to nothing; to be called before a manager starts.

    Parameters
    ----------
    experiment
        NNI's folder of the experiment; nothing happens if it has no database.
    """
    database = experiment / "db" / "nni.sqlite"
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            taken_back = connection.execute(_FORGOTTEN).rowcount
    except sqlite3.Error as error:
        _logger.warning("%s: a resume may have left trials behind, which cannot be looked up: %s", database, error)
        return
    if taken_back:
        _logger.warning("%s: the manager before did not get round to %d trials; they are resumed", database, taken_back)
