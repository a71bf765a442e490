"""The chosen architecture as a file. Reading needs no checkpoint and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from schema import Optional

from nni_cream.files import read_json, write_json
from nni_cream.json_reader import NAMED, NUMBER, OBJECT, WHOLE, check_json, format_of, nullable
from nni_cream.options import TEXT
from nni_cream.results.output_folder import BEST, inside
from nni_cream.search.paths.encoded_path import PATH_FIELDS

__all__ = ["BEST_FIELDS", "RETRAINED_FIELDS", "Best", "load_best"]

_FORMAT = "nni_cream.best/1"
_HINT = "Name the output folder of a finished search or retraining, or a best.json in one."

RETRAINED_FIELDS = {"validation_accuracy": NUMBER, "test_accuracy": NUMBER}
DETECTION_FIELDS = {
    "categories": [TEXT],
    "anchor_scale": NUMBER,
    "figures": OBJECT,
    Optional("image_size"): [WHOLE],  # files of November 2026 lack this and the next
    Optional("backbone_macs"): NUMBER,
}
BEST_FIELDS = {
    "format": format_of(_FORMAT),
    "space": NAMED,
    "choices": PATH_FIELDS,
    "accuracy": NUMBER,
    "cost": NUMBER,
    "cost_name": TEXT,
    "data": NAMED,
    "seed": WHOLE,
    "versions": OBJECT,
    Optional("other_costs"): nullable({str: NUMBER}),
    Optional("retrained"): nullable(RETRAINED_FIELDS),
    Optional("score"): nullable(NUMBER),
    Optional("detection"): DETECTION_FIELDS,
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
        a fraction in [0, 1]. In files without ``score``: what ``score`` is now. For the backbone of a detector that
        was not searched: the detector's ``ap``.
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
    detection
        Of a detector with this backbone: its categories, the scale of its anchors and its figures.
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
    detection: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        content = {"format": _FORMAT, **asdict(self)}
        if self.other_costs is None:
            del content["other_costs"]
        if self.detection is None:
            del content["detection"]
        return content

    @classmethod
    def from_json(cls, content: Any, where: Path | str) -> Best:
        """Read what :meth:`to_json` returned; the ``FileError`` names ``where`` and the first wrong key."""
        return _made_of(check_json(content, where, _HINT, BEST_FIELDS))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())


def load_best(path: str | Path) -> Best:
    """Read a ``best.json``, or the one in an output folder; the ``FileError`` names the file and a wrong key."""
    return _made_of(read_json(inside(Path(path), BEST), "a chosen architecture", _HINT, BEST_FIELDS))


def _made_of(content: Mapping[str, Any]) -> Best:
    return Best(**{item.name: content[item.name] for item in fields(Best) if item.name in content})
