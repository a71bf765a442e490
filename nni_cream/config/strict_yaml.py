"""YAML of plain values alone, with a bound on what a small file can make of memory and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nni_cream.errors import ConfigError
from nni_cream.options import show

__all__ = ["read_yaml"]

_LARGEST = 32 * 1024  # bytes; PyYAML reads about 100 kB a second
_ALIASES = 100
_DEEPEST = 32
_VALUES = 10_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which here refuses a key given twice, many aliases, and deep nesting."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            # Each can double what a merge key (<<) holds.
            if self._aliases > _ALIASES:
                raise yaml.YAMLError(f"it has more than {_ALIASES} aliases")
        # Before Python's limit of recursion: PyYAML needs a second to get there.
        if self._depth >= _DEEPEST:
            raise yaml.YAMLError(f"it has more than {_DEEPEST} levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before merging (<<): a merged key may be given again on purpose.
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"key {show(twice[1])} is given twice in the mapping that begins in line {line}")
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _VALUES:
            raise yaml.YAMLError(f"a mapping has more than {_VALUES} keys")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raise ``ConfigError`` for anything else."""
    try:
        content = _parsed(_text(Path(path)))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; expected a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file: {error}") from None
    # PyYAML lets other errors through: an impossible date, endless nesting, a list as a key.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the content is {show(content)}; expected a mapping, such as 'space: digits'.")
    return content


def _text(path: Path) -> str:
    if not path.is_file() and path.exists():
        raise OSError("it is no regular file")
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise yaml.YAMLError(f"it has more than {_LARGEST} bytes")
    return content.decode()


def _parsed(text: str) -> Any:
    loader = _Loader(text)
    try:
        content = loader.get_single_data()
    finally:
        loader.dispose()
    _bounded(content)
    return content


def _bounded(content: Any) -> None:
    """Raise ``YAMLError`` for content that is too much once every alias is written out."""
    waiting, count = [(content, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > _VALUES or depth > _DEEPEST:
            raise yaml.YAMLError(
                f"it has more than {_VALUES} values or {_DEEPEST} levels, with its aliases written out"
            )
        if isinstance(value, int) and value.bit_length() > 1024:
            raise yaml.YAMLError("a number has more than 1024 bits")  # Python does not print all of them
        if isinstance(value, dict):
            waiting += [(item, depth + 1) for item in (*value, *value.values())]
        elif isinstance(value, list | tuple | set):
            waiting += [(item, depth + 1) for item in value]
