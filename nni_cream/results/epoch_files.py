"""The files that a training adds to at the end of each epoch, and what an interruption may have left of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from nni_cream.errors import ConfigError, FileError
from nni_cream.files import append_line, write_text
from nni_cream.json_reader import WHOLE, parse_json
from nni_cream.processes.launch import is_leader
from nni_cream.processes.signals import Terminated, Termination
from nni_cream.results.checkpoints.checkpoint_files import promote, write_checkpoint
from nni_cream.results.checkpoints.epoch_sums import EpochSums
from nni_cream.results.output_folder import OutputFolder
from nni_cream.results.tensorboard import EventFiles
from nni_cream.search.loop.image_order import gradients_pending
from nni_cream.search.ranks import Ranks
from nni_cream.training.recipe_module import own_state
from nni_cream.training.weights import check_fit

__all__ = [
    "EpochFiles",
    "abandoned_on_failure",
    "check_checkpoint",
    "drop_later_epochs",
    "epoch_counts",
    "last_figures",
    "logged_figures",
]

_STATE = "nni_cream_files"


class EpochFiles(Checkpoint):
    """Writes figures and checkpoint of each epoch of one architecture's training.

    A child of Checkpoint, because Lightning runs those after the module's own hook.

    Parameters
    ----------
    folder
        Where the files are.
    settings
        The ``trainer`` section: whether figures also go to TensorBoard, and how often an epoch is saved within.
    on_epoch
        Called with the figures of each epoch, as they stand in ``metrics.jsonl``.
    """

    def __init__(
        self,
        folder: OutputFolder,
        settings: Mapping[str, Any],
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self._folder = folder
        self._wants_events = settings["tensorboard"]
        self._interval: int | None = settings["checkpoint_every_n_steps"]
        self._saved_step = 0
        self._sums = EpochSums()
        self._termination = Termination()
        self._ranks = Ranks()
        self._on_epoch = on_epoch
        self._events: EventFiles | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the figures of epochs that the checkpoint does not know of: they are about to be run again."""
        # Over the CPU: it is asked in each step, and an accelerator would have to finish the step first.
        self._ranks = Ranks.of_trainer(trainer)
        self._termination.watch()
        self._saved_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        promote(self._folder, trainer.ckpt_path)
        for path in (self._folder.metrics, self._folder.history):
            drop_later_epochs(path, trainer.current_epoch)
        if self._wants_events:
            self._events = EventFiles(self._folder.tensorboard, first_epoch=trainer.current_epoch + 1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within the epoch when it is time, or when SIGTERM asks for the end; end after a Ctrl-C that got lost."""
        self._termination.raise_interrupt()
        self._sums.restore(trainer, self._ranks)
        # An epoch's end saves anyway. A checkpoint has no place for the gradients of half an optimizer step.
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or gradients_pending(trainer):
            return
        terminated = self._terminated()
        due = self._interval is not None and trainer.global_step - self._saved_step >= self._interval
        if terminated or due:
            self._save(trainer)
        if terminated:
            raise SIGTERMException

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the figures of an epoch that is not over."""
        checkpoint[_STATE] = self._sums.state_dict(trainer, self._ranks)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the figures of an epoch that was not over."""
        self._sums.load_state_dict(checkpoint[_STATE])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save figures and, last, the checkpoint: what stands before it is written again after a resume."""
        figures = self._figures(trainer)  # in all processes: what is counted in each is added up when it is read
        if trainer.is_global_zero:
            self._write(trainer, figures)
        self._save(trainer)
        if trainer.is_global_zero:
            self._tell(figures)
        if self._terminated():
            raise SIGTERMException

    def _terminated(self) -> bool:
        # A launcher sends the signal to each process at another step, and all must save the same one.
        return self._ranks.any([self._termination.asked])[0]

    def _save(self, trainer: pl.Trainer) -> None:
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            write_checkpoint(self._folder, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self._folder.checkpoint)  # takes part in collecting the state, writes nothing

    def _figures(self, trainer: pl.Trainer) -> dict[str, float]:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])  # of the step that comes next
        return {**epoch_counts(trainer), **dict(sorted(logged_figures(trainer).items())), "learning_rate": rate}

    def _write(self, trainer: pl.Trainer, figures: dict[str, float]) -> None:
        append_line(self._folder.metrics, figures)
        if self._events is not None:
            self._events.add(figures)

    def _tell(self, figures: dict[str, float]) -> None:
        if self._on_epoch is not None:
            self._on_epoch(figures)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the event files."""
        self._termination.end()
        if self._events is not None:
            self._events.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the event files."""
        self.on_train_end(trainer, pl_module)


def logged_figures(trainer: pl.Trainer) -> dict[str, float]:
    """Return what Lightning has logged of this epoch."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def epoch_counts(trainer: pl.Trainer) -> dict[str, float]:
    """Return the number of the epoch, from 1, and of the step."""
    return {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}


def last_figures(folder: OutputFolder) -> dict[str, Any]:
    """Return the figures of the last epoch; raise ``FileError`` if there is none."""
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise FileError(f"{folder.metrics}: is empty; expected the figures of each epoch. Start again with --force.")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def drop_later_epochs(path: Path, epochs: int) -> None:
    """Keep the lines of the first epochs of a file of JSON lines.

    Parameters
    ----------
    path
        The file; it need not exist.
    epochs
        How many epochs are done. Half a line, from a kill while it was written, goes too.
    """
    if path.exists():
        lines = [line for line in path.read_bytes().splitlines() if _is_before(line, path, epochs)]
        write_text(path, "".join(f"{line.decode()}\n" for line in lines))


def _is_before(line: bytes, path: Path, epochs: int) -> bool:
    try:
        return bool(parse_json(line, path, "an epoch", "", {"epoch": WHOLE})["epoch"] <= epochs)
    except FileError:
        return False


@contextmanager
def abandoned_on_failure(folder: OutputFolder) -> Iterator[None]:
    """Leave a folder as it was before, if what runs inside fails before its first checkpoint.

    Parameters
    ----------
    folder
        Of the training that runs inside.

    Yields
    ------
    None
        There is nothing to work with.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupted it; ``Terminated`` if SIGTERM did.
    """
    try:
        yield
    except BaseException as error:
        if is_leader() and not folder.checkpoints:
            folder.abandon()
        if isinstance(error, SIGTERMException):
            way_on = " The run is saved; continue it with --resume." if folder.checkpoints else ""
            raise Terminated(f"terminated by SIGTERM.{way_on}") from None
        # Lightning turns Ctrl-C into sys.exit(1), and nothing else that it does ends in SystemExit.
        if isinstance(error, SystemExit):
            raise KeyboardInterrupt from None
        raise


def check_checkpoint(checkpoint: Path, module: pl.LightningModule) -> Path:
    """Return a checkpoint that is whole if it fits the module that resumes from it.

    Raises ``FileError`` if it is something else, of another format, or of another architecture.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kinds = {"state_dict": dict, "loops": dict, "optimizer_states": list, "epoch": int, "global_step": int}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise FileError(f"{checkpoint}: is no checkpoint of a training. Start again with --force.")
    if not all(isinstance(item, torch.Tensor) for item in content["state_dict"].values()):
        raise FileError(f"{checkpoint}: state_dict holds something else; expected tensors. Start again with --force.")
    try:
        own_state(content)  # before the weights, whose names another format may have changed
    except ConfigError as error:
        raise FileError(f"{checkpoint}: {error}") from None
    check_fit(module.state_dict(), content["state_dict"], checkpoint)
    return checkpoint
