"""The variants of the predictor, judged on steps that are made up."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nni_cream.studies.ranking.predictions import predict
from tests.studies.ranking.test_choice_rules import PATHS, SPACE, result, trained, truth

SCRIPT = Path(__file__).parents[2] / "benchmarks/predictor_variants.py"


def test_each_variant_is_judged_and_the_first_is_the_predictor_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specification = importlib.util.spec_from_file_location("predictor_variants", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    whole = truth()
    (tmp_path / "truth.json").write_text(json.dumps(whole.to_json()))
    scored = whole.part(12)
    lines = [{"shared": {"space": SPACE, "paths": list(scored.architectures)}}]
    lines += [{"key": f"spos seed {seed}", "result": result(seed, scored)} for seed in (0, 1)]
    lines[-1]["result"]["trained"]["sizes"] = [float(number) for number in range(9)]  # as newer records have them
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    module.main([str(tmp_path / "records.jsonl"), "--truth", str(tmp_path / "truth.json")])
    found = json.loads(capsys.readouterr().out)
    assert found["trainings"] == ["spos seed 0", "spos seed 1"]
    assert len(found["variants"]) == len(module.VARIANTS) >= 8
    own = [stats.kendalltau(predict(SPACE, trained(seed), PATHS), whole.means).statistic for seed in (0, 1)]
    assert found["variants"]["default"]["tau"] == pytest.approx(own, abs=1e-3)
    assert found["variants"]["default"]["mean tau"] == pytest.approx(np.mean(own), abs=1e-3)
    assert found["variants"]["size 0.5"]["tau"] != found["variants"]["default"]["tau"]
