"""Predictions beside scores of fresh paths, reduced: how well they agree is whatever it is after so few steps."""

from __future__ import annotations

import json

import pytest

from nni_cream import data
from nni_cream.errors import DataError
from tests.benchmarks.loaded import benchmark


@pytest.mark.integration
def test_widths_and_kernels_of_shared_convolutions_are_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        data.create("fashion", train=10, validation=10)
    except DataError as error:
        pytest.skip(str(error))
    benchmark("predictor_spaces").main(["--space", "widths", "--epochs", "1", "--train", "2560", "--paths", "10"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["steps"], found["effects"]) == (40, 4 * (4 + 3))
    assert -1 <= found["tau_predicted"] <= 1
    assert 0 <= found["scores"][0] < found["scores"][1] <= 1
