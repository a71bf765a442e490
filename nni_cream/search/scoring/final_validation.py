"""The end of a search: validates the board's entries with BatchNorm statistics of their own, on all validation images.

Under shared weights, BatchNorm's running statistics mix all paths, and a score uses only a part of the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_cream.errors import SearchError
from nni_cream.rng import preserved_rng
from nni_cream.search.board import BoardEntry
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.scoring.joined import joined
from nni_cream.search.scoring.scores import add_sums
from nni_cream.search.scoring.validation_subset import split_batch
from nni_cream.search.supernet.copies import copied
from nni_cream.search.supernet.outputs import main_output
from nni_cream.search.supernet.supernet import single_values_explained

if TYPE_CHECKING:
    from nni_cream.search.loop.step import CreamLightningModule

__all__ = ["Finalist", "finalise", "validate_path"]


@dataclass(frozen=True)
class Finalist:
    """A board entry after its final validation.

    Parameters
    ----------
    entry
        With its ``validated`` accuracy.
    network
        The architecture with the supernet's (averaged) weights and BatchNorm statistics of its own, on the CPU.
    """

    entry: BoardEntry
    network: nn.Module


def finalise(
    module: CreamLightningModule,
    training_batches: Iterable[Any],
    validation_batches: Iterable[Any],
    images: int,
) -> tuple[Finalist, ...]:
    """Validate the board's entries on copies, reorder the board by the outcome, and return all, best first.

    Where the predictor proposes and is informed, the outcome is joined with what it predicts (``BoardEntry.estimate``).

    ``images`` training images at least, in whole batches, estimate BatchNorm's statistics. The supernet is unchanged.
    Raises SearchError if the board is empty, there are no validation images, or an accuracy is not finite, and
    SpaceError if the network of the best entry is not the supernet's path.
    """
    entries = module.board.entries
    if not entries:
        raise SearchError(
            "the board is empty; expected an entry, but the training ended within its warm-up. Search for more epochs "
            "or warm up for fewer."
        )
    paths = [dict(entry.path) for entry in entries]
    module.verify(paths[:1], validation_batches)
    with preserved_rng(module.settings.seed), torch.no_grad():
        networks, accuracies, noise = _validated(module, paths, training_batches, validation_batches, images)
    estimates = _estimates(module, paths, accuracies, noise)
    keys = [entry.key for entry in entries]
    module.board.validate(dict(zip(keys, accuracies, strict=True)), dict(zip(keys, estimates, strict=False)))
    # The board has a new order now: networks are found by key, not by place.
    found = {entry.key: network.cpu() for entry, network in zip(entries, networks, strict=True)}
    return tuple(Finalist(entry, found[entry.key]) for entry in module.board.entries)


def _estimates(
    module: CreamLightningModule, paths: Sequence[Path], accuracies: Sequence[float], noise: float | None
) -> list[float]:
    """Join accuracies and predictions; none where either's noise is not known."""
    if noise is None or not module.proposals.informed:
        return []
    return [*map(float, joined(accuracies, noise, module.predictor.predict(paths)))]


def validate_path(
    module: CreamLightningModule,
    path: Path,
    training_batches: Iterable[Any],
    validation_batches: Iterable[Any],
    images: int,
) -> float:
    """Return the score of any path of a trained supernet, measured as :func:`finalise` does."""
    with preserved_rng(module.settings.seed), torch.no_grad():
        return _validated(module, [path], training_batches, validation_batches, images)[1][0]


def _validated(
    module: CreamLightningModule,
    paths: Sequence[Path],
    training_batches: Iterable[Any],
    validation_batches: Iterable[Any],
    images: int,
) -> tuple[list[nn.Module], list[float], float | None]:
    """Return networks of the paths with statistics of their own, their scores, and the variance of a score's noise."""
    handed_out = [_hand_out(module, path) for path in paths]
    # All entries in one pass: images are read and augmented once, and all see the same ones.
    together = _Together(runnable for _, runnable in handed_out).to(module.trainer.strategy.root_device)
    with single_values_explained(
        "a training batch holds a single image; expected at least two. Choose a larger batch size"
    ):
        _recalibrate(together, (split_batch(batch)[0] for batch in _enough(module, training_batches, images)))
    return [network for network, _ in handed_out], *_validate(module, together.eval(), validation_batches)


class _Together(nn.Module):
    """Several networks on the same input."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        return [main_output(network(inputs)) for network in self.networks]


def _recalibrate(networks: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Give BatchNorm the mean and variance over all inputs, but where it does not train: the user keeps that one."""
    norms = [module for module in networks.modules() if isinstance(module, _BatchNorm)]
    kept = [norm for norm in norms if not norm.training]
    momenta = {norm: norm.momentum for norm in norms if norm.training}
    if not momenta:
        return
    for norm in momenta:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    networks.train()
    for norm in kept:
        norm.eval()
    for batch in inputs:
        networks(batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _hand_out(module: CreamLightningModule, path: Path) -> tuple[nn.Module, nn.Module]:
    """Return a path's network, and a module that gives its logits."""
    host = module.training_module
    with nullcontext() if module.average is None else module.average.applied():
        network = module.supernet.freeze(path)
        if type(host).forward is pl.LightningModule.forward:
            # Only a forward of the user's own needs its module around the network.
            return network, network
        # What the copy is to share with the original: the search and the trainer, which know the supernet, too.
        shared = {id(item): item for item in (module, module.trainer)}
        with module.supernet.in_training_modes():
            return network, copied(host, {**shared, id(module.supernet.space): network})


def _enough(module: CreamLightningModule, batches: Iterable[Any], images: int) -> Iterator[Any]:
    seen = 0
    for batch in module.transferred(batches):
        yield batch
        seen += len(split_batch(batch)[1])
        if seen >= images:
            return


def _validate(
    module: CreamLightningModule, together: _Together, batches: Iterable[Any]
) -> tuple[list[float], float | None]:
    score, seen = module.settings.score, 0
    sums: list[list[float]] = [[] for _ in together.networks]
    for batch in module.transferred(batches):
        inputs, targets = split_batch(batch)
        outputs: Sequence[Tensor] = together(inputs)
        seen += len(targets)
        sums = [add_sums(before, score.sums(output, targets)) for before, output in zip(sums, outputs, strict=True)]
    if not seen:
        raise SearchError("the validation loader yields no images; expected some for the final validation.")
    scores = [score.of(total, seen) for total in sums]
    # NaN has no place in an order: the best entry would be an arbitrary one.
    if not all(map(math.isfinite, scores)):
        raise SearchError(f"the scores of the final validation are {scores}; expected finite numbers.")
    noises = [score.noise(total, seen) for total in sums]
    return scores, None if None in noises else sum(noises) / len(noises)
