"""Every public name has one mark of stability."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "stability.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def marked(section: str, mark: str) -> list[str]:
    found = re.search(rf"^{mark}: (.*?)\.\n", section, re.MULTILINE | re.DOTALL)
    return [] if found is None else re.findall(r"`(\w+)`", found[1])


@pytest.mark.parametrize("package", SECTIONS)
def test_marked_names_are_those_of_the_package(package: str) -> None:
    section = SECTIONS[package]
    names = marked(section, "Stable") + marked(section, "Provisional")
    assert sorted(names) == sorted(importlib.import_module(package).__all__)
    assert all(hasattr(importlib.import_module(package), name) for name in names)


def test_every_package_with_names_for_users_is_on_the_page() -> None:
    root = Path(importlib.import_module("nni_cream").__file__ or "").parent
    rooms = {"nni_cream"} | {
        f"nni_cream.{folder.parent.name}"
        for folder in root.glob("*/__init__.py")
        if "__all__" in folder.read_text(encoding="utf-8") and folder.parent.name != "cli"
    }
    assert rooms | {"nni_cream.errors"} == set(SECTIONS)
