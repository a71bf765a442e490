"""The user's own Lightning module, hosted: it gets every hook, and its steps can be run at any time."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.sampling import RandomSamplingLightningModule
from torch import Tensor

from nni_cream.search.settings import SearchSettings
from nni_cream.search.supernet.supernet import Supernet, single_values_explained

__all__ = ["HostLightningModule", "call_step"]

_logger = logging.getLogger(__name__)
_WITHOUT_USERS_NAMES = ("pytorch_lightning.", "lightning.", "nni.", "nni_cream.")  # packages of callbacks
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


class HostLightningModule(RandomSamplingLightningModule):
    """NNI's one-shot wrapper around the user's module, with every hook of the fit loop forwarded.

    Loss, optimizers, schedulers, ``log`` calls, clipping, batch transfer and validation hooks behave as if Lightning
    ran the user's module itself. NNI's base class forwards about half of the hooks; this class adds the others.
    Attributes pass through in both directions, since callbacks get this module in the place of the user's.
    """

    supernet: Supernet  # made when the training starts
    _hosting = False  # whether attributes that this class does not have are the user's

    def __init__(self, training_module: pl.LightningModule, settings: SearchSettings) -> None:
        super().__init__(training_module)
        self.settings = settings
        self._loss: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the user's module: callbacks see it through this one (``pl_module.backbone``)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            # Parts that are made when the training starts are never the user's.
            if "training_module" not in modules or _declared(type(self), name):
                raise
            return getattr(modules["training_module"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Write an attribute where :meth:`__getattr__` reads it; a new public one is the user's."""
        if name not in self.__dict__ and self._hosting and self._is_users(name):
            setattr(self.training_module, name, value)
        else:
            super().__setattr__(name, value)

    def _is_users(self, name: str) -> bool:
        registered = name in self._parameters or name in self._buffers or name in self._modules
        if registered or hasattr(type(self), name) or _declared(type(self), name):
            return False
        return not name.startswith("_") or hasattr(self.training_module, name)

    def _tell_of_hidden_attributes(self) -> None:
        """Warn of attributes that the user's callbacks cannot see, since the search has one of the same name."""
        callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
        own = [type(item).__name__ for item in callbacks if not type(item).__module__.startswith(_WITHOUT_USERS_NAMES)]
        plain, module = set(dir(LightningModule())), self.training_module
        hidden = [
            name
            for name in sorted(set(dir(module)) - plain)
            if not name.startswith("_") and (name in vars(self) or hasattr(type(self), name))
        ]
        if own and hidden:
            _logger.warning(
                "%s has the attribute %s, which the search has, too; expected another name, since the callback %s gets "
                "the search's. Rename it, or read it from pl_module.training_module",
                type(module).__name__,
                " and ".join(hidden),
                own[0],
            )

    @property
    def hparams(self) -> Any:
        """The hyperparameters of the user's module."""
        return self.training_module.hparams

    def _predict(self, inputs: Tensor) -> Any:
        """Run the active path: the user's ``forward`` if the module has one, else the model."""
        # A user's forward may normalise or reshape; skipping it would score another function than the trained one.
        own = type(self.training_module).forward is not pl.LightningModule.forward
        with single_values_explained(
            f"scoring.images is {self.settings.scoring.images}; expected at least 2 validation images of each shape. "
            "Give more, or pad them to one shape"
        ):
            return self.training_module(inputs) if own else self.supernet.space(inputs)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return the trainer's precision context."""
        # Lightning enters this context around steps but not around hooks, where scoring and the meta update run.
        plugin = getattr(self.trainer, "precision_plugin", None)
        return nullcontext() if plugin is None else plugin.forward_context()

    def _loss_scale(self) -> float:
        """Return the factor for losses that are differentiated in 16-bit floats; 1 in other formats."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # Lightning's scaler rises until a gradient overflows; a sixteenth leaves room for other images' gradients.
        return 1.0 if scaler is None else max(1.0, float(scaler.get_scale()) / 16)

    def _task_loss(self, batch: Any) -> Tensor:
        losses: list[Tensor] = []

        def keep(loss: Tensor) -> Tensor:
            losses.append(loss)
            return loss

        self._with_loss(call_step(self.training_module.training_step, batch, 0), keep)
        return losses[0]

    def _with_loss(self, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """Change the loss in what ``training_step`` returned: a tensor, a dict with ``loss``, or ``None`` to skip."""
        if output is None:
            self._loss = None
            return None
        if isinstance(output, Mapping):
            self._loss = change(output["loss"])
            return {**output, "loss": self._loss}
        self._loss = change(output)
        return self._loss

    def transferred(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Move batches where ``validation_step`` would get them, the user's transfer hooks included."""
        state = self.trainer.state.stage
        # Scoring must see the tensors that validation would: same device, same precision.
        for batch in batches:
            self.trainer.validating = True  # the hooks may ask
            try:
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self._on_before_batch_transfer(batch, dataloader_idx=0)
                batch = self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            finally:
                self.trainer.state.stage = state
            yield batch


def _declared(kind: type, name: str) -> bool:
    return any(name in inspect.get_annotations(base) for base in kind.__mro__)


for _name in _HOOKS:
    setattr(HostLightningModule, _name, _forward(_name))


def call_step(step: Callable[..., Any], batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
    """Call a user's ``training_step`` or ``validation_step`` with the arguments that it takes."""
    parameters = inspect.signature(step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return step(batch, batch_idx)
    arguments = (batch, batch_idx, dataloader_idx)
    return step(*arguments[: len(parameters)])
