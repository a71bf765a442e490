"""The model card of an export: facts from its files, and counted figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nni_cream.data.folders.image_parts import ImagePart
from nni_cream.data.splits import NormalisedImages
from nni_cream.results.console_tables import describe_cost
from nni_cream.results.markdown import code_block, code_span, plain

if TYPE_CHECKING:
    from nni_cream.data import DataSplits
    from nni_cream.results.architecture_file import Best

__all__ = ["CARD", "Card", "pareto_card", "result_card"]

CARD = "README.md"
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Card:
    """All that is known of an export.

    Parameters
    ----------
    best
        The architecture.
    weights
        File that the weights came from, ``None`` if there are none.
    differences
        Format -> largest absolute difference of an output from the network's.
    opset
        Version of ONNX's operators.
    macs
        Multiply-adds of one image, counted.
    params
        Parameters, counted.
    outputs
        Number of logits.
    input_shape
        Shape (C, H, W) of one image.
    splits
        The data set, ``None`` if the export was checked with made-up images.
    images
        How many images it was checked with.
    config
        Text of the result's ``config.yml``, if it is there.
    command
        Command line that made the export, ``None`` if it was made from Python.
    made
        When.
    versions
        Package -> version, of the packages that made the export.
    """

    best: Best
    weights: str | None
    differences: Mapping[str, float]
    opset: int
    macs: int
    params: int
    outputs: int
    input_shape: tuple[int, ...]
    splits: DataSplits | None
    images: int
    config: str | None
    command: str | None
    made: str
    versions: Mapping[str, str]


def result_card(card: Card) -> str:
    """Write the card of one architecture.

    Parameters
    ----------
    card
        What is known.

    Returns
    -------
    str
        Markdown.
    """
    best = card.best
    parts = [
        f"# A network from the search space {code_span(best.space['name'])}",
        "Found with nni_cream: Cream of the Crop, one-shot search with prioritized path distillation (Peng et al., "
        "NeurIPS 2020, arXiv 2010.15821).",
        "## How to load it\n\n" + "\n\n".join(_loading(card)),
        "## Input and output\n\n" + _list(_input_facts(card)),
        "## Scores\n\n" + _list(_scores(card)),
        "## Cost of one image\n\n" + _list(_costs(card)),
        "## Architecture\n\n"
        + _list({"space": code_span(best.space["name"]), "arguments": _code(best.space["arguments"])})
        + "\n\n"
        + _table(("choice", "value"), [(code_span(label), _code(value)) for label, value in best.choices.items()]),
        "## Data\n\n" + _list(_data_facts(card)),
        "## How it was made\n\n" + _list(_origin(card)),
    ]
    if card.config is not None:
        parts.append("The `config.yml` of the result:\n\n" + code_block(card.config.strip(), "yaml"))
    return "\n\n".join(parts) + "\n"


def _loading(card: Card) -> Iterator[str]:
    if "code" in card.differences and card.weights is not None:
        yield _python(
            "Python, with PyTorch alone (`network.py`, `weights.pt`):",
            "import network\n\nmodel = network.load()  # in evaluation mode\nlogits = model(images)",
        )
    elif "code" in card.differences:
        yield _python(
            "Python, with PyTorch alone (`network.py`). There are no weights: train it first.",
            "import network\n\nmodel = network.build()  # new weights",
        )
    if "onnx" in card.differences:
        yield _python(
            f"ONNX (`network.onnx`, opset {card.opset}), any number of images at a time:",
            'import onnxruntime\n\nsession = onnxruntime.InferenceSession("network.onnx")\n'
            '(logits,) = session.run(["logits"], {"images": images})  # a float32 array of NumPy',
        )
    if "torch" in card.differences:
        yield _python(
            "A program of `torch.export` (`network.pt2`), weights included, any number of images at a time:",
            'import torch\n\nmodel = torch.export.load("network.pt2").module()\nlogits = model(images)',
        )


def _python(text: str, code: str) -> str:
    return f"{text}\n\n```python\n{code}\n```"


def _input_facts(card: Card) -> dict[str, str]:
    shape = ", ".join(map(str, card.input_shape))
    return {
        "input": f"`images`, float32, shape (N, {shape})",
        "normalisation": _normalisation(None if card.splits is None else card.splits.test),
        "output": f"`logits`, float32, shape (N, {card.outputs}), before softmax",
    }


def _normalisation(images: Any) -> str:
    if isinstance(images, NormalisedImages):
        mean, std = _numbers(images.pixel_mean), _numbers(images.pixel_std)
        steps = f"from pixel values as they are in the source subtract {mean}, then divide by {std}"
        if images.enlarged_from is None:
            return steps
        height, width = images.enlarged_from
        return f"{steps}, then enlarge from {height}x{width} pixels (`torch.nn.functional.interpolate`, bilinear)"
    if isinstance(images, ImagePart):
        mean, std = _numbers(images.mean), _numbers(images.std)
        steps = " ".join(repr(images.transform).split())
        return (
            f"from pixel values in [0, 1] subtract {mean}, then divide by {std}; all that is done: {code_span(steps)}"
        )
    return _UNKNOWN


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _scores(card: Card) -> dict[str, str]:
    figures = card.best.retrained or dict.fromkeys(("validation_accuracy", "test_accuracy"))
    retrained = {
        f"{key.replace('_', ' ')}, retrained": _figure(value)
        for key, value in figures.items()
        if card.outputs > 5 or not key.endswith("top5")  # older files have that of few classes, which is always 1
    }
    return {
        "accuracy in `best.json` (one-shot, with weights of the supernet, if it was searched)": _figure(
            card.best.accuracy
        ),
        **retrained,
        "weights in this folder": "none" if card.weights is None else f"those of {code_span(card.weights)}",
    }


def _figure(value: Any) -> str:
    if value is None:
        return f"{_UNKNOWN} (not in `best.json`)"
    return f"{value:.4f}" if isinstance(value, float) else plain(str(value))


def _costs(card: Card) -> dict[str, str]:
    best = card.best
    others = (best.other_costs or {}).items()
    return {
        "multiply-adds of one image": f"{card.macs:,}",
        "parameters, counted": f"{card.params:,}",
        "cost in `best.json`": plain(describe_cost(best.cost, best.cost_name)),
        **{f"{plain(name)} in `best.json`": plain(describe_cost(cost, name)) for name, cost in others},
    }


def _data_facts(card: Card) -> dict[str, str]:
    best, splits = card.best, card.splits
    facts = {
        "data set": code_span(best.data["name"]),
        "arguments": _code(best.data["arguments"]),
        "fingerprint of the images in `best.json`": code_span(str(best.data.get("fingerprint", _UNKNOWN))),
        "classes": _UNKNOWN if splits is None else _classes(splits),
    }
    if splits is not None and splits.fingerprint != best.data.get("fingerprint"):
        facts["fingerprint of the images that this export was checked with"] = code_span(splits.fingerprint)
    return facts


def _classes(splits: DataSplits) -> str:
    return f"{splits.num_classes}{': ' + plain(', '.join(splits.classes)) if splits.classes else ''}"


def _origin(card: Card) -> dict[str, str]:
    kind = "made-up images (normal noise, seed 0)" if card.splits is None else "images of the test part"
    checks = ", ".join(f"{name} {difference:.1e}" for name, difference in card.differences.items())
    return {
        "command": _UNKNOWN if card.command is None else code_span(card.command),
        "date": card.made,
        "checked with": f"{card.images} {kind}; largest difference of an output from the network's: {checks}",
        "seed in `best.json`": str(card.best.seed),
        "versions in `best.json`": _versions(card.best.versions),
        "versions in the export": _versions(card.versions),
    }


def _versions(versions: Mapping[str, str]) -> str:
    return plain(", ".join(f"{name} {version}" for name, version in versions.items())) or _UNKNOWN


def pareto_card(rows: Sequence[Mapping[str, Any]], best: Best, command: str | None, made: str) -> str:
    """Write the card of a Pareto front.

    Parameters
    ----------
    rows
        What ``pareto.json`` holds, the cheapest first.
    best
        One of the architectures.
    command
        Command line that made the export, ``None`` if it was made from Python.
    made
        When.

    Returns
    -------
    str
        Markdown.
    """
    titles = ("folder", "one-shot accuracy", "cost in the search", "multiply-adds", "parameters")
    lines = [
        (
            f"[{plain(row['folder'])}]({quote(row['folder'])}/{CARD})",
            f"{row['accuracy']:.4f}",
            plain(", ".join(describe_cost(cost, name) for name, cost in _all_costs(row))),
            f"{row['macs']:,}",
            f"{row['params']:,}",
        )
        for row in rows
    ]
    facts = {
        "space": code_span(best.space["name"]),
        "data set": code_span(best.data["name"]),
        "command": _UNKNOWN if command is None else code_span(command),
        "date": made,
    }
    parts = ["# Pareto front of a search", _table(titles, lines), _list(facts)]
    return "\n\n".join(parts) + "\n"


def _all_costs(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(row["cost_name"], row["cost"]), *row["other_costs"].items()]


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"* {name}: {value}" for name, value in facts.items())


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(value: Any) -> str:
    return code_span(json.dumps(value))
