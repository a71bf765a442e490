"""Watches the processes of one training: when one of them is lost, all end, and say which one it was.

torch.distributed tells the others that a connection closed or a time is over, but not whose fault it was; and a
process that waits for an accelerator hears nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist

from nni_cream.errors import CreamError, DataError, SearchError
from nni_cream.processes.launch import attempt, early_failure

__all__ = ["RankWatch"]

_DONE, _FAILED = 1, 2
_SILENT_BEATS = 4  # so many missing ones name a process once something is known to be wrong
_SIGNS = ("gloo", "nccl", "connection", "timed out", "timeout", "store", "broken pipe", "socket", "recv", "peer")


class RankWatch(pl.Callback):
    """Callback of a training that may have several processes; a single process has nothing to watch.

    A thread of each process shows the others, over a connection of its own, that the process lives.

    Parameters
    ----------
    timeout
        Seconds without a sign of life after which a process counts as lost; the strategy's timeout.
    fingerprint
        Of the images, which must be the same in all processes.
    """

    def __init__(self, timeout: float, fingerprint: str = "") -> None:
        self._timeout = timeout
        self._fingerprint = fingerprint
        self._interval = min(5.0, timeout / 20)
        self._rank, self._size = 0, 1
        self._store: Any = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._silence: dict[int, float] = {}
        self._lost = ""
        self._ended = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Meet the others, compare the images with theirs, and start to watch."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        self._rank, self._size = trainer.global_rank, trainer.world_size
        self._children = list(getattr(trainer.strategy.launcher, "procs", []))
        _retire_lightnings_observer()
        self._store = self._connect()
        self._compare_images()
        self._silence = {rank: 0.0 for rank in range(self._size) if rank != self._rank}
        threading.Thread(target=self._watch, args=(self._connect(),), name="rank-watch", daemon=True).start()

    def _connect(self) -> Any:
        c10d: Any = dist  # its classes are not annotated
        store = c10d.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=self._timeout),
            wait_for_workers=False,
        )
        return c10d.PrefixStore(f"nni_cream/watch/{attempt()}", store)

    def _compare_images(self) -> None:
        self._store.set(f"images/{self._rank}", self._fingerprint)
        for rank in range(self._size):
            other = self._store.get(f"images/{rank}").decode()
            if other != self._fingerprint:
                raise DataError(
                    f"the fingerprint of the images is {self._fingerprint} in rank {self._rank} and {other} in rank "
                    f"{rank}; expected the same images in all processes. Compare the data folders of their machines."
                )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tell the others why this process fails, unless it is a consequence of their failure."""
        if self._store is not None and not _of_connection(exception):
            self._tell(f"{type(exception).__name__}: {exception}")

    def _tell(self, reason: str) -> None:
        try:
            self._store.set(f"reason/{self._rank}", reason)
            self._store.add(f"state/{self._rank}", _FAILED)
        except RuntimeError:
            return  # the process that keeps the store has gone; the others see that themselves

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what torch.distributed raises inside into an error that names the lost process.

        Yields
        ------
        None
            While the training runs.

        Raises
        ------
        SearchError
            If another process is lost.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, CreamError) or not _of_connection(error):
                raise
            raise SearchError(self._explanation()) from error
        else:
            if self._store is not None:
                self._store.add(f"state/{self._rank}", _DONE)
        finally:
            self._ended.set()
            if sys.exc_info()[0] is not None:
                self._end_children()

    def _explanation(self) -> str:
        if self._store is None:
            if (failure := early_failure()) is not None:
                return (
                    f"{failure}, so this process ends, too; expected all of them to start. Mend what failed there, and "
                    "start all of them again, with --resume if the run had begun."
                )
            return (
                f"not all processes have met within {self._timeout:g} s; expected all of them to start. Look at the "
                "messages of the others, or set a longer trainer.timeout_seconds."
            )
        deadline = time.monotonic() + max(self._timeout / 2, 2 * _SILENT_BEATS * self._interval)
        while not self._lost and time.monotonic() < deadline:
            self._name_silent(_SILENT_BEATS * self._interval)
            time.sleep(self._interval / 4)
        return self._lost or self._sentence("a rank", "the connection broke")

    def _sentence(self, who: str, why: str) -> str:
        return (
            f"{who} of {self._size} is gone ({why}), so rank {self._rank} ends, too; expected all of them until the "
            "end. Look at the messages of that process, and continue with --resume."
        )

    # In the thread ---------------------------------------------------------------------------------------------------

    def _watch(self, store: Any) -> None:
        beats: dict[int, tuple[int, float]] = {}
        while not self._lost and not self._ended.wait(self._interval):
            try:
                store.add(f"beat/{self._rank}", 1)
                for rank in list(self._silence):
                    self._look(store, rank, beats)
            except RuntimeError:
                self._lose(0, "it does not answer")
            self._name_dead_children()
            self._name_silent(0.8 * self._timeout)
        if self._lost and not self._ended.wait(max(1.0, self._timeout / 10)):
            # The training waits for an accelerator, or for a process that has stopped.
            sys.stderr.write(f"nni-cream: error: {self._lost}\n")
            sys.stderr.flush()
            self._end_children(0.0)
            os._exit(SearchError.exit_code)

    def _look(self, store: Any, rank: int, beats: dict[int, tuple[int, float]]) -> None:
        state = store.add(f"state/{rank}", 0)
        if state == _DONE:
            del self._silence[rank]
            return
        if state >= _FAILED:
            self._lose(rank, store.get(f"reason/{rank}").decode())
        now, beat = time.monotonic(), store.add(f"beat/{rank}", 0)
        if beats.get(rank, (-1, 0.0))[0] != beat:
            beats[rank] = (beat, now)
        self._silence[rank] = now - beats[rank][1]

    def _name_silent(self, limit: float) -> None:
        rank, silence = max(self._silence.items(), key=lambda item: item[1], default=(0, 0.0))
        if silence > limit:
            self._lose(rank, f"no sign of life for {silence:.0f} s")

    def _name_dead_children(self) -> None:
        for rank, process in enumerate(self._children, start=1):
            if process.poll():
                self._lose(rank, f"it ended with the exit code {process.returncode}")

    def _lose(self, rank: int, why: str) -> None:
        if not self._lost and rank in self._silence:
            self._lost = self._sentence(f"rank {rank}", why)

    def _end_children(self, patience: float = 2.0) -> None:
        """Leave none of the processes behind that Lightning started from this one, not even a stopped one."""
        deadline = time.monotonic() + patience
        for process in self._children:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if process.poll() is None:
                process.kill()
                process.wait()


def _of_connection(error: BaseException) -> bool:
    if isinstance(error, CreamError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in _SIGNS)


def _retire_lightnings_observer() -> None:
    # It kills this process within five seconds of another one's end, before anything is said or saved.
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_child_processes"] = []
