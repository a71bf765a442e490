"""The tensor to work with among all that a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["main_output"]


def main_output(output: Any) -> Tensor:
    """Pick the main tensor: the output itself, the first item of a sequence, or ``logits`` of a mapping."""
    if isinstance(output, Mapping):
        output = output["logits"]
    # The first item may itself hold several tensors.
    while isinstance(output, list | tuple):
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returned {type(output).__name__}; expected a tensor, tuple or dict")
    return output
