from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs/architecture.py"


def test_architecture_page_and_picture_are_those_of_the_imports() -> None:
    spec = importlib.util.spec_from_file_location("architecture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for file, content in module.drawn().items():
        assert file.read_text(encoding="utf-8") == content, f"run `python {SCRIPT.name}` in docs/"
