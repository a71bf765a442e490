"""Counts multiply-adds by torch's own formulas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["OperationCounter", "unfused"]


class OperationCounter(TorchDispatchMode):
    """Counts by the formulas of torch's ``FlopCounterMode``, without its bookkeeping by module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: int = 0
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=output)
        elif _multiplies_weights(func, args):
            self.unknown.add(str(func._overloadpacket))
        return output


# These read weights without multiplying matrices, so a warning about them would be noise.
_FREE = {
    "embedding",
    "native_layer_norm",
    "native_group_norm",
    "native_batch_norm",
    "cat",
    "stack",
    "_to_copy",
    "copy_",
}


def _multiplies_weights(operation: Any, args: Any) -> bool:
    """Return whether an operation computes with a matrix of weights, beyond viewing or moving it."""
    if operation.is_view or torch.Tag.pointwise in operation.tags or operation._overloadpacket.__name__ in _FREE:
        return False
    return any(isinstance(item, nn.Parameter) and item.ndim > 1 for item in tree_leaves(args))


@contextmanager
def unfused(networks: nn.Module) -> Iterator[None]:
    """Run attention and recurrent layers inside as the matrix products that torch has formulas for."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in networks.modules())
    fast = torch.backends.mha.get_fastpath_enabled()
    # The fast path is a single fused operation, for which torch has no formula.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            # Both libraries run a recurrent layer as one operation; torch's own code runs matrix products.
            if recurrent:
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
