"""The figures of each epoch as event files for TensorBoard, which is an extra of the package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nni_cream.errors import ConfigError, FileError
from nni_cream.results.output_folder import TENSORBOARD

__all__ = ["EventFiles", "check_tensorboard", "show_in_web_ui"]


def check_tensorboard(settings: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` if the resolved ``trainer`` section wants TensorBoard and it is not installed."""
    if settings["tensorboard"]:
        _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"trainer.tensorboard is true; expected false, since TensorBoard cannot be imported ({error}). Run pip "
            "install 'nni_cream[tensorboard]', or set it to false."
        ) from error
    return SummaryWriter


class EventFiles:
    """Writer of one training's scalars; the step in TensorBoard is the epoch.

    Parameters
    ----------
    folder
        Where the event files go; made if it is not there.
    first_epoch
        The epoch that comes next, from 1. What the folder holds of this and later epochs, from a run that was killed
        before its checkpoint, is not shown any more.

    Raises
    ------
    ConfigError
        If TensorBoard is not installed.
    FileError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, first_epoch: int = 1) -> None:
        try:
            self._writer = _writer_class()(str(folder), purge_step=first_epoch)
        except OSError as error:
            raise FileError(f"{folder}: cannot be written to: {error.strerror or error}") from error

    def add(self, figures: Mapping[str, float]) -> None:
        """Write the figures of an epoch, so that they are in the file when this returns.

        Parameters
        ----------
        figures
            As in ``metrics.jsonl``: ``epoch``, and what is known of it.
        """
        for name, value in figures.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(figures["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()


def show_in_web_ui(folder: Path) -> None:
    """Lead NNI's *TensorBoard* button to the event files of this trial, if it is a local one.

    NNI 3.0 has a local trial write to ``environments/local-env/trials/ID``, but starts TensorBoard on
    ``trials/ID/output/tensorboard``: a link there leads to the files.

    Parameters
    ----------
    folder
        The output folder that NNI gave the trial.
    """
    folder = folder.absolute()
    if os.environ.get("NNI_PLATFORM") != "local" or len(folder.parents) < 4 or folder.parents[2].name != "environments":
        return
    link = folder.parents[3] / "trials" / folder.name / "output" / TENSORBOARD
    with suppress(OSError):  # a trial does not fail for lack of a button
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            link.rmdir()  # made by NNI where the button was pressed before there was anything to see
        link.symlink_to(os.path.relpath(folder / TENSORBOARD, link.parent))
