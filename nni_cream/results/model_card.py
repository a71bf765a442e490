"""The model card of an export: facts from its files, and counted figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nni_cream.data.folders.image_parts import ImagePart
from nni_cream.export.input_steps import input_steps
from nni_cream.export.picture_script import picture_script
from nni_cream.results.console_tables import describe_cost
from nni_cream.results.markdown import code_block, code_span, plain

if TYPE_CHECKING:
    from nni_cream.data import DataSplits
    from nni_cream.results.architecture_file import Best
    from nni_cream.search.cost.latency.latency_table import LatencyTable

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
        File that the weights came from, relative to the result's folder; ``None`` if there are none.
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
    steps
        From an image to the input (:func:`nni_cream.data.input_facts.input_facts`), ``None`` if they are unknown.
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
    latencies
        The table behind a latency in ``best``, if the result has one.
    """

    best: Best
    weights: str | None
    differences: Mapping[str, float]
    opset: int
    macs: int
    params: int
    outputs: int
    input_shape: tuple[int, ...]
    steps: Mapping[str, Any] | None
    splits: DataSplits | None
    images: int
    config: str | None
    command: str | None
    made: str
    versions: Mapping[str, str]
    latencies: LatencyTable | None = None


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
        *_picture_part(card),
        "## Input and output\n\n" + _input(card),
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


def _picture_part(card: Card) -> Iterator[str]:
    if "onnx" not in card.differences or card.steps is None or card.steps["source"] != "pictures":
        return
    text = (
        "The script needs Pillow, NumPy and onnxruntime. Save it as `classify.py` in the folder of `network.onnx`, "
        "which also holds the names of the classes. Then run `python classify.py PICTURE`."
    )
    yield "## Run it on one picture\n\n" + _python(text, picture_script(card.steps).rstrip())


def _input(card: Card) -> str:
    shape = ", ".join(map(str, card.input_shape))
    facts = {
        "input": f"`images`, float32, shape (N, {shape})",
        "output": f"`logits`, float32, shape (N, {card.outputs}), before softmax",
    }
    if card.steps is None:
        return _list({**facts, "steps from an image to the input": _unknown_steps(card.splits)})
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(input_steps(card.steps), 1))
    return f"{_list(facts)}\n\nFrom an image to the input (`input` in `export.json`):\n\n{numbered}"


def _unknown_steps(splits: DataSplits | None) -> str:
    part = None if splits is None else splits.test
    if not isinstance(part, ImagePart):
        return _UNKNOWN
    return f"{_UNKNOWN}, since the data set has a transform of its own: {code_span(repr(part.transform))}"


def _scores(card: Card) -> dict[str, str]:
    figures = card.best.retrained or dict.fromkeys(("validation_accuracy", "test_accuracy"))
    retrained = {
        f"{key.replace('_', ' ')}, retrained": _figure(value)
        for key, value in figures.items()
        if card.outputs > 5 or not key.endswith("top5")  # older files have that of few classes, which is always 1
    }
    return {
        "`accuracy` in `best.json` (of a search: one-shot, with weights of the supernet; top-1 accuracy, unless its "
        "`config.yml` has another `score`)": _figure(card.best.accuracy),
        **retrained,
        "weights in this folder": "none" if card.weights is None else f"copied from {code_span(card.weights)}",
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
        "cost in `best.json`": _cost(best.cost, best.cost_name, card.latencies),
        **{f"{plain(name)} in `best.json`": _cost(cost, name, card.latencies) for name, cost in others},
    }


def _cost(value: float, name: str, latencies: LatencyTable | None) -> str:
    told = plain(describe_cost(value, name))
    return f"{told} ({_measured(latencies)})" if name == "latency" else told


def _measured(latencies: LatencyTable | None) -> str:
    """Say how latencies were measured, as far as their table tells."""
    if latencies is None:
        return "the device is not in the result"
    facts = [f"PyTorch {latencies.versions['torch']}"] if "torch" in latencies.versions else []
    facts.append(f"on {latencies.device}")
    threads, batch = (latencies.settings.get(name) for name in ("threads", "batch_size"))
    facts += [] if threads is None else [f"{threads} thread{'' if threads == 1 else 's'}"]
    facts += [] if batch is None else [f"batch of {batch}"]
    return plain(", ".join(facts))


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


def pareto_card(
    rows: Sequence[Mapping[str, Any]],
    best: Best,
    command: str | None,
    made: str,
    latencies: LatencyTable | None = None,
) -> str:
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
    latencies
        The table behind the latencies of the rows, if the result has one.

    Returns
    -------
    str
        Markdown.
    """
    titles = ("folder", "one-shot score", "cost in the search", "multiply-adds", "parameters")
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
    if any(name == "latency" for row in rows for name, _ in _all_costs(row)):
        facts["latency"] = _measured(latencies)
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
