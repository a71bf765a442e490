"""Scoring when memory runs out: fewer images at once where that changes no score, else a clear error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from nni_cream.errors import SearchError
from nni_cream.search.scoring.validation_subset import Samples, split_samples
from nni_cream.search.supernet.outputs import main_output

__all__ = ["PredictInMemory"]

_CPU_MESSAGES = ("can't allocate memory", "not enough memory")  # of torch's allocator; it has no class of its own
_logger = logging.getLogger(__name__)


class PredictInMemory:
    """Runs the active path, on half the images at once whenever memory runs out.

    A network with BatchNorm is not split: it is scored with the statistics of each chunk, so other chunks would give
    other scores than those on the board.

    Parameters
    ----------
    predict
        Runs the active path: inputs (n, ...) -> output.
    network
        All modules that ``predict`` may run.
    """

    def __init__(self, predict: Callable[[Samples], Any], network: nn.Module) -> None:
        self._predict = predict
        self._splits = not any(isinstance(module, _BatchNorm) for module in network.modules())
        self._parts = 1  # what did not fit once is not tried again

    def __call__(self, inputs: Samples) -> Any:
        """Return the output for all inputs; raise SearchError if there is no memory for it."""
        images = len(tree_leaves(inputs)[0])
        while True:
            problem = ""
            try:
                return self._in_parts(inputs, min(self._parts, images))
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                problem = str(error).partition("\n")[0]
            # Here the error is gone, and with it the tensors of the failed pass.
            self._halve(images, problem)

    def _in_parts(self, inputs: Samples, parts: int) -> Any:
        if parts == 1:
            return self._predict(inputs)
        outputs: list[Tensor] = [main_output(self._predict(part)) for part in split_samples(inputs, parts)]
        return torch.cat(outputs)

    def _halve(self, images: int, problem: str) -> None:
        if not self._splits or self._parts >= images:
            reason = "" if self._splits else ", and BatchNorm keeps them together"
            raise SearchError(
                f"memory ran out while a path was scored on {images} images at once{reason} ({problem}). Lower the "
                "batch size, of which twice as many images are scored at once, or scoring.images"
            )
        self._parts *= 2
        _logger.warning(
            "memory ran out while a path was scored on %d images; expected room for them. They are scored in %d parts "
            "from now on, which changes no score",
            images,
            self._parts,
        )


def _out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in _CPU_MESSAGES)
