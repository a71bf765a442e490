"""The processes of one training: which of them leads, and what the leader found in the output folder.

Three programs start them: torchrun, SLURM's ``srun``, and Lightning, which starts further processes from the first one.
The rules are those of Lightning, so that both agree on who leads. Torch is imported only where several processes meet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from nni_cream.errors import ConfigError, SearchError

__all__ = [
    "Start",
    "attempt",
    "early_failure",
    "end_of_helper",
    "failures_told",
    "found_by_leader",
    "is_leader",
    "one_start",
    "started_processes",
]

_TOLD = "NNI_CREAM_START"
_KEY = "nni_cream/start"
_PATIENCE = 60.0  # seconds; the others are started in the same moment
_LOOKING = 24 * 3600.0  # seconds; a leader that ends closes the connection at once
_LONGEST = 100_000  # characters of a variable of the environment; Linux allows 131,072
_T = TypeVar("_T")


@dataclass
class _Meeting:
    """How this process hears of the leader; all processes ask in the same order.

    Parameters
    ----------
    store
        Where processes meet; the process group takes over its port, so it must not close before.
    asked
        Questions so far, which number the answers.
    """

    store: Any = None
    asked: int = 0


_meeting = _Meeting()


@dataclass(frozen=True)
class Start:
    """How a training starts, by the content of its output folder.

    Parameters
    ----------
    going_on
        Whether it resumes.
    finished
        Whether the result is there already.
    checkpoint
        File to resume from, if there is one.
    """

    going_on: bool
    finished: bool = False
    checkpoint: str | None = None

    @property
    def file(self) -> Path | None:
        """The checkpoint as a path."""
        return None if self.checkpoint is None else Path(self.checkpoint)


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _by_slurm() -> bool:
    # An interactive job has SLURM's variables, too, and one process.
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def is_leader() -> bool:
    """Whether this process writes files and talks, and was not started to help another one with the training."""
    return _place() == ("0", "0")


def _place() -> tuple[str, str]:
    """Return the rank and ``"0"``, or, where Lightning counts them, the rank within a node and the node."""
    if _by_torchrun():
        return os.environ["RANK"], "0"
    if _by_slurm():  # srun sets no LOCAL_RANK
        return os.environ.get("SLURM_PROCID", "0"), "0"
    return os.environ.get("LOCAL_RANK", "0"), os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))


def end_of_helper() -> None:
    """End this process if it was started to help with a training, which is over."""
    if not is_leader():
        sys.exit(0)


def started_processes() -> int:
    """Return how many processes were started from outside for this training; 1 where Lightning starts the others."""
    if _by_slurm() and not _by_torchrun():
        return int(os.environ["SLURM_NTASKS"])
    return int(os.environ.get("WORLD_SIZE", "1")) if _by_torchrun() or "LOCAL_RANK" in os.environ else 1


def attempt() -> str:
    """Return a name of this attempt of torchrun, whose store stays when it starts the processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def one_start(decide: Callable[[], Start], trainer: Mapping[str, Any]) -> Start:
    """Let the leader look at the output folder, and return in all processes what it found.

    Parameters
    ----------
    decide
        Looks at the folder; called in the leader alone.
    trainer
        The ``trainer`` section, resolved.

    Returns
    -------
    Start
        The same in all processes.

    Raises
    ------
    ConfigError
        If another number of processes was started than there are devices.
    SearchError
        If the leader failed, or did not say anything within ``trainer.timeout_seconds``.
    """
    devices = len(trainer["devices"]) if isinstance(trainer["devices"], list) else trainer["devices"]
    processes = started_processes()
    # A batch job of many tasks may hold searches of a single process each: then none but the first has these variables.
    if processes == 1 or (devices == 1 and is_leader()):
        start = decide()
        _meeting.store = None
        if devices != 1:
            _tell_children([asdict(start)])
        return start
    if devices not in (processes, "auto"):
        raise ConfigError(
            f"trainer.devices is {trainer['devices']}; expected {processes}, since {processes} processes were started. "
            "Start as many as there are devices; with SLURM, start independent runs with `srun --ntasks=1`."
        )
    if (told := _told_by_parent()) is not None:
        _meeting.asked = 1
        return Start(**told[0])
    return _meet(decide, trainer["timeout_seconds"])


