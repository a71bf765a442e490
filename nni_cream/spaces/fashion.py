"""Search space of the studies on Fashion-MNIST: 28x28 grey garments, minutes on one core."""

from __future__ import annotations

from collections.abc import Sequence

from nni_cream.spaces.blocks import OPERATIONS
from nni_cream.spaces.chain import ChainSpace

__all__ = ["FashionSpace"]


class FashionSpace(ChainSpace):
    """Seven layers, six operations each (279,936 architectures), whose accuracies alone differ by several points.

    The stem halves the image at once: 28x28 pixels are searched at 14x14, 7x7 and 4x4. The arguments are those of
    :class:`~nni_cream.spaces.ChainSpace`.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (12, 12, 24, 24, 24, 40, 40),
        num_classes: int = 10,
        input_channels: int = 1,
        operations: Sequence[str] = tuple(OPERATIONS),
    ) -> None:
        super().__init__(
            channels=channels,
            num_classes=num_classes,
            input_channels=input_channels,
            operations=operations,
            stem_stride=2,
        )
