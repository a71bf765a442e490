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
from nni_cream.results.trust import check_space_code

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_network", "build_path", "export_weights"]


def build_network(best: Best, *, trust_code: bool = False) -> nn.Module:
    """Build the chosen architecture, with weights from torch's global generator.

    Parameters
    ----------
    best
        The architecture.
    trust_code
        Whether its space may be a class that is not imported yet, ``package.module:Class``.

    Returns
    -------
    torch.nn.Module
        The network.

    Raises
    ------
    SpaceError
        If its space is not known here, or has other choices than the file.
    FileError
        If the class of its space would be imported, without ``trust_code``.
    """
    check_space_code(best.space, BEST, trust_code)
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


def export_weights(best: Best, folder: Path, out: Path, *, trust_code: bool = False) -> None:
    """Copy the one-shot weights of the chosen architecture, once it is sure that they fit it.

    Parameters
    ----------
    best
        The chosen architecture.
    folder
        Output folder of its search.
    out
        File for the ``state_dict``; read it with ``torch.load(out, weights_only=True)``.
    trust_code
        As in :func:`build_network`.

    Raises
    ------
    FileError
        If the folder holds no weights, or not those of this architecture.
    """
    import torch

    from nni_cream.training.weights import fit_weights, read_weights

    source = folder / WEIGHTS
    if not source.exists():
        raise FileError(
            f"{source}: there are no weights; expected those that `nni-cream search` writes. Trials of an experiment "
            "write none."
        )
    network = build_network(best, trust_code=trust_code)
    state = read_weights(source)
    fit_weights(network, state, source)
    check_costs(best, folder / BEST, network)
    with replacing(out) as temporary:
        torch.save(state, temporary)
