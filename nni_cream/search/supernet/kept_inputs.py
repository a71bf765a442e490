"""The inputs of a network, which other paths and teachers get after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nni_cream.errors import SpaceError
from nni_cream.search.supernet.outputs import tensors_in

__all__ = ["check_kept", "kept", "versions"]


def versions(inputs: Any) -> list[int]:
    """Return how often each tensor of the inputs was written to so far."""
    # Tensors made under inference_mode have no count.
    return [0 if item.is_inference() else item._version for item in tensors_in(inputs)]


def check_kept(inputs: Any, before: list[int]) -> None:
    """Raise SpaceError if a tensor of the inputs was written to since ``before``, their :func:`versions`."""
    if versions(inputs) != before:
        raise SpaceError(
            "forward changes its input in place; expected the input as it was, since teachers and other paths get the "
            "same one. Write x = x - mean instead of x.sub_(mean), and give a first ReLU inplace=False"
        )


@contextmanager
def kept(inputs: Any) -> Iterator[None]:
    """Raise SpaceError if the inputs are written to inside."""
    before = versions(inputs)
    yield
    check_kept(inputs, before)
