"""What all tests share: nothing that they run may write to the user's home folder."""

from __future__ import annotations

import logging
import os
import signal
import site
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# How fast an example runs says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    # NNI keeps experiments, logs and its list of running managers under the home folder, and works out its place on
    # import: so it is set here, before anything of NNI is imported, and handed down to every process that tests start.
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())
    home = tempfile.TemporaryDirectory(prefix="nni_cream_home_", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    # One thread a process: networks as small as those here are slower on more, many times so on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HOME"] = home.name
    # A shell that starts pytest in the background has it ignore Ctrl-C, and with it all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # One more than there are processors: the tests of whole experiments mostly wait for NNI's manager.
    return (os.cpu_count() or 1) + 1


def pytest_unconfigure(config: pytest.Config) -> None:
    # NNI's experiments say goodbye when the process ends, to a stream that pytest has closed by then.
    logging.disable(logging.CRITICAL)
