"""Processor cores and memory, and the limits that a container sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil

from nni_cream.starter.checks.findings import Finding, gibibytes, ok, warning

__all__ = [
    "LEAST_MEMORY",
    "LEAST_SHARED",
    "Limits",
    "core_finding",
    "group_limits",
    "memory_finding",
    "shared_memory_finding",
]

LEAST_MEMORY = 2 * 2**30
"""Bytes that an experiment on small images takes: the tuner and three trials, each with PyTorch."""
LEAST_SHARED = 2**30
"""Bytes of shared memory that suit most loaders."""
_UNLIMITED = 2**60  # control groups of version 1 write a limit near 2**63 for none


@dataclass(frozen=True)
class Limits:
    """What control groups, with which containers are limited, leave to this process.

    Parameters
    ----------
    cores
        Processor time as a number of cores, ``None`` if it is not limited.
    memory
        Bytes that may still be allocated, ``None`` if they are not limited.
    """

    cores: float | None = None
    memory: int | None = None


def group_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limits:
    """Read the limits of the control groups that this process is in.

    Parameters
    ----------
    root
        Where the control groups are mounted.
    own
        File that names the groups of this process.

    Returns
    -------
    Limits
        The tightest ones.
    """
    cores: list[float] = []
    memory: list[int] = []
    for folder in _groups(root, own):
        cores += _share(*_text(folder / "cpu.max").split())
        memory += _left(folder / "memory.max", folder / "memory.current")
    # Version 1 has one tree for each resource.
    cores += _share(*(_text(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")))
    memory += _left(root / "memory" / "memory.limit_in_bytes", root / "memory" / "memory.usage_in_bytes")
    return Limits(min(cores, default=None), min(memory, default=None))


def _groups(root: Path, own: Path) -> Iterator[Path]:
    line = next((line for line in _text(own).splitlines() if line.startswith("0::/")), "0::/")
    folder = root / line.removeprefix("0::/")
    yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(root))


def _share(quota: str = "", period: str = "") -> list[float]:
    """Return the cores of a quota in microseconds a period; there is none for words such as ``max`` and -1."""
    return [int(quota) / int(period)] if quota.isdecimal() and period.isdecimal() else []


def _left(limit: Path, used: Path) -> list[int]:
    most, now = _text(limit), _text(used)
    if not most.isdecimal() or int(most) > _UNLIMITED:
        return []
    return [max(0, int(most) - (int(now) if now.isdecimal() else 0))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # the kernel has no such file where there is no such limit
        return ""


def core_finding(cores: int | None = None, limit: float | None = None) -> Finding:
    """Compare the cores that PyTorch would use with those that a container leaves.

    Parameters
    ----------
    cores
        Cores that this process may run on. Default: as the system says.
    limit
        Processor time as a number of cores, ``None`` for no limit.

    Returns
    -------
    Finding
        A warning if a container leaves less.
    """
    cores = _usable_cores() if cores is None else cores
    if limit is not None and ceil(limit) < cores:
        return warning(
            "cores",
            f"{cores}, limited to {limit:g} by the container",
            f"Set trainer.threads: {ceil(limit)}, or OMP_NUM_THREADS={ceil(limit)}: PyTorch starts a thread per core.",
        )
    return ok("cores", str(cores))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_finding(available: int | None = None, limit: int | None = None) -> Finding:
    """Compare the free memory, in bytes, with what a small experiment takes; ``limit`` is what a container leaves."""
    available = psutil.virtual_memory().available if available is None else available
    left = available if limit is None else min(limit, available)
    found = f"{gibibytes(left)} available" + (" in the container" if limit is not None and limit < available else "")
    if left < LEAST_MEMORY:
        return warning(
            "memory",
            found,
            f"A small experiment takes {gibibytes(LEAST_MEMORY)}. End other programs, or set trialConcurrency: 1.",
        )
    return ok("memory", found)


def shared_memory_finding(folder: Path = Path("/dev/shm"), free: int | None = None) -> Finding:
    """Look at the memory through which loader workers hand over batches.

    Parameters
    ----------
    folder
        Where it is mounted.
    free
        Free bytes. Default: as the system says.

    Returns
    -------
    Finding
        A warning if it is small; Docker gives 64 MiB.
    """
    if free is None and not folder.is_dir():
        return ok("shared memory", "the system has no /dev/shm")
    free = shutil.disk_usage(folder).free if free is None else free
    if free < LEAST_SHARED:
        return warning(
            "shared memory",
            f"{gibibytes(free)} free in {folder}",
            "Loader workers need it: 8 workers with 2 batches of 128 images of 224x224 take 1.2 GiB. Start the "
            "container with --shm-size=2g, or set loader.workers: 0.",
        )
    return ok("shared memory", f"{gibibytes(free)} free in {folder}")
