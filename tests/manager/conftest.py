from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manager.experiments import processes_of


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder whose experiments are stopped in any case."""
    yield tmp_path
    for process in processes_of(tmp_path):
        process.kill()
