"""Memory of tensors: a step frees as much as the next one allocates, so a process that trains keeps it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

__all__ = ["keep_memory"]

_TRIM_THRESHOLD, _MMAP_MAX, _NEVER = -1, -4, -1  # mallopt(3)
_OF_USERS = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_HUGE = 2 * 1024**2  # bytes of a huge page; larger ones only need fewer faults


def keep_memory() -> None:
    """Let this process keep the memory of freed tensors for later ones, in huge pages where Linux allows it.

    Otherwise glibc gives the memory of each large tensor back to Linux, which clears it for the next one, 4 KiB at a
    time. Results do not change. The process holds as much as it ever needed at once. Nothing happens without glibc, or
    with a setting of its allocator in the environment.

    Source: mallopt(3) and madvise(2).
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OF_USERS):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    if not _addresses_are_free():
        return
    # Huge pages are a property of addresses that exist. So the heap grows now, by addresses without memory behind them.
    begin = libc.sbrk(0)
    libc.free(libc.malloc(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2))
    begin, end = -(-begin // _HUGE) * _HUGE, libc.sbrk(0) // _HUGE * _HUGE
    if end > begin:
        libc.madvise(begin, end - begin, mmap.MADV_HUGEPAGE)


def _addresses_are_free() -> bool:
    """Whether addresses without memory behind them count for no limit, of this process or of the machine."""
    import resource  # not on Windows

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return False
    accounting = Path("/proc/sys/vm/overcommit_memory")  # 2: Linux promises no more than there is
    return accounting.exists() and accounting.read_text(encoding="ascii").strip() != "2"
