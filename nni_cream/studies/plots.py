"""Draw the pictures of the studies as PNG files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nni_cream.errors import StudyError
from nni_cream.files import replacing
from nni_cream.studies.final_study import FinalRow
from nni_cream.studies.intervals import Estimate
from nni_cream.studies.jobs import Records
from nni_cream.studies.outcomes import primary
from nni_cream.studies.ranking.choice_rules import RULES
from nni_cream.studies.ranking.rank_study import Choices, Row, Variant
from nni_cream.studies.ranking.whole_searches import AMONG
from nni_cream.studies.truths.truth import Truth

__all__ = ["draw_differences", "draw_final", "draw_scatter", "draw_searches", "draw_truth", "have_matplotlib"]

_DPI = 120


def have_matplotlib() -> bool:
    """Return whether pictures can be drawn."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


@contextmanager
def _figure(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StudyError(
            "matplotlib is missing; expected it for pictures. Run pip install 'nni_cream[plots]'."
        ) from None
    figure = Figure(figsize=size, layout="constrained")
    yield figure.subplots(rows, columns, squeeze=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")


def draw_truth(path: Path, truth: Truth) -> None:
    """Draw the accuracy of the known architectures over multiply-adds, with the range over the seeds."""
    macs = [truth.macs[number] / 1e6 for number in truth.known]
    table = truth.table
    means = table.mean(axis=1)
    with _figure(path, 1, 1, (6.4, 4.0)) as axes:
        axis = axes[0][0]
        axis.vlines(macs, table.min(axis=1), table.max(axis=1), color="tab:gray", linewidth=1)
        axis.plot(macs, means, "o", markersize=4)
        axis.set_xlabel("multiply-adds of one image (millions)")
        axis.set_ylabel("accuracy, trained alone")
        axis.set_title(f"{len(means)} architectures x {len(truth.seeds)} seeds: mean and range")


def draw_scatter(path: Path, variants: Sequence[Variant], records: Records, truth: Truth) -> None:
    """Draw the scores of each variant's first seed against the truth. Variants without a result are left out."""
    drawn = [(variant, found) for variant in variants if (found := variant.results(records))]
    columns = min(4, max(1, len(drawn)))
    rows = max(1, -(-len(drawn) // columns))
    with _figure(path, rows, columns, (3.2 * columns, 3.0 * rows)) as axes:
        for place in range(rows * columns):
            axis = axes[place // columns][place % columns]
            if place >= len(drawn):
                axis.set_axis_off()
                continue
            variant, found = drawn[place]
            seed, result = next(iter(found.items()))
            scores = [result["scores"][primary(result["scores"])][number] for number in truth.known]
            axis.plot(scores, truth.means, "o", markersize=3)
            axis.set_title(f"{variant.name}, seed {seed}", fontsize=9)
            axis.set_xlabel("one-shot score", fontsize=8)
            axis.set_ylabel("accuracy, trained alone", fontsize=8)
            axis.tick_params(labelsize=7)


def draw_differences(path: Path, rows: Sequence[Row], baseline: str) -> None:
    """Draw the tau of each variant minus the baseline's, with its 95 % interval."""
    treatment = primary({name for row in rows for name in row.measures})
    found = [(row.variant, row.differences[treatment]["tau"]) for row in rows if treatment in row.differences]
    with _figure(path, 1, 1, (6.4, 1.0 + 0.3 * max(1, len(found)))) as axes:
        _draw_estimates(axes[0][0], found)
        axes[0][0].set_xlabel(f"Kendall tau less that of {baseline}, 95 % interval")


def draw_searches(path: Path, choices: Choices) -> None:
    """Draw regret over CPU time: during searches, of whole ones, and without any; 95 % intervals over the seeds."""
    names = dict.fromkeys(name for curves in choices.curves.values() for name in curves)
    colors = {name: f"C{place}" for place, name in enumerate(names)}
    with _figure(path, 1, len(choices.curves), (6.4 * len(choices.curves), 4.5)) as axes:
        for axis, (among, curves) in zip(axes[0], choices.curves.items(), strict=True):
            for name, curve in curves.items():
                values, lows, highs = np.array([(own.value, own.low, own.high) for own in curve.estimates()]).T * 100
                axis.plot(curve.costs, values, color=colors[name], label=name)
                axis.fill_between(curve.costs, lows, highs, color=colors[name], alpha=0.15, linewidth=0)
            # The best prediction is the end of a curve. Beside each other, since regrets are often equal.
            whole = [row for row in choices.searches if AMONG[among] == "regret" and row.rule.startswith("board")]
            for place, (marker, row) in enumerate(zip(itertools.cycle("osD^vP*X"), whole, strict=False)):
                own = row.regrets[""].scaled(100)
                reach = [[own.value - own.low], [own.high - own.value]]
                look = {"fmt": marker, "color": "black", "markersize": 4, "capsize": 2, "linewidth": 0.8}
                label = f"{row.variant}: {RULES[row.rule]}"
                axis.errorbar(row.cost.value + 0.012 * place, own.value, reach, **look, label=label)
            for largest in (row for row in choices.rows if row.rule == "largest" and AMONG[among] in row.figures):
                height = 100 * largest.figures[AMONG[among]].value
                axis.axhline(height, color="black", linestyle=":", linewidth=0.8, label=f"the largest of {among}")
            axis.set_xlim(left=0)
            highest = max(curve.regrets.mean(axis=0).max() for curve in curves.values())
            axis.set_ylim(0, 110 * highest or None)  # where intervals reach higher, they are cut
            axis.set_xlabel("CPU time, of that of a plain training")
            axis.set_ylabel("regret (points of accuracy)")
            axis.set_title(among, fontsize=9)
            axis.legend(fontsize=6)


def draw_final(path: Path, tables: Mapping[str, Sequence[FinalRow]]) -> None:
    """Draw test accuracy over multiply-adds for each method, and the board's accuracy minus that of the others."""
    with _figure(path, len(tables), 2, (10.0, 3.2 * len(tables))) as axes:
        for (left, right), (budget, rows) in zip(axes, tables.items(), strict=True):
            for marker, row in zip("osD^v", rows, strict=True):
                if row.means:
                    own, macs = row.accuracies["test"], [row.means["macs"] / 1e6]
                    reach = [[own.value - own.low], [own.high - own.value]]
                    left.errorbar(macs, [own.value], reach, fmt=marker, alpha=0.7, capsize=3, label=row.method)
            left.locator_params(axis="x", nbins=5)
            left.set_xlabel("multiply-adds of one image (millions), mean")
            left.set_ylabel("test accuracy, trained alone")
            left.set_title(budget, fontsize=9)
            left.legend(fontsize=7)
            _draw_estimates(right, [(row.method, row.differences["test"]) for row in rows if row.differences])
            right.set_xlabel("test accuracy of the board's best less theirs, 95 % interval", fontsize=9)


def _draw_estimates(axis: Any, found: Sequence[tuple[str, Estimate]]) -> None:
    for place, (_, estimate) in enumerate(found):
        axis.plot([estimate.low, estimate.high], [place, place], color="tab:gray")
        axis.plot(estimate.value, place, "o", color="tab:blue", markersize=5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.locator_params(axis="x", nbins=6)  # more of them would overlap
    axis.set_yticks(range(len(found)), [name for name, _ in found])
    axis.invert_yaxis()
