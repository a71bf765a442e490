"""Which predictor ranks best? Variants of it, replayed on the training steps that a ranking study has recorded.

    python benchmarks/predictor_variants.py out/rank_macro/records.jsonl \\
        --truth out/truth_nas_bench_macro.json [--variant spos]

The variants were listed before their figures were known. Each learns from the same steps and ranks all architectures of
the truth. Prints one JSON line: for each variant Kendall's tau and the regret of its best (points of accuracy), for
each seed and in the mean. The first variant is the predictor without its prior of size, and must rank as the package's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nni_cream.search import path_key
from nni_cream.studies.ranking.predictions import predict, replay
from nni_cream.studies.truths.truth import load_truth

Array = NDArray[np.float64]


class Variant(NamedTuple):
    """A predictor: how steps are weighted (t from 0 to 1), the ridge, what is regressed, and how size counts."""

    weight: Callable[[Array], Array] = np.asarray
    ridge: float = 10.0
    log: bool = False
    size: float = 0.0
    scores: float = 0.0


VARIANTS = {
    "default": Variant(),
    "ridge 3": Variant(ridge=3.0),
    "ridge 30": Variant(ridge=30.0),
    "equal weights": Variant(weight=np.ones_like),
    "weight exp(2t)": Variant(weight=lambda t: np.exp(2 * (t - 1))),
    "second half alone": Variant(weight=lambda t: (t > 0.5).astype(float)),
    "log loss": Variant(log=True),
    "size 0.25": Variant(size=0.25),
    "size 0.5": Variant(size=0.5),
    "one-shot scores 0.5": Variant(scores=0.5),
}


def targets(losses: Array) -> Array:
    """Return the losses less their trend, over their spread, as the predictor takes them; ``nan`` for the first."""
    found, mean, variance = np.full(len(losses), np.nan), 0.0, 0.0
    for number, loss in enumerate(losses, start=1):
        away = loss - mean if number > 1 else 0.0
        if variance > (1e-6 * mean) ** 2:
            found[number - 1] = away / np.sqrt(variance)
        reach = min(number, max(20, 0.1 * number))
        mean = loss if number == 1 else mean + away / reach
        variance += (away**2 - variance) / reach
    return found


def qualities(variant: Variant, inputs: Array, losses: Array, rows: Array, macs: Array) -> Array:
    """Return the predicted quality of architectures.

    ``inputs`` (steps, columns) and ``rows`` (architectures, columns) are one-hot.
    """
    y = targets(np.log(losses) if variant.log else losses)
    weights = variant.weight(np.arange(1, len(y) + 1) / len(y)) * np.isfinite(y)
    kept = weights > 0
    x, y, w = inputs[kept], y[kept], weights[kept]
    center = np.average(x, axis=0, weights=w)
    root = np.sqrt(w)[:, None]
    scaled = root * (x - center)
    regular = scaled.T @ scaled + variant.ridge * np.eye(x.shape[1])
    effects = np.linalg.solve(regular, scaled.T @ (root[:, 0] * (y - np.average(y, weights=w))))
    return standard(-(rows - center) @ effects) + variant.size * standard(np.log(macs))


def standard(values: Array) -> Array:
    return (values - values.mean()) / values.std()


def judge(
    result: dict[str, Any], space: dict[str, Any], truth: Any, scored: Sequence[str]
) -> dict[str, dict[str, float]]:
    trained, paths = result["trained"], truth.architectures
    predictor = replay(space, trained)
    inputs, rows = np.zeros((len(trained["losses"]), predictor.size)), np.zeros((len(paths), predictor.size))
    for row, text in zip(inputs, trained["columns"], strict=True):
        row[np.array(text.split(), dtype=int)] = 1.0
    for row, path in zip(rows, paths, strict=True):
        row[predictor.columns(dict(path))] = 1.0
    means, macs = np.array(truth.means), np.array(truth.macs)
    own = predict(space, {**trained, "sizes": None}, paths)  # the variants have a prior of size of their own
    places = {path_key(path): place for place, path in enumerate(paths)}
    part = np.array([places[key] for key in scored])
    found = {}
    for name, variant in VARIANTS.items():
        values = qualities(variant, inputs, np.array(trained["losses"]), rows, macs)
        if name == "default":
            assert stats.spearmanr(values, own).statistic > 0.9999, "the first variant is not the package's predictor"
        figures = {"regret": 100 * float(means.max() - means[np.argmax(values)])}
        if variant.scores:  # known of some architectures alone
            values = standard(values[part]) + variant.scores * standard(np.array(result["scores"]["batch"]))
            figures = {}
        else:
            figures["tau"] = float(stats.kendalltau(values, means).statistic)
            values = values[part]
        found[name] = {**figures, "tau of those scored": float(stats.kendalltau(values, means[part]).statistic)}
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--variant", default="spos", help="of the study, whose trainings are replayed")
    options = parser.parse_args(words)
    head, *lines = [json.loads(line) for line in options.records.read_text().splitlines()]
    truth = load_truth(options.truth)
    scored = [path_key(path) for path in head["shared"]["paths"]]
    every = {
        line["key"]: judge(line["result"], head["shared"]["space"], truth, scored)
        for line in lines
        if line["key"].startswith(f"{options.variant} seed ")
    }
    table = {}
    for name in VARIANTS:
        names = next(iter(every.values()))[name]
        table[name] = {figure: [round(own[name][figure], 4) for own in every.values()] for figure in names}
        table[name] |= {f"mean {figure}": round(float(np.mean(table[name][figure])), 4) for figure in names}
    print(json.dumps({"trainings": list(every), "variants": table}))


if __name__ == "__main__":
    main()
