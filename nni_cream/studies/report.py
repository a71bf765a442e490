"""Format the tables of the studies for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from nni_cream.studies.final_study import FinalRow
from nni_cream.studies.intervals import Estimate
from nni_cream.studies.outcomes import primary
from nni_cream.studies.ranking.choice_rules import CHOICE_MEASURES, RULES, ChoiceRow
from nni_cream.studies.ranking.rank_study import PREDICTED, Row
from nni_cream.studies.ranking.whole_searches import OTHERS, RegretCurve, WholeSearchRow

__all__ = [
    "as_markdown",
    "as_table",
    "choice_cells",
    "curve_cells",
    "every_rank_cells",
    "final_cells",
    "rank_cells",
    "search_cells",
    "show_estimate",
]

_HEAD = (
    "variant", "epochs", "cost", "seeds", "mean score", "score less baseline", "Kendall tau", "tau less baseline",
    "Spearman", "top-5 regret",
)  # fmt: skip

_FINAL_HEAD = (
    "method", "seeds", "scored paths", "CPU seconds", "in training steps", "multiply-adds (M)", "one-shot accuracy",
    "accuracy, judging", "accuracy, test", "board less it, judging", "board less it, test",
    "board less it, multiply-adds (M)",
)  # fmt: skip
_REGRETS = (1.0, 0.5, 0.3)  # points of accuracy
# What fits on a terminal, of either table.
_BRIEF = {
    *("variant", "seeds", "cost", "mean score", "score less baseline", "Kendall tau", "tau less baseline"),
    *("method", "CPU seconds", "multiply-adds (M)", "accuracy, test", "board less it, test"),
}


def show_estimate(estimate: Estimate | None, digits: int = 3, *, signed: bool = False) -> str:
    """Format a figure with its interval, such as ``0.412 [0.301, 0.508]``.

    The interval is left out where it is a point, as for a single training. ``None`` gives an empty text.
    """
    if estimate is None:
        return ""
    sign = "+" if signed else ""
    if estimate.low == estimate.high:
        return f"{estimate.value:{sign}.{digits}f}"
    return f"{estimate.value:{sign}.{digits}f} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def rank_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the cells of each line for a ranking study, of the scores that count most."""
    treatment = primary(_treatments(rows))
    return list(_HEAD), [_cells(row, treatment) for row in rows]


def every_rank_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the same of everything that ranks, named in the second column; rows without results once, and last."""
    first, *others = _HEAD
    lines = []
    for treatment in _treatments(rows):
        ranked_by = PREDICTED.get(treatment, f"scores, BatchNorm {treatment}")
        for row in rows:
            if row.seeds:
                variant, *cells = _cells(row, treatment)
                lines.append([variant, ranked_by, *cells])
    for row in rows:
        if not row.seeds:
            variant, *cells = _cells(row, primary(_treatments(rows)))
            lines.append([variant, "", *cells])
    return [first, "ranked by", *others], lines


def _treatments(rows: Sequence[Row]) -> list[str]:
    return [*dict.fromkeys(name for row in rows for name in (*row.measures, *row.undefined))]


def _cells(row: Row, treatment: str) -> list[str]:
    start = [row.variant, str(row.epochs) if row.epochs else "", show_estimate(row.cost, 2), _show_seeds(row)]
    if treatment in row.undefined:
        return [*start, f"undefined: {row.undefined[treatment]}", *[""] * (len(_HEAD) - len(start) - 1)]
    own, difference = row.measures.get(treatment, {}), row.differences.get(treatment, {})
    mean = own.get("accuracy")
    return [
        *start,
        "" if mean is None else f"{mean.value:.3f}",
        show_estimate(difference.get("accuracy"), signed=True),
        show_estimate(own.get("tau")),
        f"undefined: {row.unpaired[treatment]}"
        if treatment in row.unpaired
        else show_estimate(difference.get("tau"), signed=True),
        show_estimate(own.get("spearman")),
        show_estimate(own.get("regret"), 4),
    ]


def choice_cells(rows: Sequence[ChoiceRow]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the cells of each line for what scores, predictions and boards would choose.

    Regrets and means are in percentage points of accuracy.
    """
    head = ["variant", "chosen by", *CHOICE_MEASURES, "tau less baseline", "regret less baseline"]
    lines = []
    for row in rows:
        cells = [show_estimate(_in_points(name, row.figures.get(name)), 3) for name in CHOICE_MEASURES]
        less = [
            show_estimate(_in_points(name, row.differences.get(name)), 3, signed=True) for name in ("tau", "regret")
        ]
        lines.append([row.variant, RULES[row.rule], *cells, *less])
    return head, lines


