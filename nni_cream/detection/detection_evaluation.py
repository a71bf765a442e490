"""``nni-cream detect evaluate``: a trained detector on one part of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from nni_cream.detection.backbone import backbone_name, find_backbone
from nni_cream.detection.boxes.annotations import Annotations
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.boxes.box_parts import read_parts
from nni_cream.detection.boxes.box_transforms import collate
from nni_cream.detection.coco_scores import FIGURES, CocoScores
from nni_cream.detection.detection_module import as_floats
from nni_cream.detection.detector import make_detector
from nni_cream.errors import ConfigError, FileError
from nni_cream.evaluation_mode import evaluating
from nni_cream.from_config import cpu_threads
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.output_folder import WEIGHTS
from nni_cream.runs.evaluation import device_of
from nni_cream.training import Loading, load_weights, make_loader
from nni_cream.training.detect_recipe import DetectorOptions

__all__ = [
    "check_categories",
    "detection_table",
    "evaluate_detector",
    "load_detector",
    "measure_detector",
    "results_table",
]

_AT_ONCE = 8


def measure_detector(
    detector: nn.Module, part: Annotations, device: torch.device, loading: Loading | None = None
) -> dict[str, Any]:
    """Measure a detector.

    Parameters
    ----------
    detector
        Of :func:`~nni_cream.detection.detector.make_detector`; it is moved to the device.
    part
        The images.
    device
        Where to compute.
    loading
        How images are read.

    Returns
    -------
    dict
        The figures of :meth:`~nni_cream.detection.coco_scores.CocoScores.compute`, and ``images``.

    Raises
    ------
    DataError
        If the part holds no image.
    """
    scores = CocoScores()
    loader = make_loader(BoxDataset(part, crowds=True), _AT_ONCE, loading=loading, collate=collate)
    detector.to(device)
    with evaluating(detector):
        for images, targets in loader:
            found = detector(as_floats([image.to(device) for image in images]))
            scores.add([{key: value.cpu() for key, value in item.items()} for item in found], targets)
    return {**scores.compute(part.categories), "images": len(part.images)}


def load_detector(
    config: Mapping[str, Any], result: Path, *, trust_code: bool = False
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a trained detector.

    Parameters
    ----------
    config
        Resolved configuration of its training.
    result
        Output folder of its training.
    trust_code
        Whether the backbone's result may name a class to import.

    Returns
    -------
    tuple
        The detector with its weights, and the names of its categories.

    Raises
    ------
    FileError
        If the folder holds no trained detector, or not one of this configuration.
    """
    best, detection = _load_result(result)
    section = {**config["backbone"], "arguments": {}}  # the weights that it started from are not asked for
    backbone = find_backbone(section, trust_code=trust_code)
    if (dict(backbone.space), dict(backbone.choices)) != (best.space, best.choices):
        raise FileError(f"{result}: is a detector with another backbone than the configuration's. Give its config.yml.")
    categories = tuple(detection["categories"])
    with torch.random.fork_rng():
        detector: nn.Module = make_detector(
            backbone.build(), len(categories), detection["anchor_scale"], DetectorOptions(**config["detector"])
        )
    folder = result if result.is_dir() else result.parent
    load_weights(detector, folder / WEIGHTS)
    return detector.eval(), categories


def evaluate_detector(
    config: Mapping[str, Any], result: str | Path, *, part: str = "test", trust_code: bool = False
) -> dict[str, Any]:
    """Measure a trained detector on a part of the configuration's data.

    Parameters
    ----------
    config
        Resolved configuration: data, detector, hardware.
    result
        Output folder of its training.
    part
        ``test``, ``validation`` or ``train``.
    trust_code
        Whether the backbone's result may name a class to import.

    Returns
    -------
    dict
        The figures, ``images``, ``part`` and ``data``.

    Raises
    ------
    CreamError
        Of the kind that fits: the detector or the data is not usable.
    """
    device = device_of(config["trainer"]["accelerator"])
    with cpu_threads(config["trainer"]["threads"]):
        detector, categories = load_detector(config, Path(result), trust_code=trust_code)
        data = read_parts(config["data"], (part,))
        if not data.parts:
            raise ConfigError(f"data.{part} is null; expected the name of a part to evaluate.")
        check_categories(data.categories, categories)
        figures = measure_detector(detector, data.parts[part], device, Loading(**config["loader"]))
    return {**figures, "part": part, "data": data.name, "result": str(result)}


def check_categories(found: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse data whose labels mean something else than those of a detector.

    Parameters
    ----------
    found
        Categories of the data.
    expected
        Those of the detector.

    Raises
    ------
    ConfigError
        If they differ.
    """
    if tuple(found) != tuple(expected):
        raise ConfigError(
            f"the data has the categories {', '.join(found)}; expected those of the detector: {', '.join(expected)}."
        )


def detection_table(figures: Mapping[str, Any], title: str) -> Table:
    """Return figures for the eye, in percent as COCO's tables are."""
    table = Table("", title=title)
    for name in FIGURES:
        table.add_column(_title(name), justify="right")
    table.add_row("all", *(_percent(figures[name]) for name in FIGURES))
    for category, value in figures["ap_of"].items():
        table.add_row(category, _percent(value))
    return table


def results_table(results: Sequence[str | Path]) -> tuple[Table, list[dict[str, Any]]]:
    """Compare trained detectors, in the layout of the paper's table of detection.

    Parameters
    ----------
    results
        Output folders of trainings, in the order of the rows.

    Returns
    -------
    tuple
        A table for the eye, and its rows: ``result``, ``backbone``, ``backbone_macs`` (multiply-adds up to the last
        feature map, for one image of ``image_size``; ``None`` in files of November 2026), and the figures.

    Raises
    ------
    FileError
        If a folder holds no trained detector.
    """
    rows: list[dict[str, Any]] = []
    for result in results:
        best, detection = _load_result(result)
        figures = detection["figures"]
        rows.append(
            {
                "result": str(result),
                "backbone": backbone_name(best.space, best.choices),
                "backbone_macs": detection.get("backbone_macs"),
                "image_size": detection.get("image_size"),
                **{key: figures[key] for key in FIGURES},
            }
        )
    table = Table("result", "backbone", title="detection in percent; multiply-adds of the backbone at this image size")
    for title in ("pixels", "macs", *(_title(name) for name in FIGURES)):
        table.add_column(title, justify="right")
    for row in rows:
        pixels, macs = row["image_size"], row["backbone_macs"]
        costs = ("-", "-") if macs is None else (" x ".join(map(str, pixels)), f"{macs / 1e6:,.0f}M")
        table.add_row(row["result"], row["backbone"], *costs, *(_percent(row[name]) for name in FIGURES))
    return table, rows


def _load_result(result: str | Path) -> tuple[Best, dict[str, Any]]:
    best = load_best(result)
    if best.detection is None:
        raise FileError(f"{result}: holds no detector; expected the folder of `nni-cream detect train`.")
    return best, best.detection


def _title(name: str) -> str:
    return name.replace("ap", "AP").replace("_", " ")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
