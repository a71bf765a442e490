"""A file that a user writes, as one table of keys: checks, reference and defaults."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from schema import SchemaError

from nni_cream.config.retired_keys import instead_of
from nni_cream.config.strict_yaml import read_yaml
from nni_cream.errors import ConfigError
from nni_cream.options import Option, Options, options_of, unexpected

__all__ = [
    "NAMED_EXPECTED",
    "Key",
    "Layout",
    "describe_problems",
    "dump",
    "keys_of",
    "unknown_key",
    "validate",
]

NAMED_EXPECTED = "a name, or a mapping with 'name' and the arguments, such as {name: digits, seed: 0}"


Key: TypeAlias = Option
"""One key of a section; its name is dotted, such as ``search.epochs``."""


def keys_of(owner: type[Options], section: str) -> tuple[Key, ...]:
    """Derive the keys of a section from the options of a class."""
    return tuple(
        Key(f"{section}.{item.name}", _plain(item), item.rule, item.description, item.nested)
        for item in options_of(owner)
    )


def _plain(item: Option) -> Any:
    """Return the default of an option as a file would hold it."""
    if item.nested is not None:
        return _nested_defaults(item.nested, item.default)
    return item.rule.check.validate(item.default)


def _nested_defaults(nested: type[Options], preset: Any = None) -> dict[str, Any]:
    values = {item.name: _plain(item) for item in options_of(nested)}
    return values | dict(nested.presets[preset] if isinstance(preset, str) else {})


def _nothing_more(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    yield from ()


@dataclass(frozen=True)
class Layout:
    """The keys of one kind of file.

    Parameters
    ----------
    named
        Keys that name a thing with arguments, such as ``space``, and their descriptions.
    sections
        Mappings of the file, and their descriptions.
    keys
        All keys of all sections.
    contradictions
        Yields what is wrong between keys that are each valid, given a resolved file and the prefix of messages.
    """

    named: Mapping[str, str]
    sections: Mapping[str, str]
    keys: tuple[Key, ...]
    contradictions: Callable[[Mapping[str, Any], str], Iterator[str]] = _nothing_more

    def load(self, path: str | Path) -> dict[str, Any]:
        """Read and resolve a YAML file; raise ``ConfigError`` with every broken rule."""
        content = read_yaml(path)
        try:
            return self.resolve(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def resolve(self, content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """Check a configuration and fill in the defaults.

        Parameters
        ----------
        content
            The user's mapping.
        prefix
            Precedes each key in messages, such as ``tuner.classArgs.``.

        Returns
        -------
        dict
            Named things as ``{name, arguments}``, and the sections with all their keys. Plain JSON values, so that it
            can travel as the parameters of a trial.

        Raises
        ------
        ConfigError
            With every problem: the key, its value, the expectation, and the nearest key for an unknown one.
        """
        problems: list[str] = []
        known = [*self.named, *self.sections]
        problems += [self.unknown(key, known, prefix) for key in content if key not in known]
        resolved: dict[str, Any] = {name: _resolve_named(name, content, prefix, problems) for name in self.named}
        for section in self.sections:
            resolved[section] = self._resolve_section(section, content.get(section), prefix, problems)
        if not problems:
            problems += self.contradictions(resolved, prefix)
        if problems:
            raise ConfigError(describe_problems(problems))
        return resolved

    def section(self, name: str) -> dict[str, Key]:
        """Return the keys of a section by their short names."""
        return {key.name.removeprefix(f"{name}."): key for key in self.keys if key.name.startswith(f"{name}.")}

    def unknown(self, key: Any, known: list[str], prefix: str) -> str:
        """Return the message about an unknown key."""
        return unknown_key(key, known, prefix, [item.name for item in self.keys])

    def reference(self) -> str:
        """Return the configuration reference: a Markdown table for each section."""
        return "\n".join(self._reference_lines())

    def section_reference(self, name: str) -> str:
        """Return the Markdown table of one section."""
        lines = ["| Key | Default | Expected | What it is |", "| --- | --- | --- | --- |"]
        for key in self.section(name).values():
            inner = () if key.nested is None else keys_of(key.nested, key.name)
            default = "" if inner else f"`{_default(key.default)}`"
            lines.append(f"| `{key.name}` | {default} | {key.rule.expected} | {key.description} |")
            lines += [
                f"| `{item.name}` | `{_default(item.default)}` | {item.rule.expected} | {item.description} |"
                for item in inner
            ]
        return "\n".join(lines)

    def _resolve_section(self, section: str, value: Any, prefix: str, problems: list[str]) -> dict[str, Any]:
        keys = self.section(section)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            problems.append(unexpected(prefix + section, value, f"a mapping with keys such as {next(iter(keys))}"))
            return {}
        problems += [self.unknown(name, list(keys), f"{prefix}{section}.") for name in value if name not in keys]
        resolved = {name: copy.deepcopy(key.default) for name, key in keys.items()}
        for name in value:
            if name in keys:
                resolved[name] = validate(keys[name], value[name], prefix, problems)
        return resolved

    def _reference_lines(self) -> Iterator[str]:
        yield from ("## Top level", "", "| Key | Expected | What it is |", "| --- | --- | --- |")
        for name, description in self.named.items():
            yield f"| `{name}` | {NAMED_EXPECTED} | {description} |"
        for section, title in self.sections.items():
            yield f"| `{section}` | a mapping (may be left out) | See [below](#section-{section}): {title}. |"
        for section, title in self.sections.items():
            yield from ("", f"(section-{section})=", f"## `{section}`", "", f"{title[0].upper()}{title[1:]}.", "")
            yield self.section_reference(section)
        yield ""


def describe_problems(problems: list[str]) -> str:
    """Put all problems into one message."""
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems:", *problems])


def _resolve_named(name: str, content: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    value = content.get(name)
    if isinstance(value, str):
        value = {"name": value}
    if name not in content:
        problems.append(f"{prefix}{name} is missing; expected {NAMED_EXPECTED}.")
    elif not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        problems.append(unexpected(prefix + name, value, NAMED_EXPECTED))
    else:
        return {"name": value["name"], "arguments": _arguments(name, value, prefix, problems)}
    return {}


def _arguments(name: str, value: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    arguments = {key: item for key, item in value.items() if key != "name"}
    if list(arguments) == ["arguments"] and isinstance(arguments["arguments"], Mapping):
        arguments = dict(arguments["arguments"])  # the form in which a resolved configuration is written
    for key, item in arguments.items():
        try:
            json.dumps(item, allow_nan=False)
        except (TypeError, ValueError):
            problems.append(unexpected(f"{prefix}{name}.{key}", item, "numbers, texts, lists or mappings"))
    return copy.deepcopy(arguments)


def validate(key: Key, value: Any, prefix: str, problems: list[str]) -> Any:
    """Return a value as its key's rule converts it, or add to the problems."""
    if key.nested is not None and isinstance(value, Mapping):
        inner = {item.name.removeprefix(f"{key.name}."): item for item in keys_of(key.nested, key.name)}
        problems += [unknown_key(name, [*inner], f"{prefix}{key.name}.", []) for name in value if name not in inner]
        given = {name: validate(inner[name], value[name], prefix, problems) for name in value if name in inner}
        return _nested_defaults(key.nested) | given
    try:
        checked = key.rule.check.validate(value)
    except SchemaError:
        problems.append(unexpected(prefix + key.name, value, key.rule.expected))
        return None
    return checked if key.nested is None else _nested_defaults(key.nested, checked)


def unknown_key(key: Any, known: list[str], prefix: str, elsewhere: list[str]) -> str:
    """Return the message about an unknown key, with the nearest one of this or another section."""
    if instead := instead_of(str(key), prefix):
        return f"{prefix}{key} is no longer a key; expected {instead}."
    near = [f"{prefix}{name}" for name in difflib.get_close_matches(str(key), known, n=1)]
    near += [name for name in elsewhere if name.endswith(f".{key}")]
    expected = near[0] if near else f"one of {', '.join(known)}"
    return f"{prefix}{key} is no key of this file; expected {expected}."


def dump(config: Mapping[str, Any]) -> str:
    """Return a resolved configuration as YAML that :func:`load` can read."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _default(value: Any) -> str:
    if isinstance(value, dict) and value.get("arguments") == {}:
        return str(value["name"])
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
