"""Counts the moments at which the host waits for numbers of the device, on a CPU as on a GPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_READS = frozenset(
    getattr(Tensor, name)
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")
)


class HostReads(TorchFunctionMode):
    """Inside, ``places`` gets the line of the code that reads a number of a tensor, one a read.

    On a GPU each such read stalls the queue; on a CPU it costs nothing, so that only counting finds it.

    Parameters
    ----------
    device
        Type of the device whose tensors count.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.places: list[str] = []
        self._device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READS and args[0].device.type == self._device:
            frame = traceback.extract_stack(limit=2)[0]
            # An optimizer's counters of steps are on the CPU wherever the weights are.
            if "torch/optim/" not in frame.filename:
                self.places.append(f"{frame.filename}:{frame.lineno} {frame.name}")
        return func(*args, **(kwargs or {}))
