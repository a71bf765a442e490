"""JSON from files and other processes, checked against declared fields; the error names the first wrong one.

Fields are declared as ``schema`` writes them: an object as a dictionary, in which ``Optional`` keys may be missing,
``str`` stands for every key, and further keys are allowed; a list as a list of one kind; everything else as a
:class:`~nni_cream.options.Rule`. A function receives the value and returns its fields.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from schema import And, Optional, Schema

from nni_cream.argument_checks import is_number, is_whole
from nni_cream.errors import FileError
from nni_cream.options import NOTHING, TEXT, Rule, number

__all__ = [
    "NAMED",
    "NOT_NEGATIVE",
    "NUMBER",
    "OBJECT",
    "POSITIVE",
    "SHARE",
    "WHOLE",
    "Fields",
    "anything",
    "check_json",
    "format_of",
    "nullable",
    "one_or_more",
    "parse_json",
    "plain",
    "wrong_field",
]

Fields: TypeAlias = Any
_LARGEST = 16 * 2**20  # bytes
_VALUES = 1_000_000  # Python makes some 100 bytes of each
_DEEPEST = 64  # copying or printing a much deeper value would end in a RecursionError


def _strict(rule: Rule) -> Rule:
    """Refuse texts, which the rules for YAML read as numbers."""
    return Rule(Schema(And(is_number, rule.check)), rule.expected)


NUMBER = Rule(Schema(is_number), "a finite number")
NOT_NEGATIVE = _strict(number(0))
POSITIVE = _strict(number(0, above=True))
SHARE = _strict(number(0, 1))
WHOLE = Rule(Schema(is_whole), "a whole number")
_SCALAR = Rule(
    Schema(lambda value: value is None or isinstance(value, bool | str) or is_number(value)),
    "a finite number, a text, true, false or null",
)


def plain(value: Any) -> Fields:
    """Accept a scalar, or lists of them, as one choice of a path."""
    return [plain] if isinstance(value, list) else _SCALAR


def anything(value: Any) -> Fields:
    """Accept every JSON value; its numbers are finite."""
    if isinstance(value, Mapping):
        return {str: anything}
    return [anything] if isinstance(value, list) else _SCALAR


OBJECT = {str: anything}
NAMED = {"name": TEXT, "arguments": OBJECT}


def format_of(name: str) -> Rule:
    """Accept the format of a kind of file in this version."""
    return Rule(Schema(name), f"{name!r}, which this version of nni_cream reads")


def nullable(fields: Fields) -> Callable[[Any], Fields]:
    """Accept null, or what the fields accept."""
    return lambda value: NOTHING if value is None else fields


def one_or_more(fields: Fields) -> Callable[[Any], Fields]:
    """Accept a list of the fields that is not empty."""
    return lambda value: Rule(Schema(len), "a list of at least one") if value == [] else [fields]


def parse_json(text: bytes, where: object, what: str, hint: str, fields: Fields = OBJECT) -> Any:
    """Read a JSON text in UTF-8, and check it.

    Parameters
    ----------
    text
        The text.
    where
        Its place, for messages.
    what
        What it should hold, such as ``a board``.
    hint
        What to do if it is wrong, as a sentence.
    fields
        What its value has to be.

    Returns
    -------
    Any
        The value, unchanged.

    Raises
    ------
    FileError
        If it is no JSON, or a field is wrong; the message names the first one.
    """
    if len(text) > _LARGEST or sum(map(text.count, b",[{")) > _VALUES:
        raise FileError(f"{where}: has more than {_LARGEST} bytes or {_VALUES} values; expected {what}. {hint}")
    try:
        content = json.loads(text.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as problem:
        raise FileError(f"{where}: is no JSON ({problem}); expected {what}. {hint}") from None
    return check_json(content, where, hint, fields)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"key {reprlib.repr(twice)} is given twice in one object")
    return content


def check_json(content: Any, where: object, hint: str, fields: Fields) -> Any:
    """Return a JSON value, or raise the ``FileError`` about its first wrong field; see :func:`parse_json`."""
    if _is_deeper(content, _DEEPEST):
        raise FileError(f"{where}: is nested too deeply; expected at most {_DEEPEST} levels. {hint}")
    for key, found, expected in _wrong_fields(content, fields, ""):
        raise wrong_field(where, key, found, expected, hint)
    return content


def wrong_field(where: object, key: str, found: str, expected: str, hint: str) -> FileError:
    """Return the error about a field, such as ``best.json: cost is 'low'; expected a finite number. ...``."""
    return FileError(f"{where}: {key or 'the content'} is {found}; expected {expected}. {hint}")


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return not levels or any(_is_deeper(item, levels - 1) for item in items)


def _wrong_fields(value: Any, fields: Fields, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and what was expected of each wrong field, in the order of the declaration."""
    if callable(fields):
        fields = fields(value)
    if isinstance(fields, dict) and isinstance(value, Mapping):
        yield from _wrong_members(value, fields, f"{key}." if key else "")
    elif isinstance(fields, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _wrong_fields(item, fields[0], f"{key}[{index}]")
    elif not (isinstance(fields, Rule) and fields.check.is_valid(value)):
        yield key, reprlib.repr(value), _in_words(fields)


def _wrong_members(value: Mapping[str, Any], fields: Fields, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, inner in (dict.fromkeys(value, fields[str]) if str in fields else fields).items():
        key = name.schema if isinstance(name, Optional) else name
        if key in value:
            yield from _wrong_fields(value[key], inner, f"{prefix}{key}")
        elif key is name:
            yield f"{prefix}{key}", "missing", _in_words(inner)


def _in_words(fields: Fields) -> str:
    if callable(fields):
        fields = fields(None)
    if isinstance(fields, Rule):
        return fields.expected
    if isinstance(fields, list):
        return "a list"
    names = [name for name in fields if isinstance(name, str)]
    return f"an object with {', '.join(names)}" if names else "an object"
