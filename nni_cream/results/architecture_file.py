"""The chosen architecture as a file. Reading needs no checkpoint and no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nni_cream.files import read_json, write_json
from nni_cream.results.json_fields import check_format, check_other_costs, field, inside
from nni_cream.results.output_folder import BEST

__all__ = ["Best", "load_best"]

_FORMAT = "nni_cream.best/1"
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
        check_format(where, content, _FORMAT)
        fields = {key: field(where, content, key, kind) for key, kind in _KINDS.items()}
        for key in ("space", "data"):
            field(where, fields[key], "name", str, f"{key}.")
            field(where, fields[key], "arguments", dict, f"{key}.")
        optional = {"retrained": dict, "other_costs": dict, "score": float}
        for key, kind in optional.items():
            fields[key] = field(where, content, key, kind) if content.get(key) is not None else None
        check_other_costs(where, fields["other_costs"])
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
    path = inside(Path(path), BEST)
    return Best.from_json(read_json(path, "chosen architecture", "it is written when a search is complete"), path)
