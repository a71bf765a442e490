"""A space whose layers say how long they take, and the clock that they move on: latencies without a stopwatch."""

from __future__ import annotations

from types import MappingProxyType

from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn


class Clock:
    """Stands still but for the layers."""

    now = 0.0

    def __call__(self) -> float:
        return Clock.now


class Taking(nn.Module):
    """Takes a time in seconds that grows with the pixels."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds

    def forward(self, x: Tensor) -> Tensor:
        Clock.now += self.milliseconds / 1000 * x.shape[0] * x.shape[2] * x.shape[3] / 64
        return x


class ClockedSpace(ModelSpace):
    """7 ms for 8x8 pixels around three layers, of which the last two have a fixed part of 2 ms and may be left out."""

    milliseconds = MappingProxyType({"fast": 1.0, "slow": 5.0})

    def __init__(self) -> None:
        super().__init__()
        self.stem = Taking(3)
        self.layer = LayerChoice([Taking(0), Taking(4)], label="layer")
        self.blocks = Repeat(self._block, (1, 3), label="depth")
        self.head = Taking(4)
        self.weight = nn.Linear(1, 10)

    def _block(self, index: int) -> nn.Module:
        choice = LayerChoice({name: Taking(ms) for name, ms in self.milliseconds.items()}, label=f"block_{index}")
        return nn.Sequential(Taking(2), choice) if index else choice

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.layer(self.stem(x))))
        return self.weight(x.mean((1, 2, 3))[:, None])


def expected(path: dict) -> float:
    """Seconds of a path for one image of 8x8 pixels, from the figures above."""
    total = 7.0 + (4.0 if str(path["layer"]) == "1" else 0.0)
    for index in range(path["depth"]):
        total += ClockedSpace.milliseconds[path[f"block_{index}"]] + (2.0 if index else 0.0)
    return total / 1000
