"""The process of one trial: a whole search, or the training of one architecture from new weights.

NNI starts it as ``python -m nni_cream.manager.trial``. All that it needs comes with its parameters, all that it
finds goes back with its metrics: it shares no disk with the manager. When the manager is gone it finishes all the
same, and keeps its metrics for the one that resumes the experiment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import requests

from nni_cream.errors import ConfigError, CreamError
from nni_cream.files import append_line, write_text
from nni_cream.manager.final_metric import INTERRUPTED, PARAMETERS, pack_final
from nni_cream.manager.processes import is_gone, only_process, started_by
from nni_cream.page import page_address_of_trial
from nni_cream.processes.kept_memory import keep_memory
from nni_cream.results.output_folder import TENSORBOARD, OutputFolder
from nni_cream.results.tensorboard import EventFiles, check_tensorboard, show_in_web_ui
from nni_cream.runs.quiet_libraries import quiet_libraries

__all__ = ["Reporter", "check_parts", "main", "retrain_trial", "search_trial"]

SEARCH = "search"
"""Folder of a search below that of its trial."""

EXPERIMENT = "experiment"
"""File in the folder of a search trial that holds the id of the experiment."""

_FINAL = "FINAL"

UNSENT = "unsent.jsonl"
"""File in the folder of a trial: the metrics that it had no manager for."""

_PERHAPS_LOST = 3
"""Epochs that are reported again after an interruption: a manager that was killed may not have kept the latest."""

_DYING_SECONDS = 5.0  # of a manager that does not answer any more and is not yet gone


class Reporter:
    """Metrics of this trial on their way to the manager, or to a file for the next one when it is gone.

    It keeps to the channel that it found at the start: while NNI's sequential engine runs a search, ``nni.report_*`` of
    this process lead to that engine instead.

    Parameters
    ----------
    folder
        Where this trial may keep files.
    """

    def __init__(self, folder: Path) -> None:
        import nni
        from nni.runtime.trial_command_channel import get_default_trial_command_channel

        self.experiment = nni.get_experiment_id()
        self._trial = nni.get_trial_id()
        self._channel = get_default_trial_command_channel()
        self.manager = started_by()
        self._unsent = folder / UNSENT
        self._alone = False
        record = self._channel.receive_parameter()
        if not record or not record["parameters"]:
            raise ConfigError(
                "the parameters are missing; expected those that NNI's manager gives its trials. Run nni-cream instead."
            )
        self.parameters: Any = record["parameters"]
        self._parameter_id = record["parameter_id"]
        self._latest = 0.0

    def intermediate(self, epoch: int, metric: Mapping[str, Any]) -> None:
        """Report how it stands after an epoch (from 1)."""
        self._latest = metric["default"]
        self._report("PERIODICAL", epoch - 1, metric)

    def final(self, metric: Mapping[str, Any]) -> None:
        """Report the result."""
        self._report(_FINAL, 0, {**metric, **self._given()})

    def _given(self) -> dict[str, Any]:
        return pack_final({PARAMETERS: self.parameters})

    def interrupted(self) -> None:
        """Report that the trial was told to stop, so that the tuner does not take its end for a failure."""
        if is_gone(self.manager):
            return
        with suppress(requests.RequestException):  # the manager may be on its way out, too
            metric = {"default": self._latest, "role": self.parameters.get("role"), INTERRUPTED: True}
            self._send(_FINAL, 0, {**metric, **self._given()})

    def deliver(self) -> bool:
        """Report what a process before has measured without a manager; return whether that was all of the trial."""
        if not self._unsent.exists():
            return False
        lines = self._unsent.read_text(encoding="utf-8").splitlines(keepends=True)
        # One that was killed may have left half a line.
        kept = [json.loads(line) for line in lines if line.endswith("\n")]
        for item in kept:
            self._send(item["type"], item["sequence"], item["value"])
        self._unsent.unlink()
        return any(item["type"] == _FINAL for item in kept)

    def _report(self, kind: Any, sequence: int, metric: Mapping[str, Any]) -> None:
        # Nothing goes to another manager, which resumes the experiment and may listen at the same address: it has a
        # process of its own for this trial, which waits for this one and sends what it has kept.
        if not is_gone(self.manager):
            try:
                self._send(kind, sequence, metric)
            except requests.RequestException:
                if not self._is_left_alone():
                    raise
            else:
                return
        if not self._alone:
            print(f"NNI's manager is gone; this trial continues. Its metrics go to {self._unsent}", file=sys.stderr)
        self._alone = True
        append_line(self._unsent, {"type": kind, "sequence": sequence, "value": dict(metric)})

    def _is_left_alone(self) -> bool:
        deadline = time.monotonic() + _DYING_SECONDS
        while not is_gone(self.manager) and time.monotonic() < deadline:
            time.sleep(0.1)
        return is_gone(self.manager)

    def _send(self, kind: Any, sequence: int, metric: Mapping[str, Any]) -> None:
        self._channel.send_metric(
            type=kind,
            parameter_id=self._parameter_id,
            trial_job_id=self._trial,
            sequence=sequence,
            value=dict(metric),
        )


def search_trial(parameters: Mapping[str, Any], reporter: Reporter, folder: Path) -> None:
    """Run a search, or resume it if it was interrupted before, here or in another trial of the same machine.

    Parameters
    ----------
    parameters
        ``config``: the resolved configuration.
    reporter
        Gets the figures of each epoch with what happened to the board, then the board and its best entry.
    folder
        Where this trial may keep files.
    """
    from nni_cream.results.history import read_epochs, search_metric
    from nni_cream.runs.search_run import run_search, take_over_search

    def report(figures: Mapping[str, float], update: Mapping[str, Any]) -> None:
        reporter.intermediate(int(figures["epoch"]), search_metric(figures, update))

    write_text(folder / EXPERIMENT, reporter.experiment)
    others = _other_searches(folder, reporter.experiment)
    taken_over = take_over_search(parameters["config"], folder / SEARCH, others)
    past = read_epochs(OutputFolder(folder / SEARCH))
    for figures, update in past if taken_over else past[-_PERHAPS_LOST:]:
        report(figures, update)
    result = run_search(
        parameters["config"], folder / SEARCH, resume=True, on_epoch=report, tensorboard=folder / TENSORBOARD
    )
    final = {"default": result.best.accuracy, "role": "search", "board": result.board, "best": result.best.to_json()}
    reporter.final(pack_final(final))


def _other_searches(folder: Path, experiment: str) -> list[Path]:
    """Return where the other trials of an experiment, on this machine, keep their searches."""
    # Without NNI's manager, a trial's folder may lie among others of the user.
    marks = [mark for mark in folder.parent.glob(f"*/{EXPERIMENT}") if mark.parent != folder and mark.is_file()]
    return [mark.parent / SEARCH for mark in marks if mark.read_text(encoding="utf-8") == experiment]


def retrain_trial(parameters: Mapping[str, Any], reporter: Reporter, folder: Path) -> None:
    """Train one architecture from new weights; its test images are looked at once, at the end.

    Parameters
    ----------
    parameters
        ``config``, ``choices``, ``one_shot_accuracy`` and ``cost``.
    reporter
        Gets the validation accuracy of each epoch, then the result.
    folder
        Where this trial may keep files.
    """
    from nni_cream import data
    from nni_cream.from_config import cpu_threads, fit_space, recipe_of, trainer_arguments
    from nni_cream.results.rebuilt_network import build_path
    from nni_cream.training import retrain, seeded

    config = parameters["config"]
    settings = config["retrain"]
    recipe = recipe_of(settings)
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])

    events = EventFiles(folder / TENSORBOARD) if config["trainer"]["tensorboard"] else None

    def report(figures: Mapping[str, float]) -> None:
        if events is not None:
            events.add(figures)
        reporter.intermediate(int(figures["epoch"]), {"default": figures["val_acc"], "role": "retrain", **figures})

    closed = nullcontext() if events is None else closing(events)
    with seeded(settings["seed"]), cpu_threads(config["trainer"]["threads"]), closed:
        result = retrain(
            build_path(fit_space(config, splits)["space"], parameters["choices"]),
            splits.train,
            splits.validation,
            splits.test,
            recipe,
            settings["seed"],
            trainer_arguments(config["trainer"]),
            report,
        )
    reporter.final(
        {
            "default": result.validation_accuracy,
            "role": "retrain",
            **asdict(result),
            "one_shot_accuracy": parameters["one_shot_accuracy"],
            "cost": parameters["cost"],
            "seed": settings["seed"],
        }
    )


def check_parts(configs: Sequence[Mapping[str, Any]]) -> None:
    """Build the data, and space, strategy and trainer of each search, to see whether that works where trials run.

    Parameters
    ----------
    configs
        Resolved configurations of one experiment, which differ in their section ``search`` alone.

    Raises
    ------
    CreamError
        What a trial would raise.
    """
    from nni_cream import data
    from nni_cream.runs.search_run import check_search

    check_tensorboard(configs[0]["trainer"])
    splits = data.create(configs[0]["data"]["name"], **configs[0]["data"]["arguments"])
    for config in configs:
        check_search(config, splits)


def main() -> int:
    """Run the trial that NNI's manager started this process for, and return its exit code.

    With ``--check`` nothing is run: searches that come on the standard input are tried out, in the folder of a trial.
    """
    keep_memory()
    quiet_libraries(training=True)
    try:
        if sys.argv[1:] == ["--check"]:
            return _check(**json.load(sys.stdin))
        folder = Path(os.environ.get("NNI_OUTPUT_DIR", "."))
        reporter = Reporter(folder)
        if (address := page_address_of_trial()) is not None:
            print(f"board page: {address}", flush=True)
        return _run(reporter, folder)
    except KeyboardInterrupt:
        return 130
    except CreamError as error:
        print(f"nni-cream: error: {error}", file=sys.stderr)
        return error.exit_code


def _check(folder: str, searches: Sequence[Mapping[str, Any]]) -> int:
    os.chdir(folder)
    sys.path.insert(0, os.getcwd())
    check_parts(searches)
    return 0


def _run(reporter: Reporter, folder: Path) -> int:
    try:
        with only_process(folder, reporter.manager):
            if reporter.deliver():
                return 0
            if reporter.parameters["config"]["trainer"]["tensorboard"]:
                show_in_web_ui(folder)
            trial = retrain_trial if reporter.parameters.get("role") == "retrain" else search_trial
            trial(reporter.parameters, reporter, folder)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the latter of the former
        reporter.interrupted()
        raise KeyboardInterrupt from None
    return 0


def run() -> NoReturn:
    """Be the process of a trial: run it, and end as NNI expects."""
    code = main()
    if code == 130:
        # One that ends with an exit code when it is told to stop counts as failed with NNI, whatever the code.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(code)


if __name__ == "__main__":
    run()
