"""Whether the costs in an architecture's file are those of its choices; a file may have been edited."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.data.outlines import image_shape
from nni_cream.errors import FileError
from nni_cream.results.architecture_file import Best
from nni_cream.results.output_folder import LATENCIES, PARETO

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_costs", "count_macs"]

_TOLERANCE = 1e-6  # relative; a cost is written with all its digits


def check_costs(best: Best, place: Path, network: nn.Module, images: Any = None) -> None:
    """Refuse an architecture whose file gives it other costs than it has.

    Multiply-adds and parameters are counted. A latency is looked up in the table of the search, if its folder holds
    one. Other measurements and a user's functions are not repeated.

    Parameters
    ----------
    best
        The architecture.
    place
        Its file.
    network
        Built of it.
    images
        The data set at hand, if any: it gives the shape of an image where it is the file's and not known by its name.

    Raises
    ------
    FileError
        If a cost differs, with both values.
    """
    shape = _shape(best, images)
    for key, name, value in (
        ("cost", best.cost_name, best.cost),
        *((f"other_costs.{name}", name, value) for name, value in (best.other_costs or {}).items()),
    ):
        expected = _computed(name, best, place, network, shape)
        if expected is not None and not math.isclose(value, expected, rel_tol=_TOLERANCE):
            raise FileError(
                f"{place}: {key} is {value!r}; expected {expected!r}, the {name} of its choices. The file was changed "
                "since it was written: restore it, or search again."
            )


def _shape(best: Best, images: Any) -> tuple[int, int, int] | None:
    shape = image_shape(best.data["name"], best.data["arguments"])
    same = getattr(images, "fingerprint", None) == best.data.get("fingerprint", "")
    return tuple(images.input_shape) if shape is None and same else shape


def _computed(
    name: str, best: Best, place: Path, network: nn.Module, shape: tuple[int, int, int] | None
) -> float | None:
    if name == "params":
        return _count_params(network, shape)
    if name == "macs" and shape is not None:
        try:
            return count_macs(network, shape)
        except Exception as error:  # whatever a user's module raises
            raise FileError(
                f"{place}: data has images of shape {shape}, which the network of space and choices does not take "
                f"({type(error).__name__}: {error}). The file was changed since it was written: restore it, or search "
                "again."
            ) from error
    if name == "latency" and shape is not None:
        return _latency(best, place, shape)
    return None


def _count_params(network: nn.Module, shape: Sequence[int] | None) -> float | None:
    """Count the parameters that the output depends on; ``None`` if this needs the shape of an image."""
    import torch
    from nni.nas.nn.pytorch.cell import Cell
    from nni.nas.nn.pytorch.choice import ChosenInputs

    from nni_cream.search.supernet.live import count_live_parameters

    if not any(isinstance(module, ChosenInputs | Cell) for module in network.modules()):  # no branch can be dead
        return float(sum(weight.numel() for weight in network.parameters()))
    return None if shape is None else float(count_live_parameters(network, torch.zeros(2, *shape)))


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> float:
    """Count the multiply-adds of one image as a search does."""
    import torch

    from nni_cream.rng import preserved_rng
    from nni_cream.search.cost.macs import counting, holds_recurrent, of_one, unfused
    from nni_cream.training.measurement import evaluating

    with preserved_rng(), evaluating(network) as device, unfused(holds_recurrent(network)):

        def operations(size: int) -> int:
            with counting() as counter:
                output = network(torch.zeros(size, *input_shape, device=device))
            return counter.operations(output)

        return of_one(operations)


def _latency(best: Best, place: Path, shape: tuple[int, int, int]) -> float | None:
    folder = place.parent.parent if place.parent.name == PARETO else place.parent
    if not (folder / LATENCIES).exists():
        return None
    from nni_cream import spaces
    from nni_cream.from_config import load_latencies
    from nni_cream.rng import preserved_rng
    from nni_cream.search import Supernet
    from nni_cream.strategy import CreamStrategy

    with preserved_rng():
        space = spaces.create(best.space["name"], **best.space["arguments"])
    supernet = Supernet(CreamStrategy(board_size=1).mutate_model(space))
    return load_latencies(folder / LATENCIES).costs(supernet, shape)(supernet.decode(best.choices))
