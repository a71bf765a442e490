"""Experiments that were started on this machine, found by NNI's id or by the output folder of ``nni-cream run``."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from nni.tools.nnictl.config_utils import Experiments

from nni_cream.errors import ManagerError
from nni_cream.manager.processes import unmanaged_trials
from nni_cream.manager.rest_client import Manager
from nni_cream.results.output_folder import MANAGER, OutputFolder

__all__ = ["KnownExperiment", "all_experiments", "find_experiment", "remember_trials", "running_in"]

_logger = logging.getLogger(__name__)

# NNI resumes the trials whose latest event is that they wait or run, and notes this as another event. If the manager
# ends before they run, as where its tuner is late on a busy machine, the next one finds that event and lets them be.
_FORGOTTEN = """
delete from TrialJobEvent where event = 'ADD_RESUMED' and rowid > (
    select coalesce(max(rowid), 0) from TrialJobEvent as other
    where other.trialJobId = TrialJobEvent.trialJobId and other.event <> 'ADD_RESUMED'
)
"""


@dataclass(frozen=True)
class KnownExperiment:
    """One experiment.

    Parameters
    ----------
    id
        NNI's.
    folder
        NNI's experiments directory; its own files are in the folder of its id below it.
    name
        ``experimentName`` of its file, empty if it has none.
    process
        Its manager, ``None`` if none is running.
    manager
        The same, as its REST interface shows it.
    listed
        Status on NNI's list, empty if it is not there. A killed manager leaves the last one that it wrote.
    """

    id: str
    folder: Path
    name: str = ""
    process: psutil.Process | None = None
    manager: Manager | None = None
    listed: str = ""

    @property
    def log(self) -> Path:
        """Where the tuner leaves ``best.json``."""
        return self.folder / self.id / "log"

    @property
    def out(self) -> OutputFolder | None:
        """Output folder of the ``nni-cream run`` that started it, ``None`` if it was started by ``nnictl``."""
        if self.folder.name != MANAGER:
            return None
        out = OutputFolder(self.folder.parent)
        return out if out.is_ours else None


def all_experiments() -> list[KnownExperiment]:
    """Return all that NNI has on its list, the latest last."""
    records = Experiments().get_all_experiments()
    return [_known(record) for record in sorted(records.values(), key=lambda record: record["startTime"])]


def _known(record: dict[str, Any]) -> KnownExperiment:
    manager = Manager(record["port"], record.get("prefixUrl"))
    process = _process(record, manager)
    folder = Path(record["logDir"])
    name = record.get("experimentName") or ""
    listed = record.get("status") or ""
    return KnownExperiment(record["id"], folder, name, process, manager if process else None, listed)


def _process(record: dict[str, Any], manager: Manager) -> psutil.Process | None:
    try:
        process = psutil.Process(record["pid"])
        # The number of a process that is gone may have been given to another one.
        return process if record["id"] in process.cmdline() else None
    except (psutil.Error, TypeError, ValueError):
        return None


def find_experiment(name: str) -> KnownExperiment:
    """Find an experiment.

    Parameters
    ----------
    name
        NNI's id, or the output folder of ``nni-cream run``.

    Returns
    -------
    KnownExperiment
        As it is now.

    Raises
    ------
    ManagerError
        If there is none.
    """
    known = {experiment.id: experiment for experiment in all_experiments()}
    if name in known:
        return known[name]
    folder = OutputFolder(name).manager
    ids = [path.parents[1].name for path in folder.glob("*/db/nni.sqlite") if not path.parents[1].is_symlink()]
    if len(ids) == 1:
        listed = known.get(ids[0])
        # NNI's list may be of another machine or user than the folder, or name the place where it was before.
        return listed if listed and listed.folder == folder else KnownExperiment(ids[0], folder)
    hint = f"NNI's list has {', '.join(known)}" if known else "NNI's list is empty"
    raise ManagerError(f"the experiment is {name!r}; expected an id ({hint}) or a folder of `nni-cream run`.")


def running_in(folder: OutputFolder) -> KnownExperiment | None:
    """Return the experiment whose manager, or trial without a manager, is at work in an output folder, or ``None``."""
    here = [known for known in all_experiments() if known.folder == folder.manager]
    return next((known for known in here if known.process or unmanaged_trials(known.folder / known.id)), None)


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
