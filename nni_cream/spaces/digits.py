"""Search space of the main job: 8x8 grey digits, seconds on one core."""

from __future__ import annotations

from collections.abc import Sequence

from nni_cream.spaces.blocks import OPERATIONS
from nni_cream.spaces.chain import ChainSpace

__all__ = ["DigitsSpace"]


class DigitsSpace(ChainSpace):
    """Seven layers, six operations each (279,936 architectures), for images as small as 8x8 pixels.

    The arguments are those of :class:`~nni_cream.spaces.ChainSpace`.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (12, 12, 16, 16, 16, 24, 24),
        num_classes: int = 10,
        input_channels: int = 1,
        operations: Sequence[str] = tuple(OPERATIONS),
    ) -> None:
        super().__init__(
            channels=channels,
            num_classes=num_classes,
            input_channels=input_channels,
            operations=operations,
            stem_stride=1,
        )
