"""A process that trains keeps the memory of its tensors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import resource
import sys

if sys.argv[1:] == ["keep"]:
    from nni_cream.processes.kept_memory import keep_memory

    keep_memory()
import torch

def step():
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20)  # 64 MiB, which is more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults

step()
print(step())
"""
HEAP = """
import os
import resource
import sys

from nni_cream.processes.kept_memory import keep_memory

if sys.argv[1:] == ["limited"]:
    resource.setrlimit(resource.RLIMIT_DATA, (2**40, resource.RLIM_INFINITY))
keep_memory()
keep_memory()
heap, huge = False, 0
for line in open("/proc/self/smaps"):
    heap = "[heap]" in line if "-" in line.split()[0] else heap
    if heap and line.startswith("Size:"):
        size = int(line.split()[1])
    if heap and line.startswith("VmFlags:") and "hg" in line.split():
        huge += size
print(huge, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2048)
"""

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ACCOUNTING = Path("/proc/sys/vm/overcommit_memory")
pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other allocators than glibc's stay as they are"
)


def faults(*words: str, **variables: str) -> int:
    """Page faults of ten tensors of 64 MiB, each of which is freed before the next one is made."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    return int(run(STEPS, *words, env=environment | variables))


def run(code: str, *words: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_freed_tensors_make_room_for_later_ones() -> None:
    assert faults("keep") < 100


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_settings_of_the_environment_stay(name: str) -> None:
    asked = {name: "1000000"}
    assert faults("keep", **asked) >= faults(**asked) // 2 > 100


@pytest.mark.skipif(not THP.exists() or ACCOUNTING.read_text().strip() == "2", reason="needs huge pages of Linux")
def test_heap_has_huge_pages_for_half_of_the_memory() -> None:
    huge, half = (int(size) for size in run(HEAP).split())
    assert 0.9 * half < huge < 1.1 * half


def test_nothing_is_reserved_under_a_limit() -> None:
    assert int(run(HEAP, "limited").split()[0]) == 0
