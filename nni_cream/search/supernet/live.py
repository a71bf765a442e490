"""What of a network its output depends on: a branch that no chosen input leads to is dead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nni_cream.evaluation_mode import evaluating
from nni_cream.rng import preserved_rng
from nni_cream.search.supernet.copies import copied
from nni_cream.search.supernet.data_flow import DataFlow, memory_of, watching
from nni_cream.search.supernet.outputs import tensors_in

__all__ = ["count_live_parameters", "live_parameters", "without_dead_branches"]


def live_parameters(network: nn.Module, *inputs: Any, **keywords: Any) -> set[str]:
    """Return the names of the parameters that the output depends on, in evaluation mode."""
    with evaluating(network), preserved_rng(0), watching(DataFlow()) as flow:
        read = flow.sources(network(*inputs, **keywords))
    return {name for name, weight in network.named_parameters() if memory_of(weight) in read}


def count_live_parameters(network: nn.Module, *inputs: Any, **keywords: Any) -> int:
    """Count the parameters that the output depends on; see :func:`live_parameters`."""
    live = live_parameters(network, *inputs, **keywords)
    return sum(weight.numel() for name, weight in network.named_parameters() if name in live)


def without_dead_branches(network: nn.Module, *inputs: Any) -> nn.Module:
    """Return a network with the same outputs, without the modules that only dead branches use.

    The network itself comes back where nothing is dead, or where a dead branch cannot be left out. Names of weights
    stay the same. The network is in evaluation mode.
    """
    try:
        dead = _dead_modules(network, live_parameters(network, *inputs))
        smaller = copied(network) if dead else network
        for name in dead:
            holder, _, last = name.rpartition(".")
            smaller.get_submodule(holder)._modules[last] = nn.Identity()
        same = _same_outputs(network, smaller, *inputs)
    except Exception:  # noqa: BLE001 - code after a dead branch may need its shape, or no input of these fits
        return network
    return smaller if same else network


def _dead_modules(network: nn.Module, live: set[str]) -> list[str]:
    """Return the outermost modules that hold parameters, none of them live."""
    dead: list[str] = []
    for name, module in network.named_modules():
        own = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
        if name and own and live.isdisjoint(own) and not any(name.startswith(f"{outer}.") for outer in dead):
            dead.append(name)
    return dead


def _same_outputs(network: nn.Module, smaller: nn.Module, *inputs: Any) -> bool:
    with torch.no_grad():
        outputs = [tensors_in(item.eval()(*inputs)) for item in (network, smaller)]
    return len(outputs[0]) == len(outputs[1]) and all(map(torch.equal, *outputs))
