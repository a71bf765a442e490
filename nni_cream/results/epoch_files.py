"""The files that a training adds to at the end of each epoch, and what an interruption may have left of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from nni_cream.errors import FileError
from nni_cream.files import append_line, replacing, write_text
from nni_cream.json_reader import WHOLE, parse_json
from nni_cream.results.output_folder import OutputFolder, is_leader
from nni_cream.results.tensorboard import EventFiles
from nni_cream.training.weights import check_fit, check_whole

__all__ = [
    "EpochFiles",
    "abandoned_on_failure",
    "check_checkpoint",
    "check_readable",
    "drop_later_epochs",
    "epoch_counts",
    "logged_figures",
]


class EpochFiles(Checkpoint):
    """Writes figures and checkpoint of each epoch of one architecture's training.

    A child of Checkpoint, because Lightning runs those after the module's own hook.

    Parameters
    ----------
    folder
        Where the files are.
    events
        Whether figures also go to TensorBoard.
    on_epoch
        Called with the figures of each epoch, as they stand in ``metrics.jsonl``.
    """

    def __init__(
        self, folder: OutputFolder, events: bool = False, on_epoch: Callable[[dict[str, float]], None] | None = None
    ) -> None:
        self._folder = folder
        self._wants_events = events
        self._on_epoch = on_epoch
        self._events: EventFiles | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the figures of epochs that the checkpoint does not know of: they are about to be run again."""
        if not trainer.is_global_zero:
            return
        for path in (self._folder.metrics, self._folder.history):
            drop_later_epochs(path, trainer.current_epoch)
        if self._wants_events:
            self._events = EventFiles(self._folder.tensorboard, first_epoch=trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save figures and, last, the checkpoint: what stands before it is written again after a resume."""
        figures = self._figures(trainer)  # in all processes: what is counted in each is added up when it is read
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder.checkpoint)  # takes part in collecting the state, writes nothing
            return
        self._write(trainer, figures)
        with replacing(self._folder.checkpoint) as temporary:
            trainer.save_checkpoint(temporary)
        self._tell(figures)

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
        If the user interrupted it.
    """
    try:
        yield
    except BaseException as error:
        if is_leader() and not folder.checkpoint.exists():
            folder.abandon()
        # Lightning turns Ctrl-C into sys.exit(1), and nothing else that it does ends in SystemExit.
        if isinstance(error, SystemExit):
            raise KeyboardInterrupt from None
        raise


def check_readable(checkpoint: Path) -> Path:
    """Make sure that a checkpoint is whole.

    Parameters
    ----------
    checkpoint
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    FileError
        If it is broken.
    """
    try:
        check_whole(checkpoint)
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch fail in any way, AttributeError among them
        raise FileError(f"{checkpoint}: is broken, so no run can resume from it. Start again with --force.") from error
    return checkpoint


def check_checkpoint(checkpoint: Path, module: pl.LightningModule) -> Path:
    """Return a checkpoint if it is whole and fits the module that resumes from it.

    Raises ``FileError`` if it is broken, something else, or of another architecture.
    """
    content = torch.load(check_readable(checkpoint), map_location="cpu", weights_only=True)
    kinds = {"state_dict": dict, "loops": dict, "optimizer_states": list, "epoch": int, "global_step": int}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise FileError(f"{checkpoint}: is no checkpoint of a training. Start again with --force.")
    if not all(isinstance(item, torch.Tensor) for item in content["state_dict"].values()):
        raise FileError(f"{checkpoint}: state_dict holds something else; expected tensors. Start again with --force.")
    check_fit(module.state_dict(), content["state_dict"], checkpoint)
    return checkpoint
