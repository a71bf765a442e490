"""The comparison of what ranks paths, on a supernet of seconds and a truth that is made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from nni_cream.search import path_key
from tests.benchmarks.loaded import benchmark
from tests.studies.ranking.test_choice_rules import PATHS, SPACE, truth

PLAIN = {
    "matching": "none",
    "scoring": {"interval": 1_000_000, "rescore_interval": None},
    "ema_decay": None,
    "teaching": {"weights": "current"},
}


@pytest.fixture(scope="module")
def observations() -> ModuleType:
    return benchmark("validation_observations")


def test_every_measurement_ranks_the_same_architectures_at_the_same_number_of_images(
    observations: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {
        "space": {"name": SPACE["name"], **SPACE["arguments"]},
        "data": {"name": "digits", "train": 200, "validation": 300},
        "study": {"judging_images": 100, "seeds": [5], "baseline": "spos", "scored": 27},
        "search": {"epochs": 3, "batch_size": 25},
        "variants": {"spos": PLAIN},
    }
    (tmp_path / "study.yml").write_text(yaml.safe_dump(study))
    (tmp_path / "truth.json").write_text(json.dumps(truth().to_json()))
    looked: list[int] = []
    observe = observations.observe

    def counted(supernet: object, number: int) -> object:
        looked.append(number)
        paths, losses = observe(supernet, number)
        assert len(paths) == len(losses) == number
        assert len({path_key(path) for path in paths}) > min(number, len(PATHS)) / 3
        assert losses.std() > 0
        return paths, losses

    monkeypatch.setattr(observations, "observe", counted)
    observations.main([str(tmp_path / "study.yml"), "--truth", str(tmp_path / "truth.json"), "--seeds", "1"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert looked == [108, 27, 7]  # 27 architectures on the 200 images of the search, 50 at once
    assert found["seeds"] == [1]
    assert found["measurements"].keys() == {
        "training steps",
        "one-shot scores",
        *(
            f"{kind}{name}"
            for kind in ("observations", "training steps and observations")
            for name in observations.SHARES
        ),
    }
    for name, own in found["measurements"].items():
        assert -1 <= own["tau of those scored"][0] <= 1
        assert ("regret" in own) == (name != "one-shot scores")


def test_regression_of_exact_losses_finds_the_best_of_all(observations: ModuleType) -> None:
    whole = truth()
    part = np.arange(12)
    means = np.array(whole.means)
    assert observations.judge(means, whole, part) == pytest.approx({"tau of those scored": 1, "tau": 1, "regret": 0})
    worst = observations.judge(-means, whole, part)
    assert (worst["tau"], worst["regret"]) == pytest.approx((-1, 100 * (means.max() - means.min())))
