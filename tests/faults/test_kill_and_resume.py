"""A search that SIGKILL or SIGTERM ends at any step, and one whose newest checkpoint is damaged, end as if undisturbed.

``benchmarks/kill_points.py`` runs 30 kills; here are two of them.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml

from nni_cream.results.checkpoint_files import usable_checkpoint
from nni_cream.results.output_folder import OutputFolder
from tests.faults.kill_points import SEARCH, differences, interrupted, points, searched

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "search.yml"
    path.write_text(yaml.safe_dump(SEARCH))
    return str(path)


@pytest.fixture(scope="module")
def whole(config: str) -> Path:
    out = Path(config).parent / "whole"
    searched(config, out)
    return out


@pytest.mark.parametrize(("step", "moment"), list(points(2, seed=1)))
def test_search_killed_at_a_step_resumes_and_equals_the_undisturbed_one(
    config: str, whole: Path, tmp_path: Path, step: int, moment: str
) -> None:
    killed = interrupted(config, tmp_path / "out", step, moment)
    assert killed.returncode == -signal.SIGKILL
    searched(config, tmp_path / "out", "--resume")
    assert differences(whole, tmp_path / "out") == []


def test_sigterm_saves_the_step_and_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    config: str, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    ended = interrupted(config, out, 14, "before the step", signal.SIGTERM)
    assert ended.returncode == 143
    assert "terminated by SIGTERM. The run is saved; continue it with --resume." in ended.communicate()[1]
    assert {file.name for file in out.iterdir()} >= {"last.ckpt", "earlier.ckpt"}
    content = bytearray((out / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "last.ckpt").write_bytes(content)
    with caplog.at_level("WARNING"):
        assert usable_checkpoint(OutputFolder(out)) == out / "earlier.ckpt"
    assert f"{out}/last.ckpt: is broken. The run resumes from the checkpoint before, earlier.ckpt." in caplog.text
    searched(config, out, "--resume")
    assert differences(whole, out) == []
