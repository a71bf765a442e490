"""The result of one check: a line of ``nni-cream doctor``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "State", "error", "gibibytes", "ok", "warning"]

State: TypeAlias = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    name
        The thing.
    state
        ``error`` if a command of nni_cream will fail, ``warning`` if it may.
    found
        Its value here.
    advice
        What to do, as a sentence; empty if there is nothing to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the content as a JSON object."""
        return asdict(self)


def ok(name: str, found: str, advice: str = "") -> Finding:
    """Return a finding that is as expected; the advice may say when more is needed."""
    return Finding(name, "ok", found, advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """Return a finding that can make a command fail."""
    return Finding(name, "warning", found, advice)


def error(name: str, found: str, advice: str) -> Finding:
    """Return a finding that makes a command fail."""
    return Finding(name, "error", found, advice)


def gibibytes(count: float) -> str:
    """Write a number of bytes, such as ``1.5 GiB``."""
    return f"{count / 2**30:.1f} GiB"
