"""Experiments and their trials as tables for the eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from nni_cream.argument_checks import is_number
from nni_cream.manager.plan import ENDED
from nni_cream.results.console_tables import describe_path

__all__ = ["status_table", "trials_table"]


def status_table(experiments: Sequence[Mapping[str, Any]]) -> Table:
    """Return experiments as :func:`~nni_cream.manager.foreground.describe_experiment` describes them."""
    table = Table("id", "name", "status", "web UI", "trials", "chosen so far")
    for state in experiments:
        ended = sum(trial["status"] in ENDED for trial in state["trials"])
        trials = f"{ended}/{len(state['trials'])} ended" if state["trials"] else ""
        best = describe_path(state["best"]["choices"]) if state["best"] else ""
        left = state["unmanaged_trials"]
        status = f"{state['status']}, process {', '.join(map(str, left))} continues" if left else state["status"]
        table.add_row(state["id"], state["name"], status, state["web_ui"] or "", trials, best)
    return table


def trials_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Return the trials of one experiment: ``number``, ``role``, ``status``, ``accuracy`` and ``machine``.

    The last two may be ``None``; without any machine there is no such column.
    """
    table = Table("trial", "role", "status")
    table.add_column("accuracy", justify="right")
    away = any(trial["machine"] for trial in trials)
    if away:
        table.add_column("machine")
    for trial in trials:
        accuracy = f"{trial['accuracy']:.4f}" if is_number(trial["accuracy"]) else ""
        row = (str(trial["number"]), str(trial["role"]), trial["status"], accuracy)
        table.add_row(*row, *([trial["machine"] or "this one"] if away else []))
    return table
