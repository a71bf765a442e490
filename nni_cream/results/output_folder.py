"""Files of one output folder: written whole or not at all, never over a result that may still be needed.

The folder that the user names with ``--out`` is *ours* when its ``config.yml`` starts with our mark. In such a folder
we touch the files of :data:`OURS` and nothing else. ``--force`` on a finished result moves it to ``previous/``, where
it stays until the new one is complete; so at any moment, whatever is killed, one complete result is there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from nni_cream.config import SEARCH, Layout
from nni_cream.differences import differences
from nni_cream.errors import ConfigError, CreamError, FileError
from nni_cream.files import write_text

__all__ = [
    "LOCK",
    "OURS",
    "PREVIOUS",
    "OutputFolder",
    "State",
    "WholeFolder",
    "inside",
]

CONFIG, BOARD, BEST, CHECKPOINT, METRICS = "config.yml", "board.json", "best.json", "last.ckpt", "metrics.jsonl"
HISTORY = "history.jsonl"
EARLIER_CHECKPOINT = "earlier.ckpt"
WEIGHTS, RETRAINED, MANAGER, TENSORBOARD = "weights.pt", "retrained.json", "nni", "tensorboard"
SOURCE, PARETO, LATENCIES, PICTURES = "source.json", "pareto", "latencies.json", "pictures"
REPORT, PLOTS = "report.html", "plots"
OURS = (
    CONFIG, BOARD, BEST, CHECKPOINT, EARLIER_CHECKPOINT, METRICS, HISTORY, LATENCIES, WEIGHTS, PARETO, RETRAINED,
    MANAGER, TENSORBOARD, SOURCE, PICTURES, REPORT, PLOTS,
)  # fmt: skip
SEARCH_PART, RETRAINED_PART, EXPORT_PART = "search", "retrained", "export"
EVALUATION = "evaluation.json"
PREVIOUS = "previous"
LOCK = "lock"
"""Name of the file that is locked while a run is at work in a folder."""
MARK = "# nni_cream output folder, "


def inside(path: Path, name: str) -> Path:
    """Return the file of a name in a folder; a path that is no folder is the file itself."""
    return path / name if path.is_dir() else path


class State(Enum):
    """Content of an output folder."""

    EMPTY = "empty"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


class OutputFolder:
    """The folder that the user names, with the rules of what may happen to it.

    Parameters
    ----------
    path
        The folder; it need not exist yet.
    """

    ours: ClassVar[tuple[str, ...]] = OURS
    """Names that a run may write here, and that ``--force`` replaces."""

    changeable: ClassVar[tuple[str, ...]] = ("retrain", "loader")
    """Sections of the configuration that may differ when a run is resumed."""

    foreign: ClassVar[Mapping[str, str]] = MappingProxyType({SEARCH_PART: "nni-cream go"})
    """Names that only other kinds of folders hold -> the command that writes them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.config = self.path / CONFIG
        self.board = self.path / BOARD
        self.best = self.path / BEST
        self.checkpoint = self.path / CHECKPOINT
        self.earlier_checkpoint = self.path / EARLIER_CHECKPOINT
        self.latencies = self.path / LATENCIES
        self.metrics = self.path / METRICS
        self.history = self.path / HISTORY
        self.weights = self.path / WEIGHTS
        self.pareto = self.path / PARETO
        self.retrained = self.path / RETRAINED
        self.manager = self.path / MANAGER
        self.tensorboard = self.path / TENSORBOARD
        self.source = self.path / SOURCE
        self.pictures = self.path / PICTURES
        self._made = False

    @property
    def state(self) -> State:
        """The state now.

        Raises
        ------
        FileError
            If it is not a folder, or not one of nni_cream.
        """
        if not os.path.lexists(self.path):
            return State.EMPTY
        if not self.path.is_dir():
            raise FileError(f"{self.path}: is not a folder. Name another one with --out.")
        if not self.is_ours:
            if any(item.name != LOCK for item in self.path.iterdir()):
                raise FileError(
                    f"{self.path}: holds files that nni_cream did not write. Name a new or empty folder with --out."
                )
            return State.EMPTY
        return State.FINISHED if self.best.exists() else State.UNFINISHED

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, newest first."""
        return [path for path in (self.checkpoint, self.earlier_checkpoint) if path.exists()]

    @property
    def is_ours(self) -> bool:
        """Whether nni_cream has written here."""
        try:
            with self.config.open(encoding="utf-8") as file:
                return file.readline().startswith(MARK)
        except (OSError, UnicodeDecodeError):
            return False

    def check(self, *, resume: bool | None = False, force: bool = False) -> State:
        """Look whether a new run may use the folder, without changing anything in it.

        Parameters
        ----------
        resume
            Whether to resume a half-finished run; ``None`` where another command does that.
        force
            Whether the user wants it to start again in any case.

        Returns
        -------
        State
            What the folder holds.

        Raises
        ------
        FileError
            If it holds a result and neither flag is set, is not ours, or cannot be written to.
        """
        state = self.state
        for name, command in self.foreign.items():
            if state is not State.EMPTY and (self.path / name).exists():
                raise FileError(f"{self.path}: holds a run of `{command}`. Name another folder with --out.")
        if state is State.FINISHED and not (force or resume):
            raise FileError(
                f"{self.path}: holds a result already ({BEST}). Name another folder with --out, or replace it with "
                "--force."
            )
        if state is State.UNFINISHED and not (force or resume):
            way_on = "--resume" if resume is not None else f"`nni-cream resume {self.path}`"
            raise FileError(
                f"{self.path}: holds an unfinished run. Continue it with {way_on}, start again with --force, or name "
                "another --out."
            )
        self._check_writable()
        return state

    def _that_counts(self, config: Mapping[str, Any]) -> dict[str, Any]:
        free = dict.fromkeys(self.changeable)
        return {**config, **free, "trainer": {**config["trainer"], "timeout_seconds": None}}

    def _check_writable(self) -> None:
        try:
            folder = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
            with tempfile.TemporaryFile(dir=folder):
                return
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written to: {error.strerror or error}") from error

    def begin(self, config_text: str, made_by: str, *, force: bool = False) -> None:
        """Make the folder ready for a run from the start, and leave the configuration in it.

        Parameters
        ----------
        config_text
            The resolved configuration, as YAML.
        made_by
            Program and version, for the first line of ``config.yml``.
        force
            Whether there may be something to put aside.
        """
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if force:
                self._put_aside()
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written to: {error.strerror or error}") from error
        write_text(self.config, f"{MARK}written by {made_by}\n{config_text}")

    def _put_aside(self) -> None:
        if self.state is State.FINISHED:
            previous = self.path / PREVIOUS
            if (previous / BEST).exists():  # complete, and older than the result that is to be kept
                shutil.rmtree(previous)
            previous.mkdir(exist_ok=True)
            shutil.copy2(self.config, previous / CONFIG)
            # best.json goes last: if this is killed halfway, the next --force continues where it stopped.
            for name in sorted(set(self.ours) - {CONFIG}, key=BEST.__eq__):
                if (self.path / name).exists():
                    os.replace(self.path / name, previous / name)
        elif self.state is State.UNFINISHED:
            for name in self.ours:
                _remove(self.path / name)

    def abandon(self) -> None:
        """Undo :meth:`begin`, for a run that failed before it had anything to resume from."""
        for name in self.ours:
            _remove(self.path / name)
        previous = self.path / PREVIOUS
        if (previous / BEST).exists():
            # best.json goes last here too: before that, the folder is not taken for a finished one.
            for name in sorted(self.ours, key=BEST.__eq__):
                if (previous / name).exists():
                    os.replace(previous / name, self.path / name)
            previous.rmdir()
        if self._made and not any(self.path.iterdir()):
            self.path.rmdir()

    def finish(self) -> None:
        """Let go of the result before, now that the new one is complete."""
        shutil.rmtree(self.path / PREVIOUS, ignore_errors=True)

    def check_same_config(self, config: Mapping[str, Any], layout: Layout = SEARCH) -> None:
        """Refuse to resume with another configuration than the run was started with.

        Parameters
        ----------
        config
            What the user wants now, resolved. How to retrain is no part of a search, and how images are loaded has no
            effect on it; both may differ.
        layout
            What kind of file it is.

        Raises
        ------
        ConfigError
            With the keys that differ.
        FileError
            If the one in the folder is broken.
        """
        try:
            before = layout.load(self.config)
        except CreamError as error:
            raise FileError(f"{self.config}: is broken: {error}") from None
        changed = sorted(differences(self._that_counts(before), self._that_counts(config)))
        if changed:
            raise ConfigError(
                f"{self.path}: was started with other values of {', '.join(changed)} (see {CONFIG} there). Resume with "
                "the same configuration, or start again with --force."
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class WholeFolder(OutputFolder):
    """The folder of ``nni-cream go``: a search, its retrained entries, and what is delivered.

    Parameters
    ----------
    path
        The folder; it need not exist yet.
    """

    ours: ClassVar[tuple[str, ...]] = (
        CONFIG, BEST, WEIGHTS, BOARD, RETRAINED, EVALUATION, REPORT, PLOTS, SEARCH_PART, RETRAINED_PART, EXPORT_PART,
    )  # fmt: skip
    changeable: ClassVar[tuple[str, ...]] = ("loader",)
    foreign: ClassVar[Mapping[str, str]] = MappingProxyType(
        {METRICS: "nni-cream search, retrain or detect", MANAGER: "nni-cream run"}
    )

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.search = OutputFolder(self.path / SEARCH_PART)
        self.export = self.path / EXPORT_PART
        self.evaluation = self.path / EVALUATION
        self.report = self.path / REPORT

    def entry(self, number: int) -> OutputFolder:
        """Return the folder of a retrained entry of the board, counted from 1."""
        return OutputFolder(self.path / RETRAINED_PART / f"{number:02d}")

    def entry_file(self, number: int) -> Path:
        """Return the file that describes an entry of the board before it is retrained."""
        return self.path / RETRAINED_PART / f"{number:02d}.json"
