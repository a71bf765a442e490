"""Options: each declared once, on the object that uses it, with its default, its rule and its description.

Configuration keys, their checks and their reference are derived from these declarations. Only ``schema`` is imported
here, so that a mistake in a file is reported within a moment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from schema import And, Or, Schema, SchemaError, Use

from nni_cream.errors import ConfigError
from nni_cream.named import did_you_mean

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
    "Option",
    "Options",
    "Rule",
    "as_number",
    "checked",
    "named",
    "number",
    "one_of",
    "option",
    "options_of",
    "several",
    "show",
    "unexpected",
    "whole",
]

_IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


@dataclass(frozen=True)
class Rule:
    """A rule for values: a check of the ``schema`` package, and the same in words."""

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


def whole(low: int, bits: int | None = None) -> Rule:
    """Accept whole numbers from ``low`` on, of at most so many bits."""

    def inside(value: int) -> bool:
        return not isinstance(value, bool) and value >= low and (bits is None or value < 2**bits)

    upper = "" if bits is None else f" and below 2**{bits}"
    return Rule(Schema(And(int, inside)), f"a whole number of at least {low}{upper}")


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
    Schema(And(Use(list), [And(int, lambda side: not isinstance(side, bool) and side >= 1)], len)),
    "a list of whole numbers of at least 1",
)
DEVICES = Rule(Schema(And([int], len)), "a list of device indices")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true")


def several(rule: Rule) -> Rule:
    """Accept a list of at least one of what a rule accepts, each only once."""
    check: Any = And([rule.check], len, lambda values: len(set(values)) == len(values))
    return Rule(Schema(check), "a list of several of these")


def named(*known: str) -> Rule:
    """Accept a name, the user's own class, or a mapping of ``name`` and its arguments; always returns the latter."""

    def read(value: Any) -> dict[str, Any]:
        name, arguments = _name_and_arguments(value)
        if name not in known and not _IMPORT_PATH.match(name):
            raise ValueError("not a known name")
        return {"name": name, "arguments": arguments}

    words = f"one of {', '.join(known)}, your own class as package.module:Class, or {{name: ..., and its arguments}}"
    return Rule(Schema(Use(read)), words)


def _name_and_arguments(value: Any) -> tuple[str, dict[str, Any]]:
    content = {"name": value} if isinstance(value, str) else value
    if not isinstance(content, Mapping) or not isinstance(content.get("name"), str):
        raise TypeError("neither a name nor a mapping with one")
    arguments = {key: item for key, item in content.items() if key != "name"}
    if list(arguments) == ["arguments"] and isinstance(arguments["arguments"], Mapping):
        arguments = dict(arguments["arguments"])  # the form in which a resolved configuration is written
    return content["name"], arguments


def show(value: Any) -> str:
    """Return a value as messages quote it, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unexpected(key: str, value: Any, expected: str) -> str:
    """Return the message about a value that is not as expected."""
    return f"{key} is {show(value)}; expected {expected}."


@dataclass(frozen=True)
class Option:
    """One option of an object, as :func:`options_of` lists it.

    Parameters
    ----------
    name
        Name of the field.
    default
        Value where the user gives none.
    rule
        What a value has to be.
    description
        One sentence for the configuration reference.
    nested
        The class whose options a mapping may hold; ``None`` for a plain value.
    """

    name: str
    default: Any
    rule: Rule
    description: str
    nested: type[Options] | None = None


def option(
    default: Any, rule: Rule, description: str, *, plain: bool = True, nested: type[Options] | None = None
) -> Any:
    """Declare a field of :class:`Options`; see :class:`Option`.

    Unless ``plain``, Python takes objects besides what the rule accepts, and the owner checks them.
    """
    # A dataclass shares its default between all objects, so it refuses one that can change.
    given: dict[str, Any] = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    return field(**given, metadata={"option": (default, rule, description, plain, nested)})


class Options:
    """Base of frozen dataclasses whose fields are declared with :func:`option`.

    Raises
    ------
    ConfigError
        If a value breaks its rule.
    """

    prefix: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            if "option" not in item.metadata:
                continue
            _, rule, _, plain, _ = item.metadata["option"]
            if plain:
                object.__setattr__(self, item.name, checked(self.prefix + item.name, getattr(self, item.name), rule))

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return an object as it is, or that of a mapping or of a preset's name."""
        if isinstance(value, cls):
            return value
        # A preset is only a set of options: checkpoints and files see no difference from writing them out.
        if isinstance(value, str) and value in cls.presets:
            return cls(**cls.presets[value])
        name = cls.prefix.removesuffix(".") or cls.__name__
        if not isinstance(value, Mapping):
            expected = ", ".join([*cls.presets, f"a mapping or {cls.__name__}(...)"])
            raise ConfigError(f"{name} is {show(value)}; expected {expected}.")
        known = [item.name for item in options_of(cls)]
        for key in value:
            if key not in known:
                raise ConfigError(
                    f"{name} has the key {key!r}; expected keys among {', '.join(known)}.{did_you_mean(key, known)}"
                )
        return cls(**value)


def checked(name: str, value: Any, rule: Rule) -> Any:
    """Return a value of Python as its rule makes it; a ConfigError names one that breaks the rule."""
    try:
        found = rule.check.validate(value)
        # YAML reads 1e-4 as a text, so rules turn texts into numbers; in Python a text is a mistake.
        right = isinstance(found, str) or not isinstance(value, str)
    except SchemaError:
        right = False
    if not right:
        raise ConfigError(unexpected(name, value, rule.expected))
    return found


def options_of(owner: type[Options]) -> Iterator[Option]:
    """Yield the options that a class declares, in their order."""
    for item in fields(owner):  # type: ignore[arg-type]
        if "option" in item.metadata:
            default, rule, description, _, nested = item.metadata["option"]
            yield Option(item.name, default, rule, description, nested)
