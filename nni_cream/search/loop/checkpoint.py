"""The content of a checkpoint: everything that a resumed search needs to equal one that was never interrupted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nni.mutable.annotation import Constraint
from torch.utils._pytree import tree_map

from nni_cream.errors import SearchError
from nni_cream.rng import restore_rng, rng_state
from nni_cream.search.loop.finite_checks import check_weights
from nni_cream.search.loop.image_order import (
    epoch_is_over,
    gradients_pending,
    in_step,
    loader_states,
    restore_loaders,
    settle_step,
)
from nni_cream.search.supernet.supernet import Supernet

if TYPE_CHECKING:
    from nni_cream.search.loop.setup import PreparedLightningModule

__all__ = ["read_state", "restore_generators", "restore_parts", "save_state"]

_STATE = "nni_cream"
_FORMAT = 1
_logger = logging.getLogger(__name__)


def save_state(module: PreparedLightningModule, checkpoint: dict[str, Any]) -> None:
    """Add the board, the meta network, the sampler and every random number generator to Lightning's checkpoint."""
    # A useless checkpoint must not replace a good one.
    check_weights(module.training_module.parameters(), module.steps)
    half = in_step(module.trainer)
    if not half:
        # Callbacks may save between the optimizer step and its end; the saved state is that after the whole step.
        module._finish_step()
        settle_step(checkpoint, module.trainer)
        if epoch_is_over(module.trainer):
            module._finish_epoch()
    checkpoint[_STATE] = {
        "format": _FORMAT,
        "space": _space_outline(module.supernet),
        "settings": module.settings.outline(),
        "board": module.board.state_dict(),
        "matcher": module.matcher.state_dict(),
        "paths": module.paths.state_dict(),
        "sampler": module.sampler.state_dict(),
        "cost": module.costs.state_dict() if module._parts_ready else {},
        "average": None if module.average is None else module.average.state_dict(),
        "rng": module.ranks.gather(rng_state),
        "loaders": loader_states(module.trainer),
        "order": module.ranks.gather(module._order.state_dict),
        "counts": [module._step, module._scored, module._admitted],
        "tally": module.tally.state_dict(),
        "window": module.ranks.gather(module.window.state_dict),  # each rank has the losses of its own images
        "predictor": module.predictor.state_dict(),
        "proposals": module.proposals.state_dict(),
        # Costs and parts are built from the first batch, which a resumed search would see in its middle.
        "example": None if module._example is None else tree_map(lambda item: item.cpu(), module._example),
        "batch_size": module._batch_size,
        "open_epoch": module._open_epoch,
        "half_a_step": half or gradients_pending(module.trainer),
    }


def read_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the search's state in a checkpoint; raise SearchError if no Cream search wrote it."""
    if _STATE not in checkpoint:
        raise SearchError(
            f"the checkpoint holds no state {_STATE!r}; expected a checkpoint of a Cream search. Resume from one, or "
            "start anew."
        )
    state: Mapping[str, Any] = checkpoint[_STATE]
    if state["format"] != _FORMAT:
        raise SearchError(
            f"the checkpoint's format is {state['format']}; expected {_FORMAT}. Resume with the version of nni_cream "
            "that wrote it, or start again with --force."
        )
    return state


def restore_parts(module: PreparedLightningModule, state: Mapping[str, Any]) -> None:
    """Restore all parts but the costs and the generators; raise SearchError if space or settings differ."""
    # The order matters: without the right space, nothing below could be decoded.
    if state["space"] != _space_outline(module.supernet):
        raise SearchError(
            "the checkpoint is of another search space; expected one of this space. Resume with the space it was made "
            "with."
        )
    module.settings.check_same(state["settings"])
    module.board.load_state_dict(state["board"], module.supernet.decode)
    module.matcher.load_state_dict(state["matcher"])
    module.paths.load_state_dict(state["paths"])
    module.sampler.load_state_dict(state["sampler"])
    module._step, module._scored, module._admitted = state["counts"]
    if module.average is not None:
        module.average.load_state_dict(state["average"])
    module.tally.load_state_dict(state["tally"])
    module.window.load_state_dict(module.ranks.own(state["window"]), module.supernet.decode, module.device)
    module.predictor.load_state_dict(state["predictor"])
    module.proposals.load_state_dict(state["proposals"], module.supernet.decode)
    if state["half_a_step"]:
        _logger.warning(
            "The checkpoint was written within an optimizer step, after %d batches, and lacks the gradients of that "
            "step. The search will differ from an uninterrupted one.",
            module._step,
        )


def restore_generators(module: PreparedLightningModule, state: Mapping[str, Any]) -> None:
    """Put every random number generator where the checkpoint left it."""
    restore_rng(module.ranks.own(state["rng"]))
    # A loader with a generator of its own does not follow the global ones.
    restore_loaders(state["loaders"], module.trainer)


def _space_outline(supernet: Supernet) -> dict[str, Any]:
    # Constraints choose nothing; labels and numbers of choices are what a path's meaning depends on.
    return {
        str(label): len(mutable.values)
        for label, mutable in supernet.mutables.items()
        if not isinstance(mutable, Constraint)
    }
