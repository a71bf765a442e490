"""A Python that has imported the large libraries, and forks for each program that is started with it.

    python -S -E tests/warm.py ADDRESS -m nni_cream.manager.trial

does what ``python -m nni_cream.manager.trial`` does, without the seconds for torch and Lightning. The fork has the
caller's environment, folder and streams, and imports NNI and nni_cream anew. Signals are passed on to it, and its exit
code comes back. It dies with its caller, and takes the process that started the caller for its parent, as a new Python
would. But it is another process than its caller: where a test looks at processes, and not at results alone,
it starts a new Python. This file needs nothing but the standard library, so that a call takes no time.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

KIND = socket.SOCK_SEQPACKET  # a message is received as it was sent


def command(folder: Path) -> list[str]:
    """Return the command of a warm Python; start it if ``folder``, which processes of pytest share, has none.

    The command is a single word, so that it can be where the path of a Python is expected.
    """
    address, program = folder / "address", folder / "python"
    if not address.exists():
        folder.mkdir()
        words = [sys.executable, "-S", "-E", __file__, str(address)]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
        with socket.socket(socket.AF_UNIX, KIND) as listener:
            listener.bind(str(address))
            listener.listen(64)  # from now on callers wait for it
            words = [sys.executable, __file__, "--serve", str(listener.fileno()), str(os.getpid())]
            subprocess.Popen(words, pass_fds=[listener.fileno()], start_new_session=True)
    return [str(program)]


def with_children(python: list[str], module: str) -> list[str]:
    """Return the command of a module whose children, if it starts itself again, are forks of a warm Python, too."""
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [*python, "-c", f"import runpy, sys; sys.executable = {python[0]!r}; {run}"]


def call(address: str, words: list[str]) -> int:
    """Have words run by a fork; return its exit code, or die of the signal that it died of."""
    with socket.socket(socket.AF_UNIX, KIND) as connection:
        connection.connect(address)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: connection.send(bytes([number])) and None)
        message = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ), "caller": os.getpid()}
        socket.send_fds(connection, [json.dumps(message).encode()], [0, 1, 2])
        code = int(connection.recv(16) or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(listener: socket.socket, session: int) -> None:
    """Fork for each caller, until the process ``session`` ends."""
    # What NNI and nni_cream take long to import.
    for name in (
        "json_tricks",
        "pandas",
        "pytorch_lightning",  # with torch
        "requests",
        "scipy.stats",
        "sklearn.datasets",
        "sklearn.model_selection",
        "torchvision.transforms.v2",
        "websockets",
    ):
        importlib.import_module(name)
    import numpy as np

    gc.freeze()  # what all forks share need not be looked at, and so copied, by each
    ended, keepers = os.pidfd_open(session), set[int]()
    while ended not in select.select([listener, ended], [], [])[0]:
        connection, _ = listener.accept()
        if keeper := os.fork():
            connection.close()
            keepers = {pid for pid in {*keepers, keeper} if not os.waitpid(pid, os.WNOHANG)[0]}
            continue
        listener.close()
        message, streams, *_ = socket.recv_fds(connection, 2**20, 3)
        if pid := os.fork():
            for stream in streams:
                os.close(stream)
            keep(pid, connection)
            os._exit(0)
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        random.seed()
        np.random.seed()  # noqa: NPY002 - otherwise all forks had the same numbers
        end(partial(be, **json.loads(message)))
    for pid in keepers:
        os.waitpid(pid, 0)


def keep(pid: int, connection: socket.socket) -> None:
    """Pass on the caller's signals to a fork, and its end to the caller; when the caller is gone, kill it."""
    process, caller = os.pidfd_open(pid), connection.fileno()
    while process not in select.select([process, caller], [], [])[0]:
        number = connection.recv(1)
        os.kill(pid, number[0] if number else signal.SIGKILL)
        if not number:
            return
    connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def end(program: Callable[[], None]) -> NoReturn:
    """Run the main program, and end as a Python does, but for the taking apart of all modules: that takes a second."""
    code = 1
    try:
        program()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
        if leaving.code is not None and not isinstance(leaving.code, int):  # a message
            code = 1
            print(leaving.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - of the program
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            code = -signal.SIGINT
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def take_for_parent(caller: int) -> None:
    """Let this process hear of its parent as the caller would."""
    import psutil

    parent, own = psutil.Process.parent, os.getpid()

    def parent_of(process: psutil.Process) -> psutil.Process | None:
        return parent(psutil.Process(caller) if process.pid == own else process)

    psutil.Process.parent = parent_of
    os.getppid = lambda: psutil.Process(caller).ppid()


def be(words: list[str], folder: str, environment: dict[str, str], caller: int) -> None:
    """Run a module, a line of code or a file as the main program."""
    flags = [word for word in words[:2] if word in ("-u", "-P")]  # -u of execnet, which flushes what it writes
    words = words[len(flags) :]
    take_for_parent(caller)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[0] = folder if words[0] in ("-m", "-c") else str(Path(words[0]).resolve().parent)
    sys.path[1:1] = filter(None, paths)
    if "-P" in flags:
        del sys.path[0]
    sys.argv[:] = {"-m": words[1:], "-c": ["-c", *words[2:]]}.get(words[0], words)
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
