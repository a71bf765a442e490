"""What all tests share: nothing that they run may write to the user's home folder."""

from __future__ import annotations

import gc
import logging
import os
import signal
import site
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.assertion import rewrite
from hypothesis import HealthCheck, settings

from tests import warm

if TYPE_CHECKING:
    from execnet import XSpec
    from selenium.webdriver import Chrome

# How fast an example runs says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    from tests.forked import Forked  # imports NNI, which must not happen before its home folder is set

    yield
    Forked.end_all()


@pytest.fixture(autouse=True)
def _few_checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches check space and costs on fewer paths, but where the checks themselves are tested."""
    costs, setup = (sys.modules.get(f"nni_cream.search.{name}") for name in ("cost.cost_model", "loop.setup"))
    if not {"cost", "supernet", "spaces"} & set(request.path.parts):
        if costs:
            monkeypatch.setattr(costs.CostModel, "checks", 4)
        if setup:
            monkeypatch.setattr(setup, "_VERIFIED", 1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of pytest share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def python() -> list[str]:
    """Return the command of a Python that need not import torch and Lightning first, where results alone matter."""
    return warm.command(_warm)


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Chrome]:
    """Yield the one browser of this process of pytest, whose start takes as long as several pages."""
    from tests.manager.browser import open_browser, require_browser

    require_browser()
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Chrome) -> Iterator[Chrome]:
    """Yield a browser of the usual size, with nothing open and no complaint heard."""
    from tests.manager.browser import console_errors, emulate

    emulate(shared_browser, 1280, 900)
    yield shared_browser
    shared_browser.get("about:blank")
    console_errors(shared_browser)


# NNI keeps experiments, logs and its list of running managers under the home folder, and works out its place on import.
# So it is set before anything of NNI is imported, as by the conftest of a folder that pytest is started with, and
# handed down to every process that tests start.
os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())
_home = tempfile.TemporaryDirectory(prefix="nni_cream_home_", ignore_cleanup_errors=True)
os.environ["HOME"] = _home.name
# Of the first process of pytest, which starts the others: all share its warm Python.
_warm = Path(os.environ.setdefault("NNI_CREAM_WARM_PYTHON", f"{_home.name}/warm"))


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(_home.cleanup)
    # Many processes import the same modules, which need not be compiled for each of them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # One thread a process: networks as small as those here are slower on more, many times so on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # With the usual short turns, three busy processes on two cores each need a fifth more processor time than two do.
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # A shell that starts pytest in the background has it ignore Ctrl-C, and with it all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[XSpec]) -> None:
    """Let the processes of pytest be forks of one that has imported the large libraries for all of them."""
    (program,) = warm.command(_warm)
    for spec in specs:
        spec.python = program
    _rewrite_asserts(config)  # meanwhile


def _rewrite_asserts(config: pytest.Config) -> None:
    """Do once what otherwise each process of pytest would, since all of them read the same modules at the same time."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        folder = rewrite.get_cache_dir(path)
        compiled = folder / f"{path.stem}{rewrite.PYC_TAIL}"
        if rewrite._read_pyc(path, compiled) is None and rewrite.try_makedirs(folder):
            found, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, found, compiled)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # One more than there are processors: the tests of whole experiments mostly wait for NNI's manager.
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every second process begin with experiments and lost processes: what waits for long must not begin last.

    The others compute meanwhile, so that no processor is idle.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    waiting = [item for item in items if _waits(item)]
    chosen = set(waiting)
    others = [item for item in items if item not in chosen]
    size, beginners = len(items) // workers, max(1, workers // 2)
    items.clear()
    for worker in range(workers):  # each is given a block of this size, and takes from those of others when it is done
        own = waiting[worker::beginners] if worker < beginners else []
        items += own + others[: max(0, size - len(own))]
        del others[: max(0, size - len(own))]
    items += others


def _waits(item: pytest.Item) -> bool:
    where = "manager" in item.path.parts or item.path.stem == "test_lost_rank"
    return where and item.get_closest_marker("integration") is not None


def pytest_collection_finish() -> None:
    # Lightning collects garbage several times a training, and would look at all that the libraries keep for good.
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    # NNI's experiments say goodbye when the process ends, to a stream that pytest has closed by then.
    logging.disable(logging.CRITICAL)
