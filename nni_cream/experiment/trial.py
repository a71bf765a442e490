"""The process of one trial: a whole search, or the training of one architecture from new weights.

NNI starts it as ``python -m nni_cream.experiment.trial``. All that it needs comes with its parameters, all that it
finds goes back with its metrics: it shares no disk with the manager.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import nni
from nni.runtime.trial_command_channel import get_default_trial_command_channel

from nni_cream.errors import ConfigError, CreamError
from nni_cream.experiment.page import page_address_of_trial
from nni_cream.experiment.plan import pack_final
from nni_cream.experiment.quiet import quiet_libraries

__all__ = ["Reporter", "check_parts", "main", "retrain_trial", "search_trial"]


class Reporter:
    """Metrics of this trial on their way to the manager.

    It keeps to the channel that it found at the start: while NNI's sequential engine runs a search, ``nni.report_*`` of
    this process lead to that engine instead.
    """

    def __init__(self) -> None:
        self._channel = get_default_trial_command_channel()
        record = self._channel.receive_parameter()
        if not record or not record["parameters"]:
            raise ConfigError(
                "no parameters: this program is a trial, which NNI's manager starts; run nni-cream instead"
            )
        self.parameters: Any = record["parameters"]
        self._parameter_id = record["parameter_id"]

    def intermediate(self, epoch: int, metric: Mapping[str, Any]) -> None:
        """Report how it stands after an epoch (from 1)."""
        self._send("PERIODICAL", epoch - 1, metric)

    def final(self, metric: Mapping[str, Any]) -> None:
        """Report the result."""
        self._send("FINAL", 0, metric)

    def _send(self, kind: Any, sequence: int, metric: Mapping[str, Any]) -> None:
        self._channel.send_metric(
            type=kind,
            parameter_id=self._parameter_id,
            trial_job_id=nni.get_trial_id(),
            sequence=sequence,
            value=dict(metric),
        )


def search_trial(parameters: Mapping[str, Any], reporter: Reporter, folder: Path) -> None:
    """Run a search; go on with it if this trial was interrupted before.

    Parameters
    ----------
    parameters
        ``config``: the resolved configuration.
    reporter
        Gets the figures of each epoch with what happened to the board, then the board and its best entry.
    folder
        Where this trial may keep files.
    """
    from nni_cream.experiment.searching import run_search
    from nni_cream.experiment.updates import search_metric

    def report(figures: Mapping[str, float], update: Mapping[str, Any]) -> None:
        reporter.intermediate(int(figures["epoch"]), search_metric(figures, update))

    result = run_search(parameters["config"], folder / "search", resume=True, on_epoch=report)
    final = {"default": result.best.accuracy, "role": "search", "board": result.board, "best": result.best.to_json()}
    reporter.final(pack_final(final))


def retrain_trial(parameters: Mapping[str, Any], reporter: Reporter) -> None:
    """Train one architecture from new weights; its test images are looked at once, at the end.

    Parameters
    ----------
    parameters
        ``config``, ``choices``, ``one_shot_accuracy`` and ``cost``.
    reporter
        Gets the validation accuracy of each epoch, then the result.
    """
    from nni_cream import data
    from nni_cream.experiment.best import build_path
    from nni_cream.experiment.searching import cpu_threads, trainer_arguments
    from nni_cream.training import Recipe, retrain, seeded

    config = parameters["config"]
    settings = config["retrain"]
    recipe = Recipe(**{field.name: settings[field.name] for field in fields(Recipe)})
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])
    with seeded(settings["seed"]), cpu_threads(config["trainer"]["threads"]):
        result = retrain(
            build_path(config["space"], parameters["choices"]),
            splits.train,
            splits.validation,
            splits.test,
            recipe,
            settings["seed"],
            trainer_arguments(config["trainer"]),
            lambda figures: reporter.intermediate(
                int(figures["epoch"]), {"default": figures["val_acc"], "role": "retrain", **figures}
            ),
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


def check_parts(config: Mapping[str, Any]) -> None:
    """Build the space, the strategy and the data of a configuration, to see whether that works where trials run.

    Parameters
    ----------
    config
        Resolved configuration.

    Raises
    ------
    CreamError
        What a trial would raise.
    """
    from nni_cream import data, spaces
    from nni_cream.experiment.searching import make_strategy

    space = spaces.create(config["space"]["name"], **config["space"]["arguments"])
    make_strategy(config["search"]).mutate_model(space)
    data.create(config["data"]["name"], **config["data"]["arguments"])


def main() -> int:
    """Run the trial that NNI's manager started this process for, and return its exit code.

    With ``--check`` nothing is run: the configuration on the standard input is tried out.
    """
    quiet_libraries(training=True)
    try:
        if sys.argv[1:] == ["--check"]:
            check_parts(json.load(sys.stdin))
            return 0
        reporter = Reporter()
        if (address := page_address_of_trial()) is not None:
            print(f"board page: {address}", flush=True)
        if reporter.parameters.get("role") == "retrain":
            retrain_trial(reporter.parameters, reporter)
        else:
            search_trial(reporter.parameters, reporter, Path(os.environ.get("NNI_OUTPUT_DIR", ".")))
    except KeyboardInterrupt:
        return 130
    except CreamError as error:
        if "--check" not in sys.argv:
            traceback.print_exc()
        print(f"nni-cream: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
