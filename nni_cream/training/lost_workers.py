"""What a user reads when a process that loads images dies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nni_cream.errors import DataError

__all__ = ["lost_workers_explained"]

_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)(?P<end>[^.]*)")  # of torch


@contextmanager
def lost_workers_explained() -> Iterator[None]:
    """Raise DataError in place of torch's RuntimeError when a worker process of a loader has died.

    Yields
    ------
    None
        While loaders may be at work.

    Raises
    ------
    DataError
        With the process and what to do.
    """
    try:
        yield
    except RuntimeError as error:
        found = _LOST.search(str(error))
        if found is None:
            raise
        raise DataError(
            f"loader.workers: worker process {found['pids']}{found['end']}; expected it to live as long as the run. "
            "Memory, or shared memory (/dev/shm), may have run out: lower loader.workers or loader.prefetch, then "
            "continue with --resume."
        ) from error
