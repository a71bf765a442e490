"""``nni-cream evaluate``: an architecture with its weights on one part of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from nni_cream import data
from nni_cream.errors import ConfigError
from nni_cream.from_config import cpu_threads
from nni_cream.results.console_tables import describe_path
from nni_cream.results.sources import find_source
from nni_cream.training import Loading, measure
from nni_cream.training.measurement import check_classes

__all__ = ["confusion_table", "device_of", "evaluate_result", "evaluation_table"]

_MOST_CLASSES = 100
"""Of which a confusion matrix is given; that of 1,000 classes would be a million numbers."""


def evaluate_result(
    result: str | Path,
    config: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    part: str = "test",
    trust_code: bool = False,
) -> dict[str, Any]:
    """Measure an architecture.

    Parameters
    ----------
    result
        A ``best.json``, a folder that holds one, or the name of a published network.
    config
        Resolved configuration (``nni_cream.config.RETRAIN.load``): its data, hardware and loader.
    weights
        File with the weights; those beside ``result`` without it.
    part
        ``test``, ``validation`` or ``train``.
    trust_code
        Whether the result may name a space as ``package.module:Class``, which is then imported.

    Returns
    -------
    dict
        ``top1``, ``top5`` of more than five classes, ``balanced_accuracy`` (the mean recall of the classes), ``loss``,
        ``images`` and what they are of, as plain JSON values. Of up to 100 classes also ``confusion``: the number of
        images for each label (row) and answer (column), and ``classes``, their names.

    Raises
    ------
    CreamError
        Of the kind that fits: the architecture, data or weights is not usable.
    """
    device = device_of(config["trainer"]["accelerator"])
    source = find_source(result, trust_code=trust_code)
    named = None if weights is None else Path(weights)
    source.weights(named)  # a missing file is told before the images are looked for
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])
    images = getattr(splits, part)
    with cpu_threads(config["trainer"]["threads"]), torch.random.fork_rng():
        network = source.build(splits)
        check_classes(network, images, splits.num_classes, splits.name)
        found = source.load(network, named)
        measured = measure(network, images, device=device, loading=Loading(**config["loader"]))
    figures = {"top1": measured.top1, "top5": measured.top5, "balanced_accuracy": measured.balanced_accuracy}
    figures |= {"loss": measured.loss, "images": measured.images}
    many = len(measured.confusion) > _MOST_CLASSES
    return {
        **{name: value for name, value in figures.items() if value is not None},
        **({} if many else {"confusion": measured.confusion.tolist(), "classes": list(splits.classes)}),
        "part": part,
        "data": config["data"]["name"],
        "weights": str(found),
        "choices": dict(source.choices),
    }


def device_of(accelerator: str) -> torch.device:
    """Return the device of ``trainer.accelerator``; raises ``ConfigError`` if this machine has none."""
    if accelerator == "cpu":
        return torch.device("cpu")
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator not in ("auto", "gpu", getattr(there, "type", None)):
        there = None
    if there is None and accelerator != "auto":
        raise ConfigError(f"trainer.accelerator is {accelerator}; expected cpu or auto, since this machine has none.")
    return there or torch.device("cpu")


def evaluation_table(figures: Mapping[str, Any]) -> Table:
    """Return what :func:`evaluate_result` found for the eye."""
    table = Table("path", "part", title=f"{figures['data']}, weights {figures['weights']}")
    titles = {"top1": "top-1", "top5": "top-5", "balanced_accuracy": "balanced", "loss": "loss"}
    known = [key for key in titles if key in figures]
    for title in ("images", *(titles[key] for key in known)):
        table.add_column(title, justify="right")
    values = (f"{figures['images']:,}", *(f"{figures[key]:.4f}" for key in known))
    table.add_row(describe_path(figures["choices"]), figures["part"], *values)
    return table


def confusion_table(figures: Mapping[str, Any]) -> Table:
    """Return the confusion matrix of :func:`evaluate_result` for the eye: a row for each label."""
    matrix = figures["confusion"]
    names = figures["classes"] or [str(label) for label in range(len(matrix))]
    table = Table("label", title="answers to the images of each label")
    for name in (*names, "recall"):
        table.add_column(name, justify="right")
    for number, (name, counts) in enumerate(zip(names, matrix, strict=True)):
        recall = f"{counts[number] / sum(counts):.3f}" if sum(counts) else "no image"
        table.add_row(name, *map(str, counts), recall)
    return table
