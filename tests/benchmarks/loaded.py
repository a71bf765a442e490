"""The programs in benchmarks/, which are no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parents[2] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    """Return the module of a program; it is loaded once."""
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, _FOLDER / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module  # dataclasses look their module up
        sys.path.insert(0, str(_FOLDER))  # as for a program, which may import the others
        try:
            specification.loader.exec_module(module)
        finally:
            sys.path.remove(str(_FOLDER))
    return sys.modules[name]
