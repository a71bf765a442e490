"""Real data that is not part of the project: where it is, or why a test that needs it is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "NNI_CREAM_REAL_DATA"


def real_data() -> Path:
    """Return the folder of the unpacked data; skip the test where nobody has named it."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"needs CIFAR-10, NAS-Bench-Macro or the blood cells: name their folder with {VARIABLE}")
    return Path(folder)
