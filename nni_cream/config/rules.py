"""What a value in a file may be: a check of the ``schema`` package, and the same in words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from schema import And, Or, Schema, Use

__all__ = [
    "DEVICES",
    "FLAG",
    "FRACTION",
    "IMPORTABLE",
    "NOTHING",
    "PRECISIONS",
    "RANGE",
    "RANGES",
    "SIZES",
    "TEXT",
    "Rule",
    "as_number",
    "number",
    "one_of",
    "several",
    "show",
    "whole",
]

_IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


@dataclass(frozen=True)
class Rule:
    """What a value has to be: a check of the ``schema`` package, and the same in words."""

    check: Schema
    expected: str

    def __or__(self, other: Rule) -> Rule:
        """Accept what either accepts."""
        return Rule(Schema(Or(self.check, other.check)), f"{self.expected}, or {other.expected}")


def as_number(value: Any) -> float:
    """Read a finite number; raises ``TypeError`` or ``ValueError``, as ``schema`` expects."""
    # YAML 1.1 reads 1e-4, without a dot, as a text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def whole(low: int) -> Rule:
    """Accept whole numbers from ``low`` on."""
    check: Any = And(int, lambda value: not isinstance(value, bool) and value >= low)
    return Rule(Schema(check), f"a whole number of at least {low}")


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """Accept numbers between two bounds, which are among them unless ``above`` or ``below`` says otherwise."""

    def inside(value: float) -> bool:
        return (value > low if above else value >= low) and (value < high if below else value <= high)

    words = f"a number {'above' if above else 'of at least'} {low:g}"
    if math.isfinite(high):
        words += f" and {'below' if below else 'at most'} {high:g}"
    return Rule(Schema(And(Use(as_number), inside)), words)


def one_of(*values: Any) -> Rule:
    """Accept these values alone."""
    check: Any = And(lambda value: any(value == known and type(value) is type(known) for known in values))
    return Rule(Schema(check), f"one of {', '.join(map(str, values))}")


def _is_range(value: Any) -> bool:
    if not (isinstance(value, list | tuple) and len(value) == 2):
        return False
    low, high = (bound if bound is None else as_number(bound) for bound in value)
    return low is None or high is None or low <= high


NOTHING = Rule(Schema(None), "null")
FLAG = Rule(Schema(bool), "true or false")
IMPORTABLE = Rule(Schema(And(str, _IMPORT_PATH.match)), "your own function as package.module:function")
RANGE = Rule(
    Schema(And(_is_range, Use(lambda pair: [bound if bound is None else as_number(bound) for bound in pair]))),
    "[low, high] with low <= high, null for no bound",
)
RANGES = Rule(
    Schema(Or({str: Or(None, RANGE.check)}, [Or(None, RANGE.check)])),
    "with several costs a mapping of each to its range, such as {macs: [null, 3.0e8], latency: [null, 0.02]}",
)
FRACTION = Rule(
    Schema(And(float, lambda value: 0 <= value < 1)), "a fraction of the training, at least 0.0 and below 1.0"
)
TEXT = Rule(Schema(And(str, len)), "a text")
SIZES = Rule(
    Schema(And([And(int, lambda side: not isinstance(side, bool) and side >= 1)], len)),
    "a list of whole numbers of at least 1",
)
DEVICES = Rule(Schema(And([int], len)), "a list of device indices")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true")


def several(rule: Rule) -> Rule:
    """Accept a list of at least one of what a rule accepts, each only once."""
    check: Any = And([rule.check], len, lambda values: len(set(values)) == len(values))
    return Rule(Schema(check), "a list of several of these")


def show(value: Any) -> str:
    """Return a value as messages quote it, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
