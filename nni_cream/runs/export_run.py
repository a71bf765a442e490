"""From a result on the disk to a folder for other programs: its files, checked, and a card that describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nni_cream import data, spaces
from nni_cream.data import DataSplits
from nni_cream.data.input_facts import input_facts
from nni_cream.errors import ConfigError, DataError, FileError
from nni_cream.export import check_formats, write_formats
from nni_cream.export.export_folder import check_folder, filling, write_manifest
from nni_cream.export.formats import DEFAULT_OPSET
from nni_cream.export.output_check import evaluating
from nni_cream.files import write_json
from nni_cream.from_config import load_latencies
from nni_cream.results.architecture_file import Best
from nni_cream.results.cost_check import check_costs, count_macs
from nni_cream.results.model_card import CARD, Card, pareto_card, result_card
from nni_cream.results.output_folder import BEST, CONFIG, LATENCIES, PARETO, RETRAINED_PART, SEARCH_PART, WEIGHTS
from nni_cream.results.rebuilt_network import build_network
from nni_cream.results.sources import Source, find_source
from nni_cream.results.trust import check_data_code
from nni_cream.search.cost.latency.latency_table import LatencyTable
from nni_cream.search.supernet.live import without_dead_branches
from nni_cream.training.measurement import check_classes
from nni_cream.versions import package_version, versions

__all__ = ["Exported", "Wish", "export_pareto", "export_result"]

_IMAGES = 8


@dataclass(frozen=True)
class Wish:
    """A user's wish: formats and options of an export.

    Parameters
    ----------
    out
        Folder for all files.
    formats
        Of :data:`nni_cream.export.FORMATS`.
    opset
        Version of ONNX's operators, ``None`` for the default.
    input_shape
        Shape (C, H, W) of made-up images to check with; ``None`` for images of the result's own data set.
    force
        Whether an earlier export in ``out`` may be replaced.
    command
        The command line that asks for it, for the card.
    trust_code
        Whether the result may name its space or data as ``package.module:Name``, which is then imported.
    """

    out: Path
    formats: Sequence[str]
    opset: int | None = None
    input_shape: tuple[int, int, int] | None = None
    force: bool = False
    command: str | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class Exported:
    """An export that was written.

    Parameters
    ----------
    folder
        Where.
    differences
        Format -> largest absolute difference of an output from the network's.
    macs
        Multiply-adds of one image, as a search counts them.
    params
        Number of parameters.
    """

    folder: Path
    differences: dict[str, float]
    macs: int
    params: int


@dataclass(frozen=True)
class _Result:
    """One architecture on the disk."""

    best: Best
    source: Source
    file: Path
    weights: Path | None


@dataclass(frozen=True)
class _Samples:
    """The images that exports are checked with."""

    images: Tensor
    splits: DataSplits | None = field(repr=False)


def export_result(result: str | Path, wish: Wish, weights: str | Path | None = None) -> Exported:
    """Export the chosen architecture of a search or a retraining.

    Parameters
    ----------
    result
        Its output folder, or a ``best.json``.
    wish
        What to export.
    weights
        File of its weights; by default ``weights.pt`` in the folder, or the file of the same name that ends in ``.pt``.

    Returns
    -------
    Exported
        What was written. If this raises, nothing was.

    Raises
    ------
    FileError
        If a file is missing, broken or in the way, or the weights are those of another architecture.
    ExportError
        If the network cannot be written in a format, or what was written computes something else.
    ConfigError
        If a format or opset is not available here, or the data set has other classes than the network.
    DataError
        If the images to check with cannot be loaded.
    SpaceError
        If the architecture's space is not known here, or not made for images of this shape.
    """
    check_formats(wish.formats, wish.opset)
    check_folder(wish.out, force=wish.force)
    found = _find(result, None if weights is None else Path(weights), wish)
    if found.weights is None and set(wish.formats) != {"code"}:
        raise FileError(
            f"{found.file}: there are no weights in its folder; expected weights for every format but code. Name their "
            "file with --weights FILE, or export with --format code."
        )
    samples = _samples(found, wish)
    with filling(wish.out, force=wish.force) as folder:
        exported = _fill(folder, found, samples, wish)
    return Exported(wish.out, exported.differences, exported.macs, exported.params)


def export_pareto(result: str | Path, wish: Wish) -> list[Exported]:
    """Export every architecture of a search's Pareto front, each to a folder below the one wished for.

    Parameters
    ----------
    result
        Output folder of the search; it holds ``pareto/01.json``, ``pareto/01.pt`` and so on.
    wish
        What to export.

    Returns
    -------
    list
        What was written, the cheapest first. If this raises, nothing was.

    Raises
    ------
    FileError
        If there is no Pareto front, or see :func:`export_result`, which also tells what else can go wrong.
    """
    check_formats(wish.formats, wish.opset)
    check_folder(wish.out, force=wish.force)
    front = Path(result) / PARETO
    files = sorted(front.glob("*.json"))
    if not files:
        raise FileError(
            f"{front}: there is no Pareto front; expected that of a complete search, written by `nni-cream search`."
        )
    results = [_find(file, file.with_suffix(".pt"), wish) for file in files]
    samples = _samples(results[0], wish)
    written = []
    with filling(wish.out, force=wish.force) as folder:
        for found in results:
            name = found.file.stem
            (folder / name).mkdir()
            exported = _fill(folder / name, found, samples, wish)
            written.append(Exported(wish.out / name, exported.differences, exported.macs, exported.params))
        rows = [_row(found.best, exported) for found, exported in zip(results, written, strict=True)]
        write_json(folder / "pareto.json", rows)
        card = pareto_card(rows, results[0].best, wish.command, _now(), _latencies(results[0]))
        (folder / CARD).write_text(card, encoding="utf-8")
        write_manifest(folder, {"command": wish.command})
    return written


def _row(best: Best, exported: Exported) -> dict[str, Any]:
    return {
        "folder": exported.folder.name,
        "accuracy": best.accuracy,
        "cost": best.cost,
        "cost_name": best.cost_name,
        "other_costs": best.other_costs or {},
        "macs": exported.macs,
        "params": exported.params,
        "choices": best.choices,
    }


def _find(result: str | Path, weights: Path | None, wish: Wish) -> _Result:
    source = find_source(result, trust_code=wish.trust_code)
    if source.place is None or source.best is None:
        raise ConfigError(
            f"{result}: is a published network without trained weights; expected a result. Make one with `nni-cream "
            f"retrain {result}`, or export any network in Python with nni_cream.export.write_formats."
        )
    source.check_code()
    return _Result(source.best, source, source.place, weights or source.weights_beside())


def _samples(found: _Result, wish: Wish) -> _Samples:
    if wish.input_shape is not None:
        generator = torch.Generator().manual_seed(0)
        return _Samples(torch.randn(_IMAGES, *wish.input_shape, generator=generator), None)
    best = found.best
    check_data_code(best.data, found.file, wish.trust_code)
    try:
        arguments = dict(best.data["arguments"])
        if arguments.get("cache"):
            arguments["cache"] = False  # a few images are not worth to decode all
        splits = data.create(best.data["name"], **arguments)
    except (DataError, ConfigError) as error:
        raise DataError(
            f"{error}\nThe export is checked with images of the search's data set. Without them, --input-shape C,H,W "
            "checks it with made-up images."
        ) from error
    count = min(_IMAGES, len(splits.indices["test"]))
    return _Samples(torch.stack([splits.test[index][0] for index in range(count)]), splits)


def _fill(folder: Path, found: _Result, samples: _Samples, wish: Wish) -> Exported:
    """Write all files of one architecture into a folder."""
    best = found.best
    if samples.splits is not None:
        spaces.check_arguments(
            best.space["name"], best.space["arguments"], samples.splits.num_classes, samples.splits.input_shape
        )
    network = build_network(best, trust_code=wish.trust_code)
    check_costs(best, found.file, network, samples.splits)
    if found.weights is not None:
        found.source.load(network, found.weights)
    spaces.check_images(network, samples.images.shape[1:])
    if samples.splits is not None:
        check_classes(network, samples.splits.test, samples.splits.num_classes, samples.splits.name)
    network = without_dead_branches(network, samples.images)
    facts = _facts(samples.splits)
    differences = write_formats(
        network,
        samples.images,
        folder,
        wish.formats,
        opset=wish.opset,
        title=f"The network that nni_cream chose from the space {best.space['name']!r}; it needs PyTorch alone.",
        facts=facts,
    )
    if found.weights is not None:
        torch.save(network.state_dict(), folder / WEIGHTS)
    best.save(folder / BEST)
    macs = round(count_macs(network, samples.images.shape[1:]))
    params = sum(parameter.numel() for parameter in network.parameters())
    card = Card(
        best=best,
        weights=None if found.weights is None else _within(found.weights, _result_folder(found.file)),
        differences=differences,
        opset=wish.opset or DEFAULT_OPSET,
        macs=macs,
        params=params,
        outputs=_outputs(network, samples.images[:2]),
        input_shape=tuple(samples.images.shape[1:]),
        steps=facts["input"],
        splits=samples.splits,
        images=len(samples.images),
        config=_config(found.file),
        command=wish.command,
        made=_now(),
        versions=versions()
        | {name: package_version(name) for name in ("onnx", "onnxruntime") if "onnx" in differences},
        latencies=_latencies(found),
    )
    (folder / CARD).write_text(result_card(card), encoding="utf-8")
    figures = {"macs": macs, "params": params, "differences": differences}
    write_manifest(folder, {"command": wish.command, **figures, **facts})
    return Exported(folder, differences, macs, params)


def _outputs(network: nn.Module, images: Tensor) -> int:
    with evaluating(network):
        return int(network(images).shape[1])


def _facts(splits: DataSplits | None) -> dict[str, Any]:
    """Return what a program needs for the input and the output, as plain JSON values."""
    if splits is None:
        return {"classes": None, "input": None}
    return {"classes": list(splits.classes) or None, "input": input_facts(splits.test)}


def _result_folder(file: Path) -> Path:
    return file.parent.parent if file.parent.name == PARETO else file.parent


def _within(file: Path, folder: Path) -> str:
    """Return a path for others to read: relative to a folder, or the name alone, but no folder of this machine."""
    inside = file.absolute().is_relative_to(folder.absolute())
    return file.absolute().relative_to(folder.absolute()).as_posix() if inside else file.name


def _latencies(found: _Result) -> LatencyTable | None:
    """Find the table behind a latency of a result."""
    if "latency" not in {found.best.cost_name, *(found.best.other_costs or {})}:
        return None
    folder = _result_folder(found.file)
    places = [folder / LATENCIES]
    if folder.parent.name == RETRAINED_PART:  # of `nni-cream go`, whose search measured it
        places.append(folder.parents[1] / SEARCH_PART / LATENCIES)
    return next((load_latencies(place) for place in places if place.exists()), None)


def _config(file: Path) -> str | None:
    config = _result_folder(file) / CONFIG
    return config.read_text(encoding="utf-8") if config.is_file() else None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
