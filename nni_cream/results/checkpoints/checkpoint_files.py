"""The two newest checkpoints of a training, each with a checksum; a damaged newest falls back to the one before."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import torch

from nni_cream.errors import FileError
from nni_cream.files import replacing
from nni_cream.processes.launch import Start
from nni_cream.results.output_folder import OutputFolder, State
from nni_cream.training.weights import check_whole

__all__ = ["check_readable", "found_start", "promote", "seal", "usable_checkpoint", "write_checkpoint"]

_logger = logging.getLogger(__name__)
_MARK = b"sha256:"
_TRAILER = len(_MARK) + 64


def write_checkpoint(folder: OutputFolder, write: Callable[[Path], object]) -> None:
    """Write the newest checkpoint and keep the one before.

    Parameters
    ----------
    folder
        Its folder.
    write
        Writes the checkpoint to the path that it gets.
    """
    with replacing(folder.checkpoint) as temporary:
        write(temporary)
        seal(temporary)
        # A kill between the two renames leaves the earlier one alone, from which a run resumes as well.
        if folder.checkpoint.exists():
            os.replace(folder.checkpoint, folder.earlier_checkpoint)


def seal(checkpoint: Path) -> None:
    """Add the checksum of a file to its end, where PyTorch's reader ignores it."""
    with checkpoint.open("r+b") as file:
        # In the file itself: a kill between two files could leave a checksum that belongs to another checkpoint.
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_MARK + digest.encode())


def usable_checkpoint(folder: OutputFolder) -> Path | None:
    """Return the newest checkpoint that is whole; warn of a damaged one.

    Parameters
    ----------
    folder
        Where to look.

    Returns
    -------
    Path or None
        ``None`` if there is no checkpoint yet.

    Raises
    ------
    FileError
        If all are damaged; it names the newest.
    """
    damage: list[FileError] = []
    for checkpoint in folder.checkpoints:
        try:
            check_readable(checkpoint)
        except FileError as error:
            damage.append(error)
            continue
        if damage:
            _logger.warning(
                "%s: is broken. The run resumes from the checkpoint before, %s.", folder.checkpoint, checkpoint.name
            )
        return checkpoint
    if damage:
        raise damage[0]
    return None


def found_start(folder: OutputFolder, resume: bool, force: bool, check_same: Callable[[], None]) -> Start:
    """Return how a run starts by what its folder holds.

    Parameters
    ----------
    folder
        Its output folder.
    resume
        Whether the user wants to continue what is there.
    force
        Whether the user wants to replace it.
    check_same
        Raises an error if the folder holds another run.

    Returns
    -------
    Start
        Anew, from the newest whole checkpoint, or not at all.
    """
    state = folder.check(resume=resume, force=force)
    if not resume or force or state is State.EMPTY:
        return Start(False)
    check_same()
    if state is State.FINISHED:
        return Start(True, finished=True)
    checkpoint = usable_checkpoint(folder)
    return Start(True, checkpoint=None if checkpoint is None else str(checkpoint))


def promote(folder: OutputFolder, resumed: str | Path | None) -> None:
    """Let the earlier checkpoint take the place of a damaged newest one, once a run has resumed from it."""
    # The next checkpoint would otherwise push out the good one and keep the damaged one.
    if resumed is not None and Path(resumed) == folder.earlier_checkpoint:
        os.replace(folder.earlier_checkpoint, folder.checkpoint)


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
        _check_seal(checkpoint)
        check_whole(checkpoint)
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch fail in any way, AttributeError among them
        raise FileError(f"{checkpoint}: is broken, so no run can resume from it. Start again with --force.") from error
    return checkpoint


def _check_seal(checkpoint: Path) -> None:
    with checkpoint.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        with memoryview(content) as view:
            digest = hashlib.sha256(view[:-_TRAILER]).hexdigest()
        if content[-_TRAILER:] != _MARK + digest.encode():
            raise ValueError("the checksum at its end is wrong")
