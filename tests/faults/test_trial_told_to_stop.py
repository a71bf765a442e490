"""A trial that NNI tells to stop: SIGTERM from the local service (`nnictl stop`, web UI), SIGINT from its trial keeper.

NNI counts a trial that ends with an exit code as failed, so a trial ends by a signal. NNI sends SIGKILL after 5 s.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from nni.runtime.trial_command_channel import set_default_trial_command_channel
from nni.runtime.trial_command_channel.base import TrialCommandChannel

from nni_cream import config
from nni_cream.manager import trial
from nni_cream.manager.final_metric import INTERRUPTED
from nni_cream.results.checkpoints.checkpoint_files import usable_checkpoint
from nni_cream.results.output_folder import OutputFolder
from tests.faults.tools import TINY
from tests.forked import Forked

pytestmark = pytest.mark.integration

EPOCHS = 4
CONFIG = config.resolve({**TINY, "search": {**TINY["search"], "epochs": EPOCHS}, "retrain": {"epochs": EPOCHS}})
PARAMETERS: dict[str, dict[str, Any]] = {
    "search": {"role": "search", "config": CONFIG},
    "retrain": {
        "role": "retrain",
        "config": CONFIG,
        "choices": {"layer_1": "conv_3x3", "layer_2": "conv_1x1"},
        "one_shot_accuracy": 0.5,
        "cost": 1.0,
    },
}


class FileChannel(TrialCommandChannel):
    """Stands for the manager: takes metrics into a file, and tells the trial to stop after its second one."""

    def __init__(self, parameters: Any, metrics: Path, number: int | None) -> None:
        self._parameters = parameters
        self._metrics = metrics
        self._number = number

    def receive_parameter(self) -> Any:
        return {"parameter_id": 0, "parameters": self._parameters}

    def send_metric(self, type: str, parameter_id: Any, trial_job_id: str, sequence: int, value: Any) -> None:
        with self._metrics.open("a") as file:
            file.write(json.dumps({"type": type, "sequence": sequence, "value": value}) + "\n")
        if self._number is not None and (type, sequence) == ("PERIODICAL", 1):
            os.kill(os.getpid(), self._number)


def run_trial(role: str, folder: Path, number: int | None = None) -> tuple[int | None, list[dict[str, Any]]]:
    """Run a trial in a process of its own to its end; return its exit code and what the manager got."""
    metrics = folder / "metrics"
    metrics.unlink(missing_ok=True)

    def be_trial(words: list[str]) -> int:
        os.environ["NNI_OUTPUT_DIR"] = str(folder)
        set_default_trial_command_channel(FileChannel(PARAMETERS[role], metrics, number))
        trial.run()

    process = Forked(run=be_trial)
    _, messages = process.communicate()
    assert metrics.exists(), messages
    return process.returncode, [json.loads(line) for line in metrics.read_text().splitlines()]


@pytest.mark.parametrize(
    ("role", "number"),
    [("search", signal.SIGTERM), ("search", signal.SIGINT), ("retrain", signal.SIGTERM)],
    ids=lambda value: getattr(value, "name", value),
)
def test_trial_told_to_stop_ends_by_a_signal_and_says_so_and_runs_again_to_the_end(
    role: str, number: signal.Signals, tmp_path: Path
) -> None:
    code, metrics = run_trial(role, tmp_path, number)
    assert code == -signal.SIGINT
    assert [record["type"] for record in metrics] == ["PERIODICAL", "PERIODICAL", "FINAL"]
    assert metrics[-1]["value"][INTERRUPTED] is True
    if role == "search":
        assert usable_checkpoint(OutputFolder(tmp_path / "search")) is not None
        assert not (tmp_path / "search" / "lock").exists()
    code, again = run_trial(role, tmp_path)
    assert code == 0
    assert again[-1]["type"] == "FINAL"
    assert INTERRUPTED not in again[-1]["value"]