def found_by_leader(look: Callable[[], _T]) -> _T:
    """Let the leader alone look at something that takes long, and return in all processes what it found.

    Each process looks itself where the processes have not met (:func:`one_start`).

    Parameters
    ----------
    look
        Returns a value that JSON takes.

    Returns
    -------
    Any
        What the leader found.

    Raises
    ------
    SearchError
        If the leader failed.
    """
    if _meeting.store is not None:
        answer: _T = _ask(look, _LOOKING)
        return answer
    told = _told_by_parent()
    if told is not None and _meeting.asked < len(told):
        _meeting.asked += 1
        heard: _T = told[_meeting.asked - 1]
        return heard
    found = look()
    own = json.loads(os.environ.get(_TOLD, "{}"))
    if own.get("process") == os.getpid():
        _tell_children([*own["answers"], found])
    return found


@contextmanager
def failures_told() -> Iterator[None]:
    """Let the other processes hear of a failure inside, before they wait for this one to train (early_failure).

    Yields
    ------
    None
        While this process prepares its part.
    """
    try:
        yield
    except Exception as error:
        if _meeting.store is not None:
            with suppress(RuntimeError):  # the leader has gone, and its store with it
                if _meeting.store.add(_early(), 1) == 1:  # later ones may be a consequence
                    reason = f"{_own_name()} has failed ({type(error).__name__}: {error})"
                    _meeting.store.set(f"{_early()}/reason", reason)
        raise


def early_failure() -> str | None:
    """Return which process has failed before the training, and why; ``None`` if that is not known."""
    if _meeting.store is None:
        return None
    try:
        told: bytes = _meeting.store.get(f"{_early()}/reason") if _meeting.store.add(_early(), 0) else b""
    except RuntimeError:
        return "rank 0 has gone (it does not answer)"
    return told.decode() or None


def _early() -> str:
    return f"{_KEY}/{attempt()}/early"


def _own_name() -> str:
    rank, node = _place()
    return f"rank {rank}" if node == "0" else f"the process with NODE_RANK {node} and LOCAL_RANK {rank}"


def _tell_children(answers: list[Any]) -> None:
    # The processes that Lightning starts inherit it. Those of other programs may, too, so it names its writer.
    text = json.dumps({"process": os.getpid(), "answers": answers})
    if len(text) < _LONGEST:  # else they look themselves
        os.environ[_TOLD] = text


def _told_by_parent() -> list[Any] | None:
    """Return the answers of the process that has started this one to help it, if it is one."""
    told = json.loads(os.environ.get(_TOLD, "{}"))
    if is_leader() or told.get("process") != os.getppid():
        return None
    answers: list[Any] = told["answers"]
    return answers


def _meet(decide: Callable[[], Start], timeout: float) -> Start:
    with _silence_explained(timeout):
        _meeting.store = _store(timeout)
    start = Start(**_ask(lambda: asdict(decide()), timeout))
    if is_leader():
        _wait_for_hearers()  # it may have nothing more to do
    return start


def _ask(look: Callable[[], Any], timeout: float) -> Any:
    _meeting.asked += 1
    if is_leader():
        return _answer(look)
    with _silence_explained(timeout):
        _meeting.store.wait([_key()], timedelta(seconds=timeout))
        told = json.loads(_meeting.store.get(_key()))
        _meeting.store.add(f"{_key()}/heard", 1)
    if "failure" in told:
        raise SearchError(f"rank 0 has failed, so this process ends, too: {told['failure']}")
    return told["answer"]


def _key() -> str:
    return f"{_KEY}/{attempt()}/{_meeting.asked}"


@contextmanager
def _silence_explained(timeout: float) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise SearchError(
            f"rank 0 is silent for {timeout:g} s, or has gone; expected it to start with the other processes. Look at "
            "its messages, or set a longer trainer.timeout_seconds."
        ) from error


def _answer(look: Callable[[], Any]) -> Any:
    try:
        found = look()
        _meeting.store.set(_key(), json.dumps({"answer": found}))
        return found
    except Exception as error:
        _meeting.store.set(_key(), json.dumps({"failure": f"{type(error).__name__}: {error}"}))
        _wait_for_hearers()
        raise


def _wait_for_hearers() -> None:
    # The store ends with this process.
    deadline = time.monotonic() + _PATIENCE
    while _meeting.store.add(f"{_key()}/heard", 0) < started_processes() - 1 and time.monotonic() < deadline:
        time.sleep(0.05)


def _store(timeout: float) -> Any:
    import torch.distributed as dist
    from lightning_fabric.plugins import environments

    known: Any = environments
    c10d: Any = dist
    kinds = (known.TorchElasticEnvironment, known.SLURMEnvironment, known.LightningEnvironment)
    place = next(kind for kind in kinds if kind.detect())()
    # torchrun may serve the store itself. Otherwise the leader does, and its process group shares it: `multi_tenant`.
    serves = is_leader() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return c10d.TCPStore(
        place.main_address,
        place.main_port,
        is_master=serves,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
        multi_tenant=True,
    )
