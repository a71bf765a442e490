"""The tuner of a Cream experiment: search trials first, then retrain trials of their best entries.

NNI's manager starts it as ``tuner.className: nni_cream.experiment.tuner.CreamTuner``, in the Python that ``nnictl`` or
``nni-cream`` runs in.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from nni import ClassArgsValidator
from nni.experiment import rest
from nni.tuner import Tuner

from nni_cream import config
from nni_cream.errors import ConfigError, CreamError
from nni_cream.experiment.files import BEST, write_text
from nni_cream.experiment.page import install_page, page_address_of_tuner
from nni_cream.experiment.plan import ExperimentPlan, Trial

__all__ = ["PYTHON_FILE", "CreamTuner", "CreamTunerArgsValidator"]

_logger = logging.getLogger(__name__)

PYTHON_FILE = "python"
"""Name of the file, in the experiment's folder, that holds the path of the right Python; see experiments/*.yml."""


class CreamTunerArgsValidator(ClassArgsValidator):
    """NNI's check of ``tuner.classArgs``, against the table of :mod:`nni_cream.config`."""

    def validate_class_args(self, **kwargs: Any) -> None:
        """Check the arguments of :class:`CreamTuner`.

        Parameters
        ----------
        **kwargs
            What the user wrote.

        Raises
        ------
        ConfigError
            With every problem.
        """
        devices = config.resolve(kwargs, "tuner.classArgs.")["trainer"]["devices"]
        if devices != 1 and not (isinstance(devices, list) and len(devices) == 1):
            raise ConfigError(
                f"tuner.classArgs.trainer.devices: {devices!r}; expected 1: a trial trains on one device, and several "
                "trials run at once (trialConcurrency, trialGpuNumber); `nni-cream search` trains on several"
            )


class CreamTuner(Tuner):
    """Issues the trials of an :class:`~nni_cream.experiment.plan.ExperimentPlan` and keeps the chosen architecture.

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
        CreamTunerArgsValidator().validate_class_args(**class_args)
        self._config = config.resolve(class_args, "tuner.classArgs.")
        self._plan: ExperimentPlan | None = None
        self._running: dict[int, Trial] = {}
        self._succeeded: set[int] = set()
        self._waiting: deque[int] = deque()
        self._send_trial: Callable[[int, Any], None] | None = None
        self._over = False
        # NNI calls trial_end from another thread than the rest, and in any order.
        self._lock = threading.RLock()
        self._log_folder = Path(os.environ.get("NNI_LOG_DIRECTORY", "."))
        self._tell_python()
        self._install_page()

    def _tell_python(self) -> None:
        """Leave word of the Python that has nni_cream; a trial gets the manager's PATH, where it may not come first."""
        if "NNI_LOG_DIRECTORY" in os.environ:
            write_text(self._log_folder.parent / PYTHON_FILE, sys.executable)

    def _install_page(self) -> None:
        """Put the board page beside the web UI."""
        if "NNI_LOG_DIRECTORY" in os.environ:
            install_page(self._log_folder)
        if (address := page_address_of_tuner()) is not None:
            print(f"board page: {address}", flush=True)  # shown by `nnictl log stdout`

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
            if self._plan is not None and self._plan.issued:
                _logger.error(
                    "the search space of a running Cream experiment cannot be changed; the new one is ignored"
                )
                return
            self._plan = ExperimentPlan(self._config, config.resolve_search_space(search_space))

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
            # NNI asks after a trial's end; whatever that trial had to say, it has said by now.
            for parameter_id in self._succeeded & self._running.keys():
                self._fail(parameter_id, "ended without a final result")
            ready = []
            for parameter_id in parameter_id_list:
                trial = None if self._waiting else self._plan_().next()
                if trial is None:
                    self._waiting.append(parameter_id)
                else:
                    self._running[parameter_id] = trial
                    ready.append(trial.parameters)
            self._go_on()
            return ready

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
                _logger.warning("result of a trial %s that was not issued here is ignored", parameter_id)
                return
            try:
                trial.receive(value)
            except CreamError as error:
                trial.failed = True
                _logger.error("trial %s: %s", parameter_id, error)
            self._go_on()

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Count a trial that failed as ended.

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
            if success:
                self._succeeded.add(parameter_id)  # its result may still be on the way, from the other thread
            else:
                self._fail(parameter_id, "failed")
                self._go_on()

    def _fail(self, parameter_id: int, why: str) -> None:
        trial = self._running.pop(parameter_id, None)
        if trial is not None:
            trial.failed = True
            _logger.error("trial %s (%s) %s; see its log in the web UI", parameter_id, trial.parameters["role"], why)

    def _go_on(self) -> None:
        plan = self._plan_()
        while self._waiting and (trial := plan.next()) is not None:
            parameter_id = self._waiting.popleft()
            self._running[parameter_id] = trial
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
            self._end_experiment(plan.issued)

    def _end_experiment(self, trials: int) -> None:
        """Let the manager know that no trial follows: NNI ends an experiment only by its largest number of trials."""
        channel = urlparse(os.environ.get("NNI_TUNER_COMMAND_CHANNEL", ""))
        if channel.port is None:
            return
        prefix = channel.path.rpartition("/")[0].strip("/") or None
        profile = rest.get(channel.port, "/experiment", prefix)
        if profile["params"].get("maxTrialNumber") != trials:
            profile["params"]["maxTrialNumber"] = trials
            rest.put(channel.port, "/experiment?update_type=MAX_TRIAL_NUM", profile, prefix)

    def _plan_(self) -> ExperimentPlan:
        assert self._plan is not None, "NNI sets the search space before it asks for trials"
        return self._plan
