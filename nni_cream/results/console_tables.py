"""Boards and results as tables for the eye."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nni_cream.results.architecture_file import Best
from nni_cream.results.board_file import SavedBoard
from nni_cream.terminal_text import visible

__all__ = [
    "COST_TITLES",
    "board_table",
    "choices_table",
    "describe_cost",
    "describe_path",
    "make_console",
    "retrained_table",
    "retraining_table",
    "show_best",
]

COST_TITLES = {"macs": "multiply-adds", "params": "parameters", "latency": "latency (ms)"}
"""What the built-in costs count."""
_WIDTH_WITHOUT_TERMINAL = 140


class _SafeConsole(Console):
    """Writes out control characters of all texts; Rich itself lets Escape through."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that does not squeeze tables into 80 columns when its output goes to a file."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else _WIDTH_WITHOUT_TERMINAL
    # What users call their operations and folders is no markup.
    return _SafeConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def describe_path(path: Mapping[str, Any]) -> str:
    """Write the choices of a path one after the other, in the order of the space."""
    return " ".join("+".join(map(str, value)) if isinstance(value, list) else str(value) for value in path.values())


def board_table(board: SavedBoard) -> Table:
    """Return the entries of a board, best first; with their final validation once the search is over."""
    validated = any("validated" in entry for entry in board.entries)
    table = Table("rank", "path", title=f"board after epoch {board.epoch}")
    accuracies = {"validated": "validated", "accuracy": "score"} if validated else {"accuracy": "accuracy"}
    if any("estimate" in entry for entry in board.entries):
        accuracies = {"estimate": "estimate", **accuracies}
    others = list(board.entries[0].get("other_costs", {})) if board.entries else []
    costs = [COST_TITLES.get(name, name) for name in (board.cost_name, *others)]
    for title in (*accuracies.values(), *costs, "admitted at step"):
        table.add_column(title, justify="right")
    for rank, entry in enumerate(board.entries, 1):
        scores = [f"{entry[key]:.4f}" if key in entry else "" for key in accuracies]
        values = {board.cost_name: entry["cost"]} | {n: entry.get("other_costs", {}).get(n, math.nan) for n in others}
        costs = [_cost(value, name) for name, value in values.items()]
        table.add_row(str(rank), describe_path(entry["path"]), *scores, *costs, str(entry["step"]))
    return table


def choices_table(choices: Mapping[str, Any]) -> Table:
    """Return what each choice adds to a path, the best value first; in standard deviations of a step's loss.

    Values that no path had are left out.
    """
    table = Table("choice", "adds to a path, with its standard deviation", title="choices by the training losses")
    for label, own in choices["effects"].items():
        ranked = sorted(
            (item for item in own if None not in (item["gain"], item["std"])), key=lambda item: -item["gain"]
        )
        table.add_row(label, "  ".join(f"{item['value']} {item['gain']:+.3f} ({item['std']:.3f})" for item in ranked))
    return table


def retrained_table(
    entries: Sequence[Mapping[str, Any]],
    cost_name: str,
    chosen: Mapping[str, Any],
    balanced: bool = False,
) -> Table:
    """Return the retrained entries, with a mark at the chosen one.

    Parameters
    ----------
    entries
        Each with ``choices``, ``one_shot_accuracy``, ``cost``, ``validation_accuracy`` and ``test_accuracy``.
    cost_name
        What the cost counts.
    chosen
        Choices of the chosen architecture.
    balanced
        Whether balanced accuracy was the score of the search, and decides here.

    Returns
    -------
    Table
        One row for each.
    """
    accuracy = "balanced " if balanced else ""
    table = Table("", "path", title=f"retrained from new weights; chosen by {accuracy}validation accuracy")
    figures = {"validation_accuracy": "validation", "test_accuracy": "test"}
    if all("validation_balanced_accuracy" in entry for entry in entries):
        figures |= {"validation_balanced_accuracy": "balanced validation", "test_balanced_accuracy": "balanced test"}
    for title in (f"{accuracy}one-shot", COST_TITLES.get(cost_name, cost_name), *figures.values()):
        table.add_column(title, justify="right")
    for entry in entries:
        accuracies = [f"{entry[key]:.4f}" for key in ("one_shot_accuracy", *figures)]
        mark = "*" if entry["choices"] == chosen else ""
        cost = _cost(entry["cost"], cost_name)
        table.add_row(mark, describe_path(entry["choices"]), accuracies[0], cost, *accuracies[1:])
    return table


def retraining_table(best: Best) -> Table:
    """Return what a retraining reached, part by part; ``best.retrained`` has the figures, top-5 of over 5 classes."""
    figures = best.retrained or {}
    weights = "averaged weights" if figures.get("weights") == "average" else "last weights"
    table = Table("part", title=f"{describe_path(best.choices)}: epoch {figures.get('epochs')}, {weights}")
    titles = {"accuracy": "top-1", "top5": "top-5", "loss": "loss"}
    known = [key for key in titles if f"test_{key}" in figures]
    for key in known:
        table.add_column(titles[key], justify="right")
    for part in ("validation", "test"):
        table.add_row(part, *(f"{figures[f'{part}_{key}']:.4f}" for key in known))
    return table


def show_best(best: Best, console: Console) -> None:
    """Print the chosen architecture and what is known of it."""
    console.print(f"chosen: {describe_path(best.choices)}")
    costs = {best.cost_name: best.cost, **(best.other_costs or {})}
    figures = [describe_cost(value, name) for name, value in costs.items()]
    score = "" if best.score is None else f" on all validation images ({best.score:.4f} on the board)"
    console.print(f"one-shot accuracy {best.accuracy:.4f}{score}, {', '.join(figures)}")
    if best.retrained is not None:
        scores = f"validation {best.retrained['validation_accuracy']:.4f}, test {best.retrained['test_accuracy']:.4f}"
        console.print(f"retrained: {scores}")


def describe_cost(value: float, cost_name: str) -> str:
    """Write a cost with its unit: ``144,560 multiply-adds``, ``0.684 ms latency``."""
    unit = "ms latency" if cost_name == "latency" else COST_TITLES.get(cost_name, cost_name)
    return f"{_cost(value, cost_name)} {unit}"


def _cost(value: float, name: str) -> str:
    if name == "latency":
        return _significant(1000 * value, 3)
    return f"{value:,.0f}" if float(value).is_integer() else _significant(value, 4)


def _significant(value: float, digits: int) -> str:
    """Write a number with so many significant digits, and no exponent in a range that people read."""
    if not math.isfinite(value) or not 1e-6 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"
