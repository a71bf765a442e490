"""What several commands do alike."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_cream.results.architecture_file import Best

__all__ = ["be_quiet", "print_json", "summary"]


def be_quiet(options: argparse.Namespace, *, training: bool = False) -> None:
    """Silence the libraries below, unless the user wants to see all."""
    from nni_cream.runs.quiet_libraries import quiet_libraries

    if not options.debug:
        quiet_libraries(training=training)


def summary(best: Best) -> dict[str, Any]:
    """Return what ``--json`` prints of a chosen architecture."""
    content = {
        "best": best.choices,
        "cost": best.cost,
        "cost_name": best.cost_name,
        "one_shot_accuracy": best.accuracy,
    }
    if best.other_costs is not None:
        content["other_costs"] = best.other_costs
    for key in ("validation_accuracy", "test_accuracy"):
        if best.retrained is not None:
            content[key] = best.retrained[key]
    return content


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON, the last of a command's output."""
    print(json.dumps(content), flush=True)
