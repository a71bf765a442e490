"""Values of all processes of one training."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

__all__ = ["of_every_process"]

_Value = TypeVar("_Value")


def of_every_process(value: _Value) -> list[_Value]:
    """Return the value that each process gives, in the order of their ranks; all processes must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
