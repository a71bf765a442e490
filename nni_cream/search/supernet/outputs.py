"""The tensors to work with among all that a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from nni_cream.errors import SearchError

__all__ = ["main_output", "tensors_in"]

_PLAIN = (int, float, bool, str, type(None))
_NAMES = ("logits", "out")  # of Hugging Face's networks, of torchvision's for segmentation


def main_output(output: Any) -> Tensor:
    """Pick the main tensor: the output itself, the first of a sequence, or ``logits`` or ``out`` of a mapping.

    Raises SearchError, with the names found, if there is none.
    """
    # What is picked may itself hold several tensors.
    while not isinstance(output, Tensor):
        if isinstance(output, list | tuple) and output:
            output = output[0]
            continue
        items = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
        name = next((name for name in _NAMES if name in items), None)
        if name is None:
            found = f" with {[*items]}" if items else ""
            raise SearchError(
                f"the network returned a {type(output).__name__}{found}; expected a tensor, a sequence that begins "
                "with one, or a mapping with 'logits' or 'out'. Return one of these from forward"
            )
        output = items[name]
    return output


def tensors_in(values: Any) -> list[Tensor]:
    """Return all tensors of nested lists, tuples and mappings."""
    if isinstance(values, Tensor):
        return [values]
    if type(values) in (list, tuple):  # most of all; the general way takes three times as long
        return [tensor for item in values for tensor in tensors_in(item)]
    if type(values) in _PLAIN:
        return []
    return [item for item in tree_leaves(values) if isinstance(item, Tensor)]
