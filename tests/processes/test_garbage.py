"""Large libraries are imported without collections, and a process ends without one."""

from __future__ import annotations

import gc
import subprocess
import sys

from nni_cream.processes.garbage import importing

IMPORT = """
import gc
from nni_cream.runs.quiet_libraries import quiet_libraries

quiet_libraries(training=True)
kept = gc.get_freeze_count()
quiet_libraries(training=True)
print(gc.isenabled(), kept > 100_000, gc.get_freeze_count() <= kept)
"""
END = """
import atexit, gc, sys, threading, time
from nni_cream.cli import main
from nni_cream.runs.quiet_libraries import quiet_libraries

atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
quiet_libraries(training=True)
sys.exit(main())
"""


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def test_objects_of_large_libraries_are_left_out_of_later_collections() -> None:
    done = run(IMPORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "True"]


def test_collection_goes_on_where_a_package_was_there_or_none_took_place() -> None:
    before = gc.get_freeze_count()
    with importing("pytest"):
        assert gc.isenabled()
    gc.disable()
    try:
        with importing("not_there"):
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() == before


def test_end_keeps_exit_code_threads_and_exit_handlers() -> None:
    done = run(END, "board", "nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert done.stdout.split() == ["thread", "False", "True"]
