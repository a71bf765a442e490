"""The map from the paper to the code in docs/method.md names only what is there."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "method.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## From the paper to the code\n")[2].partition("\n## ")[0]
ADDRESSES = [address for row in re.findall(r"\|([^|\n]*)\|$", SECTION, re.M) for address in re.findall("`(.+?)`", row)]


@pytest.mark.parametrize("address", ADDRESSES)
def test_address_of_the_map_can_be_imported(address: str) -> None:
    pkgutil.resolve_name(f"nni_cream.{address}")


def test_map_covers_the_method() -> None:
    assert len(ADDRESSES) >= 20
