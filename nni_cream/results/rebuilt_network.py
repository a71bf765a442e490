"""The network that an architecture file describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.errors import FileError
from nni_cream.files import replacing
from nni_cream.results.architecture_file import Best
from nni_cream.results.cost_check import check_costs
from nni_cream.results.output_folder import BEST, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_network", "build_path", "export_weights"]


def build_network(best: Best) -> nn.Module:
    """Build the chosen architecture, with weights from torch's global generator.

    Raises ``SpaceError`` if its space is not known here, or has other choices than the file.
    """
    return build_path(best.space, best.choices)


def build_path(space: Mapping[str, Any], choices: Mapping[str, Any]) -> nn.Module:
    """Build one architecture of a space with new weights, drawn from torch's global generator.

    Parameters
    ----------
    space
        ``name`` and ``arguments`` of the search space.
    choices
        The path, as plain JSON values.

    Returns
    -------
    torch.nn.Module
        The network.

    Raises
    ------
    SpaceError
        If the space is not known here, or has other choices.
    """
    from nni_cream import spaces
    from nni_cream.search.paths.choices import decode_path
    from nni_cream.strategy import CreamStrategy

    def make() -> Any:
        return spaces.create(space["name"], **space["arguments"])

    return CreamStrategy().build(make, lambda made: decode_path(choices, made.simplify()))


def export_weights(best: Best, folder: Path, out: Path) -> None:
    """Copy the one-shot weights of the chosen architecture, once it is sure that they fit it.

    Parameters
    ----------
    best
        The chosen architecture.
    folder
        Output folder of its search.
    out
        File for the ``state_dict``; read it with ``torch.load(out, weights_only=True)``.

    Raises
    ------
    FileError
        If the folder holds no weights, or not those of this architecture.
    """
    import pickle

    import torch

    source = folder / WEIGHTS
    if not source.exists():
        raise FileError(
            f"{source}: there are no weights; expected those that `nni-cream search` writes. Trials of an experiment "
            "write none."
        )
    try:
        state = torch.load(source, weights_only=True, map_location="cpu")
        network = build_network(best)
        network.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise FileError(f"{source}: these are not the weights of {BEST}: {error}") from error
    check_costs(best, folder / BEST, network)
    with replacing(out) as temporary:
        torch.save(state, temporary)
