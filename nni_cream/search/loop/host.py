"""Hands the hooks of Lightning on to the user's own module, all of them; NNI's base class hands on about half."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.sampling import RandomSamplingLightningModule

__all__ = ["ForwardingLightningModule", "call_step"]

_HOOKS = (
    "prepare_data",
    "configure_callbacks",
    "configure_model",
    "on_validation_model_zero_grad",
    "on_validation_model_eval",
    "on_validation_model_train",
    "on_validation_epoch_start",
    "on_validation_epoch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_before_zero_grad",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
    "optimizer_step",
    "optimizer_zero_grad",
    "lr_scheduler_step",
    "backward",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)


def _forward(name: str) -> Callable[..., Any]:
    original = getattr(pl.LightningModule, name)

    def hook(self: RandomSamplingLightningModule, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.training_module, name)(*args, **kwargs)

    hook.__name__ = name
    hook.__doc__ = f"Call ``{name}`` of the user's module."
    # Lightning looks at a hook's signature to decide what to pass.
    hook.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return hook


class ForwardingLightningModule(RandomSamplingLightningModule):
    """NNI's one-shot wrapper around the user's module, with every hook of the fit loop handed on.

    Loss, optimizers, schedulers, ``log`` calls, gradient clipping, batch transfer and validation hooks of the user's
    module behave as if Lightning ran that module itself. ``setup``, ``configure_optimizers`` and the hooks of the
    training loop are handed on by NNI's base class.
    """


for _name in _HOOKS:
    setattr(ForwardingLightningModule, _name, _forward(_name))


def call_step(step: Callable[..., Any], batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
    """Call a user's ``training_step`` or ``validation_step`` with those arguments that it takes.

    Parameters
    ----------
    step
        Bound method with the parameters ``batch``, and optionally ``batch_idx`` and ``dataloader_idx``.
    batch
        The batch.
    batch_idx
        Its index in the epoch.
    dataloader_idx
        Index of the loader where there are several.

    Returns
    -------
    Any
        What the step returns.
    """
    parameters = inspect.signature(step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return step(batch, batch_idx)
    arguments = (batch, batch_idx, dataloader_idx)
    return step(*arguments[: len(parameters)])
