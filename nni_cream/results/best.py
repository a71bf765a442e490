"""The chosen architecture as a file, and the network that it describes. Reading needs no checkpoint and no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.errors import FileError
from nni_cream.files import read_json, replacing, write_json
from nni_cream.results.output_folder import BEST, BOARD, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

    from nni_cream.search.board import PrioritizedBoard

__all__ = [
    "Best",
    "SavedBoard",
    "build_network",
    "build_path",
    "load_best",
    "load_board",
]

_FORMAT = "nni_cream.best/1"
BOARD_FORMAT = "nni_cream.board/1"
_KINDS: dict[str, type] = {
    "space": dict,
    "choices": dict,
    "accuracy": float,
    "cost": float,
    "cost_name": str,
    "data": dict,
    "seed": int,
    "versions": dict,
}


@dataclass(frozen=True)
class Best:
    """The chosen architecture with all that is needed to build it again.

    Parameters
    ----------
    space
        ``name`` and ``arguments`` of the search space.
    choices
        Label of each mutable -> chosen value, as plain JSON values.
    accuracy
        One-shot accuracy, with the supernet's weights: on all validation images, with BatchNorm statistics of its own;
        a fraction in [0, 1]. In files without ``score``: what ``score`` is now.
    cost
        Complexity of one image, in the unit of ``cost_name``.
    cost_name
        ``macs`` (multiply-adds), ``params`` or the name of the user's function.
    data
        ``name``, ``arguments`` and ``fingerprint`` of the images.
    seed
        Seed of the search.
    versions
        Of the packages that had a part in it.
    other_costs
        Further costs by their names, if the search had several.
    retrained
        Accuracies after training from new weights, if that was done: ``validation_accuracy``, ``test_accuracy``, ...
    score
        What the board ranked it by until the search was over: accuracy on the validation subset, with the statistics of
        the batch. ``None`` if the file does not tell.
    """

    space: dict[str, Any]
    choices: dict[str, Any]
    accuracy: float
    cost: float
    cost_name: str
    data: dict[str, Any]
    seed: int
    versions: dict[str, str]
    other_costs: dict[str, float] | None = None
    retrained: dict[str, Any] | None = None
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        content = {"format": _FORMAT, **asdict(self)}
        if self.other_costs is None:
            del content["other_costs"]
        return content

    @classmethod
    def from_json(cls, content: Any, where: Path | str) -> Best:
        """Read what :meth:`to_json` returned.

        Parameters
        ----------
        content
            The JSON value.
        where
            Its place, for messages.

        Returns
        -------
        Best
            The same architecture.

        Raises
        ------
        FileError
            If a key is missing or of the wrong kind, or the format is another one.
        """
        _check_format(where, content, _FORMAT)
        fields = {key: _field(where, content, key, kind) for key, kind in _KINDS.items()}
        for key in ("space", "data"):
            _field(where, fields[key], "name", str, f"{key}.")
            _field(where, fields[key], "arguments", dict, f"{key}.")
        optional = {"retrained": dict, "other_costs": dict, "score": float}
        for key, kind in optional.items():
            fields[key] = _field(where, content, key, kind) if content.get(key) is not None else None
        _check_other_costs(where, fields["other_costs"])
        return cls(**fields)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())


def load_best(path: str | Path) -> Best:
    """Read a ``best.json``.

    Parameters
    ----------
    path
        The file, or the output folder that holds it.

    Returns
    -------
    Best
        What it says.

    Raises
    ------
    FileError
        If it is missing, broken, somebody else's or of another version; the message names path and key.
    """
    path = _inside(Path(path), BEST)
    return Best.from_json(read_json(path, "chosen architecture", "it is written when a search is complete"), path)


def build_network(best: Best) -> nn.Module:
    """Build the chosen architecture with new weights.

    Parameters
    ----------
    best
        The chosen architecture.

    Returns
    -------
    torch.nn.Module
        The network; its weights are drawn from torch's global generator.

    Raises
    ------
    SpaceError
        If its space is not known here, or has other choices than the file.
    """
    return build_path(best.space, best.choices)


def build_path(space: Mapping[str, Any], choices: Mapping[str, Any]) -> nn.Module:
    """Build one architecture of a space with new weights, drawn from torch's global generator.

    Parameters
    ----------
    space
        ``name`` and ``arguments`` of the search space.
    choices
        The path, as plain JSON values.

    Returns
    -------
    torch.nn.Module
        The network.

    Raises
    ------
    SpaceError
        If the space is not known here, or has other choices.
    """
    from nni.nas.space import model_context

    from nni_cream import spaces
    from nni_cream.search.paths.choices import decode_path

    mutables: Any = spaces.create(space["name"], **space["arguments"]).simplify()
    with model_context(decode_path(choices, mutables)):
        network: nn.Module = spaces.create(space["name"], **space["arguments"])
    return network


def export_weights(best: Best, folder: Path, out: Path) -> None:
    """Copy the one-shot weights of the chosen architecture, once it is sure that they fit it.

    Parameters
    ----------
    best
        The chosen architecture.
    folder
        Output folder of its search.
    out
        File for the ``state_dict``; read it with ``torch.load(out, weights_only=True)``.

    Raises
    ------
    FileError
        If the folder holds no weights, or not those of this architecture.
    """
    import pickle

    import torch

    source = folder / WEIGHTS
    if not source.exists():
        raise FileError(
            f"{source}: there are no weights; `nni-cream search` writes them, trials of an experiment do not"
        )
    try:
        state = torch.load(source, weights_only=True, map_location="cpu")
        build_network(best).load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise FileError(f"{source}: these are not the weights of {BEST}: {error}") from error
    with replacing(out) as temporary:
        torch.save(state, temporary)


@dataclass(frozen=True)
class SavedBoard:
    """A board as read from ``board.json``.

    Parameters
    ----------
    entries
        Best first; each with ``path`` (plain JSON values), ``accuracy``, ``cost`` and ``step``, and with ``validated``
        once the search is over.
    cost_name
        What the cost counts.
    epoch
        Number of epochs that were done when it was written.
    """

    entries: tuple[dict[str, Any], ...]
    cost_name: str
    epoch: int


def load_board(path: str | Path) -> SavedBoard:
    """Read a ``board.json`` to show it; a search reads it with ``PrioritizedBoard.from_json``.

    Parameters
    ----------
    path
        The file, or the output folder that holds it.

    Returns
    -------
    SavedBoard
        What it says.

    Raises
    ------
    FileError
        If it is missing, broken, somebody else's or of another version; the message names path and key.
    """
    path = _inside(Path(path), BOARD)
    content = read_json(path, "board", "it is written after the first epoch of a search")
    _check_format(path, content, BOARD_FORMAT)
    entries: list[Any] = _field(path, content, "entries", list)
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise FileError(f"{path}: key 'entries[{number}]' is {entry!r}; expected a mapping")
        kinds = {"path": dict, "accuracy": float, "cost": float, "step": int}
        for key, kind in (kinds if entry.get("validated") is None else {**kinds, "validated": float}).items():
            _field(path, entry, key, kind, f"entries[{number}].")
        _check_other_costs(path, entry.get("other_costs"), f"entries[{number}].")
    return SavedBoard(tuple(entries), _field(path, content, "cost_name", str), _field(path, content, "epoch", int))


def board_file(board: PrioritizedBoard, cost_name: str, epoch: int) -> dict[str, Any]:
    """Return what ``board.json`` holds."""
    return {**board.to_json(), "cost_name": cost_name, "epoch": epoch}


def _inside(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path


def _check_other_costs(path: Path | str, costs: Any, prefix: str = "") -> None:
    if costs is None:  # one cost alone
        return
    if not isinstance(costs, Mapping):
        raise FileError(f"{path}: key '{prefix}other_costs' is {costs!r}; expected costs by their names")
    for name in costs:
        _field(path, costs, name, float, f"{prefix}other_costs.")


def _check_format(path: Path | str, content: Any, expected: str) -> None:
    found = content.get("format") if isinstance(content, Mapping) else None
    if found == expected:
        return
    kind = expected.rpartition("/")[0]
    if isinstance(found, str) and found.startswith(f"{kind}/"):
        raise FileError(f"{path}: key 'format' is {found!r}; this version of nni_cream reads {expected!r}")
    raise FileError(f"{path}: was not written by nni_cream: key 'format' is {found!r}, expected {expected!r}")


def _field(path: Path | str, content: Mapping[str, Any], key: str, kind: type, prefix: str = "") -> Any:
    value: Any = content.get(key)
    accepted = (int, float) if kind is float else kind
    right = isinstance(value, accepted) and not isinstance(value, bool)
    if not right or (kind is float and not abs(value) <= sys.float_info.max):
        found = "missing" if key not in content else repr(value)
        raise FileError(f"{path}: key {prefix + key!r} is {found}; expected a {kind.__name__}")
    return value
