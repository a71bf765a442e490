"""The experiment files that travel in the package, for users without a clone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nni_cream.errors import ConfigError, FileError
from nni_cream.files import write_text
from nni_cream.named import did_you_mean

__all__ = ["FOLDER", "Example", "copy_example", "find_example", "list_examples"]

FOLDER = Path(__file__).parents[1] / "examples"
"""In a clone a link to ``experiments/``, in an installed package a folder."""

_KINDS = (".yml", ".py")
_NAMED = re.compile(r"\bexperiments/([\w.-]*\w)")
_IN_CLONE = re.compile(r"\bdocs/evidence/[\w/-]+\.json")
_SENTENCE_END = re.compile(r'(?<=\?)\s|\.(?:\s|$)|"""')


@dataclass(frozen=True)
class Example:
    """One file to copy and edit.

    Parameters
    ----------
    path
        Its place in the package.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of a configuration without its ending; a script keeps its own."""
        return self.path.stem if self.path.suffix == ".yml" else self.path.name

    @property
    def text(self) -> str:
        """The content."""
        return self.path.read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        """First sentence of the comment at its head."""
        head = self.text.lstrip('"').partition("\n\n")[0]
        lines = [line.lstrip("#").strip() for line in head.splitlines()]
        paragraph = " ".join(lines[: lines.index("")] if "" in lines else lines)
        return _SENTENCE_END.split(paragraph)[0]

    @property
    def parts(self) -> list[Path]:
        """Other files of the folder that its content, and not only a comment, names."""
        code = "\n".join(line.partition("#")[0] for line in self.text.splitlines()) if self._is_yaml else ""
        found = dict.fromkeys(self.path.with_name(name) for name in _NAMED.findall(code))
        return [path for path in found if path != self.path and path.is_file()]

    @property
    def only_in_clone(self) -> list[str]:
        """Files of a clone that it names and that do not travel in the package."""
        return list(dict.fromkeys(_IN_CLONE.findall(self.text)))

    @property
    def _is_yaml(self) -> bool:
        return self.path.suffix == ".yml"

    def copied_to(self, place: str) -> str:
        """Return the content with each file that is copied along named by its new place, in comments, too."""
        copied = {path.name: str(Path(place).with_name(path.name)) for path in self.parts}
        copied[self.path.name] = place
        return _NAMED.sub(lambda found: copied.get(found[1], found[0]), self.text)


def list_examples(folder: Path = FOLDER) -> list[Example]:
    """Return all examples, by name; raise ``FileError`` if the package is without them."""
    found = [Example(path) for path in sorted(folder.glob("*")) if path.suffix in _KINDS]
    if not found:
        raise FileError(f"{folder}: holds no examples; expected those of the package. Install nni_cream again.")
    return found


def find_example(name: str, folder: Path = FOLDER) -> Example:
    """Find an example by its name, with or without the ending ``.yml``; raise ``ConfigError`` if there is none."""
    known = {example.name: example for example in list_examples(folder)}
    found = known.get(name.removesuffix(".yml"))
    if found is None:
        hint = did_you_mean(name, known)
        raise ConfigError(
            f"the example is {name!r}; expected one of `nni-cream examples list`.{hint or ' Choose one there.'}"
        )
    return found


def copy_example(example: Example, out: str | None = None, *, force: bool = False) -> list[Path]:
    """Copy an example and the files that it names, so that it runs in the current folder.

    Parameters
    ----------
    example
        The example.
    out
        File to write, or an existing folder. Default: the same name in the current folder.
    force
        Whether existing files may be replaced.

    Returns
    -------
    list of Path
        All files that were written, or are there with the same content.

    Raises
    ------
    FileError
        If a file is in the way, or cannot be written; nothing is written before all places are known to be free.
    """
    place = Path(example.path.name if out is None else out)
    if place.is_dir():
        place /= example.path.name
    if not place.absolute().parent.is_dir():
        raise FileError(f"{place}: its folder does not exist. Name a file in an existing folder.")
    texts = {place: example.copied_to(str(place))}
    texts |= {place.with_name(part.name): part.read_text(encoding="utf-8") for part in example.parts}
    if not force:
        for path in _in_the_way(texts):
            raise FileError(f"{path}: is there already. Name another file with --out, or replace it with --force.")
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _in_the_way(texts: dict[Path, str]) -> Iterator[Path]:
    first = next(iter(texts))
    for path, text in texts.items():
        # Two examples may need the same file.
        if os.path.lexists(path) and (path is first or _differs(path, text)):
            yield path


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or path.read_bytes() != text.encode()
