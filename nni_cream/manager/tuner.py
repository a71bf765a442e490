"""The tuner of a Cream experiment: search trials first, then retrain trials of their best entries.

NNI's manager starts it as ``tuner.className: nni_cream.manager.tuner.CreamTuner``, in the Python that ``nnictl`` or
``nni-cream`` runs in.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nni.tuner import Tuner

from nni_cream.errors import ConfigError, CreamError
from nni_cream.files import write_text
from nni_cream.manager.final_metric import told_parameters, unpack_final
from nni_cream.manager.plan import ExperimentPlan, Job, State, Trial, identity
from nni_cream.manager.processes import end_with_manager
from nni_cream.manager.rest_client import Manager, job_parameters
from nni_cream.manager.tuner_arguments import CreamTunerArgsValidator, resolve_experiment
from nni_cream.page import install_page, page_address
from nni_cream.results.output_folder import BEST

__all__ = ["PYTHON_FILE", "CreamTuner"]

_logger = logging.getLogger(__name__)

PYTHON_FILE = "python"
"""Name of the file, in the experiment's folder, that holds the path of the right Python; see experiments/*.yml."""


class CreamTuner(Tuner):
    """Issues the trials of an :class:`~nni_cream.manager.plan.ExperimentPlan` and keeps the chosen architecture.

    ``searchSpace`` names keys of ``search`` and the values to try: one search trial for each combination. When all have
    ended, the best entries over all boards are retrained, ``retrain.top`` of them. The architecture with the best
    validation accuracy stands in ``best.json`` in the experiment's log folder, from the first search trial's end on;
    with the last trial the experiment ends by itself.

    Parameters
    ----------
    **class_args
        ``space``, ``data``, ``search``, ``trainer`` and ``retrain``, as in the configuration of ``nni-cream search``.

    Raises
    ------
    ConfigError
        With every problem of the arguments.
    """

    def __init__(self, **class_args: Any) -> None:
        self._manager = Manager.of_this_tuner()
        self._class_args = class_args
        with self._refusing():
            CreamTunerArgsValidator().validate_class_args(**class_args)
        self._plan: ExperimentPlan | None = None
        self._running: dict[int, Trial] = {}
        self._issued: set[int] = set()
        self._lost = 0  # ended without a result, and not known yet which of the running ones
        # Trials that NNI starts again by itself after a resume, without telling us how they end: job id -> trial.
        self._recovered: dict[str, Trial] = {}
        self._resuming = False
        self._waiting: deque[int] = deque()
        self._send_trial: Callable[[int, Any], None] | None = None
        self._over = False
        # NNI calls trial_end from another thread than the rest, and in any order.
        self._lock = threading.RLock()
        self._log_folder = Path(os.environ.get("NNI_LOG_DIRECTORY", "."))
        if self._manager is not None:
            self._tell_python()
            self._install_page(self._manager)
        if os.environ.get("SDK_PROCESS") == "dispatcher":  # and not a test, say
            end_with_manager()

    def _tell_python(self) -> None:
        """Leave word of the Python that has nni_cream; a trial gets the manager's PATH, where it may not come first."""
        write_text(self._log_folder.parent / PYTHON_FILE, sys.executable)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """On a mistake of the user's, stop the manager; it would stay up without us and say that it is running."""
        try:
            yield
        except ConfigError as error:
            print(f"nni-cream: error: {error}", file=sys.stderr, flush=True)  # shown by `nnictl log stderr`
            if self._manager is not None:
                self._manager.stop()
            raise

    def _install_page(self, manager: Manager) -> None:
        """Put the board page beside the web UI."""
        install_page(self._log_folder)
        print(f"board page: {page_address(manager.port, manager.prefix)}", flush=True)  # shown by `nnictl log stdout`

    def update_search_space(self, search_space: Any) -> None:
        """Take the search space; it cannot be changed any more once trials have been issued.

        Parameters
        ----------
        search_space
            NNI's format; ``choice`` over keys of the ``search`` section.

        Raises
        ------
        ConfigError
            With every problem.
        """
        with self._lock:
            if self._plan is not None and self._plan.started:
                _logger.error(
                    "the search space of a running Cream experiment cannot be changed; the new one is ignored"
                )
                return
            with self._refusing():
                self._plan = ExperimentPlan(*resolve_experiment(self._class_args, search_space))

    def load_checkpoint(self) -> None:
        """Note that this experiment is resumed, which NNI says by calling this; the manager knows all the rest."""
        self._resuming = True

    def generate_multiple_parameters(self, parameter_id_list: list[int], **kwargs: Any) -> list[Any]:
        """Return parameters for as many trials as can run now; the remaining ids get theirs later, by ``st_callback``.

        Parameters
        ----------
        parameter_id_list
            Ids that NNI wants parameters for.
        **kwargs
            ``st_callback``, NNI's way to send them later.

        Returns
        -------
        list
            Parameters for the first of the ids; a shorter list tells NNI that there are none at the moment.
        """
        with self._lock:
            self._send_trial = kwargs["st_callback"]
            if self._resuming:
                self._resume()
            elif self._recovered:
                self._look_after_recovered()
            ready = []
            for parameter_id in parameter_id_list:
                trial = None if self._waiting else self._plan_().next()
                if trial is None:
                    self._waiting.append(parameter_id)
                else:
                    self._issue(parameter_id, trial)
                    ready.append(trial.parameters)
            self._go_on()
            return ready

    def _issue(self, parameter_id: int, trial: Trial) -> None:
        self._running[parameter_id] = trial
        self._issued.add(parameter_id)

    def _resume(self) -> None:
        """Ask the manager what became of every trial before the interruption."""
        self._resuming = False
        jobs = self._jobs()
        for problem in self._plan_().restore(jobs.values()):
            _logger.error("%s", problem)
        for job_id, job in jobs.items():
            trial = self._plan_().find(job.parameters) if job.running else None
            if trial is not None and trial.state is State.RUNNING:
                self._recovered[job_id] = trial

    def _look_after_recovered(self) -> None:
        """Find trials that ended without a result: NNI reports their results, but not their end."""
        jobs = self._jobs()
        for job_id, trial in list(self._recovered.items()):
            if trial.ended:
                del self._recovered[job_id]
            elif job_id in jobs and not jobs[job_id].running:
                del self._recovered[job_id]
                self._settle(trial, jobs[job_id].final, job_id)

    def _jobs(self) -> dict[str, Job]:
        """Return all that the manager knows of trials: job id -> job, in the order of their start."""
        assert self._manager is not None, "only a manager resumes experiments"
        finals = self._manager.finals()
        return {
            job["trialJobId"]: Job(job_parameters(job, final := finals.get(job["trialJobId"])), job["status"], final)
            for job in self._manager.jobs()
        }

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Take the result of a trial that was running when the experiment was interrupted.

        NNI also hands over here, at a resume, the results from before; :meth:`_resume` asks for those itself, since it
        needs to know of failures, too.

        Parameters
        ----------
        data
            ``parameter`` and ``value`` of each trial.
        """
        with self._lock:
            if self._resuming:
                return
            for item in data:
                told = told_parameters(unpack_final(item["value"]))
                trial = self._plan_().find(told or item["parameter"])
                if trial is None or trial.state is not State.RUNNING:
                    _logger.warning("a result is ignored: its trial is none of this experiment")
                else:
                    self._receive(trial, item["value"])
            self._go_on()

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """Note a final result down, and send the trials that it makes possible.

        Parameters
        ----------
        parameter_id
            The trial's id.
        parameters
            What it was given.
        value
            Its final metric.
        **kwargs
            Not used.
        """
        with self._lock:
            trial = self._running.pop(parameter_id, None)
            if trial is None:
                _logger.warning("the result of trial %s is ignored: this experiment did not issue it", parameter_id)
                return
            self._receive(trial, value)
            self._settle_lost()
            self._go_on()

    def _receive(self, trial: Trial, value: Any) -> None:
        try:
            trial.receive(value)
        except CreamError as error:
            _logger.error("%s", error)
        if trial.state is State.STOPPED:
            _logger.warning(
                "a %s trial was stopped early; the experiment continues without it", trial.parameters["role"]
            )

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Start a trial again that ended without a result, or count it as failed if that happened before.

        Of trials that run at the same time, this waits for the others to end: only then it is known which one it was.

        Parameters
        ----------
        parameter_id
            The trial's id.
        success
            Whether its process ended well.
        **kwargs
            Not used.
        """
        with self._lock:
            if parameter_id not in self._issued:
                return
            final, trial = self._final_of(parameter_id), self._running.get(parameter_id)
            if final is None:
                self._lost += 1
                self._settle_lost()
            elif not success and trial is not None and _is_of(final, trial):
                del self._running[parameter_id]
                self._receive(trial, final)
                self._settle_lost()
            # Else its result is on the way here, from NNI's other thread, by the id of the trial that it is of.
            self._go_on()

    def _settle_lost(self) -> None:
        """Settle the trials that ended without a result, when no other is running.

        NNI says which job ended, but not reliably which trial that was, if several started at the same time
        (:data:`~nni_cream.manager.final_metric.PARAMETERS`).
        """
        if self._lost == len(self._running):
            lost, self._running, self._lost = self._running, {}, 0
            for parameter_id, trial in lost.items():
                self._settle(trial, None, parameter_id)

    def _final_of(self, parameter_id: int) -> Any:
        """Return the final metric that the manager has of a trial; it knows it before it knows of the trial's end."""
        if self._manager is None:
            return None
        # The latest one: after a resume NNI counts from the start again.
        for job in reversed(self._manager.jobs()):
            if json.loads(job["hyperParameters"][0])["parameter_id"] == parameter_id:
                return self._manager.finals().get(job["trialJobId"])
        return None

    def _settle(self, trial: Trial, final: Any, name: object) -> None:
        """Decide what becomes of a trial whose process has ended."""
        role = trial.parameters["role"]
        if final is not None:
            self._receive(trial, final)
            return
        trial.fail()
        if trial.state is State.WAITING:
            _logger.warning("trial %s (%s) ended without a result and starts once more", name, role)
        else:
            _logger.error("trial %s (%s) failed again; see its log in the web UI", name, role)

    def _go_on(self) -> None:
        plan = self._plan_()
        while self._waiting and (trial := plan.next()) is not None:
            parameter_id = self._waiting.popleft()
            self._issue(parameter_id, trial)
            assert self._send_trial is not None
            self._send_trial(parameter_id, trial.parameters)
        if self._over:
            return
        self._over = plan.finished
        chosen = plan.chosen()
        if chosen is not None:
            chosen.save(self._log_folder / BEST)
        if self._over:
            message = "no search trial succeeded, so there is no architecture to choose"
            if chosen is not None:
                message = f"the chosen architecture is in {(self._log_folder / BEST).absolute()}"
            _logger.info(message)
            print(message, flush=True)  # shown by `nnictl log stdout`
            if self._manager is not None:
                # NNI ends an experiment only by its largest number of trials.
                self._manager.set_max_trial_number(len(self._manager.jobs()))

    def _plan_(self) -> ExperimentPlan:
        assert self._plan is not None, "NNI sets the search space before it asks for trials"
        return self._plan


def _is_of(final: Any, trial: Trial) -> bool:
    told = told_parameters(final)
    return told is None or identity(told) == identity(trial.parameters)
