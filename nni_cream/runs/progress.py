"""How a search is shown while it runs: a bar in a terminal, a line for each epoch anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nni_cream.search import PrioritizedBoard

__all__ = ["SearchProgress", "TrainingProgress", "board_summary"]


class TrainingProgress(Checkpoint):
    """Progress with how well the network does on the validation images.

    A child of Checkpoint, because Lightning runs those after the module's own hook.

    Parameters
    ----------
    console
        Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._figures: Mapping[str, Any] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the epoch; put up the bar at the first one."""
        batches = int(trainer.num_training_batches)
        epochs = trainer.max_epochs or 1
        title = f"epoch {trainer.current_epoch + 1}/{epochs}"
        if self._task is None:
            self._bar.start()
            done = trainer.current_epoch * batches
            self._task = self._bar.add_task(title, total=epochs * batches, completed=done, summary=self.summary())
        self._bar.update(self._task, description=title)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, advance=1, summary=self.summary())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a line where there is no terminal for a bar."""
        self._figures = dict(trainer.callback_metrics)
        if self._console.is_terminal:
            return
        loss = float(trainer.callback_metrics.get("train_loss", float("nan")))
        self._console.print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {self.summary()}, train loss {loss:.3f}",
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._bar.stop()

    def summary(self) -> str:
        """Say in a few words how it stands."""
        if "val_acc" not in self._figures:
            return "not yet validated"
        text = f"validation {float(self._figures['val_acc']):.4f}"
        return f"{text}, average {float(self._figures['ema_acc']):.4f}" if "ema_acc" in self._figures else text


class SearchProgress(TrainingProgress):
    """Progress with the board's size, best and worst entry, once the module's own hook has rescored them.

    Parameters
    ----------
    board
        The live board.
    console
        Where to draw.
    """

    def __init__(self, board: PrioritizedBoard, console: Console) -> None:
        super().__init__(console)
        self._board = board

    def summary(self) -> str:
        """Say how the board stands."""
        entries = self._board.entries
        figures: dict[str, float] = {"board_size": len(entries)}
        if entries:
            figures |= {"board_best": entries[0].accuracy, "board_worst": entries[-1].accuracy}
        return board_summary(figures, self._board.capacity)


def board_summary(figures: Mapping[str, float], capacity: int) -> str:
    """Say in a few words how the board stands.

    Parameters
    ----------
    figures
        ``board_size`` and, unless it is empty, ``board_best`` and ``board_worst``.
    capacity
        Places on the board.

    Returns
    -------
    str
        Such as ``board 10/10, best 0.9500, worst 0.9000``.
    """
    text = f"board {figures.get('board_size', 0):.0f}/{capacity}"
    if "board_best" in figures:
        text += f", best {figures['board_best']:.4f}, worst {figures['board_worst']:.4f}"
    return text
