"""Counts multiply-adds by torch's own formulas."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import flop_registry

from nni_cream.search.supernet.data_flow import DataFlow, watching
from nni_cream.search.supernet.outputs import tensors_in

__all__ = ["counting", "holds_recurrent", "of_one", "unfused"]


def of_one(operations: Callable[[int], int]) -> float:
    """Return the multiply-adds of one sample, from the operations of batches of two, four and, if need be, six.

    Work that does not grow with the batch counts once. Batches of one are not run: BatchNorm refuses one value a
    channel, and ``squeeze`` takes the batch for a dimension to drop. Networks that pair their samples need even ones.
    """
    two, four = operations(2), operations(4)
    if four == 2 * two:
        return two / 4  # two operations a multiply-add, two samples
    # The parabola through three points: it also holds samples that are compared with each other.
    return (15 * two - 10 * four + 3 * operations(6)) / 16


class OperationCounter(DataFlow):
    """Counts by the formulas of torch's ``FlopCounterMode``, without its bookkeeping by module.

    Formulas of our own follow for products of vectors and for distances, for which torch has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unknown: set[str] = set()

    def _decomposes(self, func: Any) -> bool:
        return _formula(func._overloadpacket) is None and super()._decomposes(func)

    def _count(self, func: Any, args: Any, kwargs: Any, output: Any) -> int:
        count = self._of_real_numbers(func, args, kwargs, output)
        # torch's formulas do not look at the kind of numbers: a product of two complex ones is four of real ones.
        return 4 * count if count and any(item.is_complex() for item in tensors_in(output)) else count

    def _of_real_numbers(self, func: Any, args: Any, kwargs: Any, output: Any) -> int:
        packet = func._overloadpacket
        formula = _formula(packet)
        if formula is not None:
            return int(formula(*args, **kwargs, out_val=output))
        if (own := _OWN.get(packet)) is not None and (count := own(*args)) is not None:
            return 2 * count
        if _multiplies_weights(func, args):
            self.unknown.add(str(packet))
        return 0


class _VectorProducts(TorchFunctionMode):
    """Counts products that torch runs as element-wise ones, which a dispatch mode cannot recognise."""

    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _OUTER:
            self._counter.note(2 * output.numel(), (args, output), output)
        elif func is torch.linalg.vecdot:
            self._counter.note(2 * torch.broadcast_tensors(*args[:2])[0].numel(), (args, output), output)
        return output


@contextmanager
def counting() -> Iterator[OperationCounter]:
    """Count the operations inside."""
    with watching(OperationCounter()) as counter, _VectorProducts(counter):
        yield counter


_aten = torch.ops.aten
_OUTER = {torch.outer, torch.ger, torch.kron, Tensor.outer, Tensor.ger, Tensor.kron}
_OWN: dict[Any, Callable[..., int | None]] = {
    _aten.mv: lambda matrix, vector: matrix.numel(),
    _aten.dot: lambda first, second: first.numel(),
    _aten.vdot: lambda first, second: first.numel(),
    _aten._euclidean_dist: lambda first, second: first.numel() * second.shape[-2],
    # Other distances than Euclidean ones multiply nothing, or take powers.
    _aten._cdist_forward: lambda first, second, p, *_: first.numel() * second.shape[-2] if p == 2 else None,
    _aten.conv_tbc: lambda x, weight, bias, pad=0: (
        (x.shape[0] + 2 * pad - len(weight) + 1) * x.shape[1] * weight.numel()
    ),
}
for _packet in (_aten.addmv, _aten.addmv_):
    _OWN[_packet] = lambda start, matrix, vector: matrix.numel()
for _packet in (_aten.addr, _aten.addr_):
    _OWN[_packet] = lambda start, first, second: first.numel() * second.numel()
for _packet in (_aten.addbmm, _aten.addbmm_):
    _OWN[_packet] = lambda start, first, second: first.numel() * second.shape[-1]
_IN_PLACE = {_aten.addmm_: _aten.addmm, _aten.baddbmm_: _aten.baddbmm}


def _formula(packet: Any) -> Any:
    return flop_registry.get(_IN_PLACE.get(packet, packet))


# These read weights without multiplying matrices, so a warning about them would be noise.
_FREE = {
    "embedding",
    "_embedding_bag",
    "native_layer_norm",
    "native_group_norm",
    "native_batch_norm",
    "cat",
    "stack",
    "_to_copy",
    "copy_",
    "index",
    "index_select",
    "gather",
    "repeat",
    "roll",
    "sum",
    "mean",
    "std",
    "var",
    "var_mean",
    "linalg_vector_norm",
    "renorm",
    "_weight_norm_interface",
    "constant_pad_nd",
    "_unsafe_view",
    "tril",
    "triu",
    "_fused_moving_avg_obs_fq_helper",
}


def _multiplies_weights(operation: Any, args: Any) -> bool:
    """Return whether an operation computes with a matrix of weights, beyond viewing or moving it."""
    return not _moves(operation) and any(map(_is_matrix_of_weights, tensors_in(args)))


@functools.cache
def _moves(operation: Any) -> bool:
    pointwise = torch.Tag.pointwise in operation.tags
    return bool(operation.is_view or pointwise or operation._overloadpacket.__name__ in _FREE)


def _is_matrix_of_weights(item: Tensor) -> bool:
    # A layer may work on a view of its weights.
    weight = item if item._base is None else item._base
    return isinstance(weight, nn.Parameter) and weight.ndim > 1


def holds_recurrent(network: nn.Module) -> bool:
    """Return whether a network has a recurrent layer."""
    return any(isinstance(module, nn.RNNBase) for module in network.modules())


@contextmanager
def unfused(recurrent: bool) -> Iterator[None]:
    """Run attention, and recurrent layers if there are any, as the matrix products that torch has formulas for."""
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
