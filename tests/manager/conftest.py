from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manager.experiments import Finished, finished_once, processes_of


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder whose experiments are stopped in any case."""
    yield tmp_path
    for process in processes_of(tmp_path):
        process.kill()


@pytest.fixture(scope="session")
def finished(shared: Path, python: list[str]) -> Finished:
    """Return an experiment that nobody disturbed, for tests that only look at it."""
    return finished_once(shared, python)