def search_cells(rows: Sequence[WholeSearchRow]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the cells of each line for whole searches; regrets are in percentage points."""
    others = [f"SPOS + {name}" for name in OTHERS]
    head = ["variant", "chosen by", "CPU time", "paths in that time", "regret"]
    head += [f"regret of {name}" for name in others] + [f"regret less that of {name}" for name in others]
    return head, [_search_cells(row) for row in rows]


def _search_cells(row: WholeSearchRow) -> list[str]:
    (fewest, most), (least_wanted, most_wanted) = row.paths, row.wanted
    paths = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    short = "" if most == most_wanted else f", of {least_wanted} to {most_wanted} wanted"
    return [
        row.variant,
        RULES[row.rule],
        show_estimate(row.cost, 2),
        paths + short,
        *(show_estimate(row.regrets[name].scaled(100), 2) for name in ("", *OTHERS)),
        *(show_estimate(row.differences[name].scaled(100), 2, signed=True) for name in OTHERS),
    ]


def curve_cells(curves: Mapping[str, RegretCurve]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the cells of each line for the times to given regrets, in percentage points."""
    lines = []
    for name, curve in curves.items():
        times = [curve.time_to(regret / 100) for regret in _REGRETS]
        shown = ["not reached" if time is None else f"{time:.2f}" for time in times]
        last = show_estimate(curve.estimates()[-1].scaled(100), 2)
        lines.append([name, str(len(curve.regrets)), *shown, f"{curve.costs[-1]:.2f}", last])
    head = ["search", "seeds", *(f"at most {regret} from" for regret in _REGRETS), "CPU time at the end", "regret then"]
    return head, lines


def _in_points(name: str, estimate: Estimate | None) -> Estimate | None:
    return estimate if estimate is None or name in ("tau", "spearman") else estimate.scaled(100)


def final_cells(rows: Sequence[FinalRow]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the cells of each line for a study of final architectures."""
    return list(_FINAL_HEAD), [_final_cells(row) for row in rows]


def _final_cells(row: FinalRow) -> list[str]:
    start = [row.method, _show_seeds(row)]
    if not row.means:
        return start + [""] * (len(_FINAL_HEAD) - len(start))
    means, differences = row.means, row.differences
    macs = differences.get("macs")
    return [
        *start,
        _show_scored(means),
        *(f"{means[name]:.{digits}f}" for name, digits in (("cpu_seconds", 1), ("steps", 0))),
        f"{means['macs'] / 1e6:.3f}",
        f"{means['validated']:.4f}",
        *(show_estimate(row.accuracies[name], 4) for name in ("judging", "test")),
        *(show_estimate(differences.get(name), 4, signed=True) for name in ("judging", "test")),
        show_estimate(None if macs is None else macs.scaled(1e-6), signed=True),
    ]


def _show_scored(means: Mapping[str, float]) -> str:
    fewest, most = (f"{means[name]:.0f}" for name in ("fewest_scored", "most_scored"))
    return fewest if fewest == most else f"{means['scored']:.0f} ({fewest} to {most})"


def _show_seeds(row: Row | FinalRow) -> str:
    if not row.wanted:
        return ""
    return f"{len(row.seeds)}" if row.complete else f"{len(row.seeds)} of {row.wanted} (partial)"


def as_markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a table as Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def as_table(head: Sequence[str], lines: Iterable[Sequence[str]], title: str) -> Table:
    """Build a table of the columns that fit on a terminal; the Markdown has all columns."""
    shown = [place for place, name in enumerate(head) if name in _BRIEF]
    table = Table(title=title)
    for place in shown:
        table.add_column(head[place], justify="right" if place else "left")
    for line in lines:
        table.add_row(*(line[place] for place in shown))
    return table
