"""Early stopping through a real manager: a real search, real retrain processes, NNI's Medianstop."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml

from nni_cream.results.architecture_file import load_best
from tests.manager.experiments import processes_of, reduced, start
from tests.patience import PATIENCE

# The trial as it is, but for the second retraining: its accuracy is made hopeless, and after some epochs it waits until
# it is stopped, as it never is if nobody notices.
HOPELESS = """
    import os, runpy, time
    from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3

    real = TrialCommandChannelV3.send_metric

    def send_metric(self, type, parameter_id, trial_job_id, sequence, value):
        if os.environ["NNI_TRIAL_SEQ_ID"] == "2":
            value = {**value, "default": 0.001}
            if sequence == 5:
                time.sleep(PATIENCE)
        real(self, type, parameter_id, trial_job_id, sequence, value)

    TrialCommandChannelV3.send_metric = send_metric
    runpy.run_module("nni_cream.manager.trial", run_name="__main__", alter_sys=True)
"""


@pytest.mark.integration
def test_hopeless_retraining_is_stopped_the_search_is_not_and_nothing_counts_as_failed(
    folder: Path, python: list[str]
) -> None:
    program = folder / "trial.py"
    program.write_text(textwrap.dedent(HOPELESS).replace("PATIENCE", str(PATIENCE)))
    assessor = {
        "className": "nni_cream.manager.assessor.RetrainAssessor",
        "codeDirectory": ".",
        "classArgs": {"name": "Medianstop", "start_step": 2},
    }
    path = reduced(folder, assessor=assessor, trialCommand=f"exec {shlex.join([*python, str(program)])}")
    content = yaml.safe_load(path.read_text())
    content["tuner"]["classArgs"]["retrain"] = {"top": 2, "epochs": 12}
    path.write_text(yaml.safe_dump(content))
    process = start(path, folder / "out", "--json", python=python)
    printed, messages = process.communicate()
    assert process.returncode == 0, messages
    assert "trial 0 (search): succeeded" in messages
    assert "trial 1 (retrain): succeeded" in messages
    # Not `early_stopped`: NNI 3.0 notes the reason down only when the local or remote trial is gone.
    assert "trial 2 (retrain): user_canceled" in messages
    assert "failed" not in messages
    best = load_best(folder / "out")
    (retrained,) = json.loads((folder / "out" / "retrained.json").read_text())
    assert retrained["choices"] == best.choices == json.loads(printed.splitlines()[-1])["best"]
    assert processes_of(folder / "out") == []
