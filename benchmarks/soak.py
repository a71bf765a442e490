"""Does a search that runs for long grow? Its memory, open files and threads over time, and what it leaves behind.

    python benchmarks/soak.py --seconds 600
    python benchmarks/soak.py --seconds 600 --config my_search.yml
    python benchmarks/soak.py --seconds 600 --manager

A real `nni-cream search` runs in a process of its own, with every part at work from its first step; with `--manager` a
real `nni-cream run`, whose search trial reports each epoch to NNI's manager and tuner. This script samples the command
and all that it has started, stops it as Ctrl-C does, and looks for processes that are still there. Samples of the
warm-up (the first fifth) are left out: libraries and caches fill then. Neighbouring samples resemble one another, which
would make the interval of a slope too narrow. So the slope is fitted to the means of ten stretches of time, with a
95 % Student interval. Prints one JSON line last; exits with 1 if something was left behind or the search failed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats

CONFIG = """\
space: digits
data: digits
search:
  epochs: 1000000
  batch_size: 32
  board_size: 10
  warmup: 0
  matching: meta
  teaching: paper
trainer:
  accelerator: cpu
  threads: 1
"""
EXPERIMENT = """\
searchSpace:
  seed: {_type: choice, _value: [0]}
trialCommand: PYTHON -m nni_cream.manager.trial
trialCodeDirectory: .
trialConcurrency: 1
tuner:
  className: nni_cream.manager.tuner.CreamTuner
  codeDirectory: .
  classArgs:
"""
METRICS = {"search": "metrics.jsonl", "run": "nni/[!_]*/environments/*/trials/*/search/metrics.jsonl"}
FIGURES = ("memory_bytes", "descriptors", "threads")
STRETCHES = 10
WARM = 0.2  # of the samples
PATIENCE = 300.0  # seconds for the start, and for the end; they end a hang
SECONDS_PER_HOUR = 3600


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a background job; the search would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="soak_") as scratch:
        kind = "run" if options.manager else "search"
        config = options.config or _write_config(Path(scratch, "soak.yml"), options.manager)
        out = Path(scratch, "out")
        command = [sys.executable, "-m", "nni_cream", kind, str(config), "--out", str(out)]
        with Path(scratch, "errors").open("w+") as errors:
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            tree = Tree(running.pid)
            try:
                samples = _watch(running, tree, lambda: _lines(out, METRICS[kind]), options.seconds, options.interval)
                running.send_signal(signal.SIGINT)
                code = running.wait(PATIENCE)
                left = tree.alive()
            finally:
                running.kill()
                for process in tree.alive():
                    process.kill()
                running.wait()
            errors.seek(0)
            messages = errors.read()
        found = summary(samples) | {"epochs": _lines(out, METRICS[kind]), "exit_code": code, "left": len(left)}
    if code != 130:
        print(messages, file=sys.stderr)
    print(json.dumps(found))
    return 0 if code == 130 and not left else 1


def summary(samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return, of each figure, its first and last value after the warm-up and its growth per hour with its interval."""
    kept = samples[int(WARM * len(samples)) :]
    if len(kept) < STRETCHES:
        raise SystemExit(f"--seconds gave {len(kept)} samples after the warm-up; expected at least {STRETCHES}.")
    found: dict[str, Any] = {"samples": len(kept), "seconds": round(kept[-1]["seconds"] - kept[0]["seconds"], 1)}
    times = _means(kept, "seconds") / SECONDS_PER_HOUR
    for name in sorted(set(samples[0]) - {"seconds"}):
        means = _means(kept, name)
        fit = stats.linregress(times, means)
        half = stats.t.ppf(0.975, STRETCHES - 2) * fit.stderr if np.ptp(means) else 0.0  # scipy says nan of a constant
        values = [sample[name] for sample in kept]
        found[name] = {
            "first": values[0],
            "last": values[-1],
            "highest": max(values),
            "per_hour": float(fit.slope),
            "interval": [float(fit.slope - half), float(fit.slope + half)],
        }
    return found


def _means(samples: Sequence[dict[str, float]], name: str) -> Any:
    return np.array([part.mean() for part in np.array_split([sample[name] for sample in samples], STRETCHES)])


class Tree:
    """A process and all that it has started, also where the one in between has ended or begun a session of its own."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = set()

    def figures(self) -> dict[str, float]:
        """Return the sum of each figure over the processes, and the memory of each program."""
        found = dict.fromkeys(FIGURES, 0.0)
        for process in self._now():
            try:
                with process.oneshot():
                    values = (process.memory_info().rss, process.num_fds(), process.num_threads())
                    program = _program(process.cmdline())
            except psutil.Error:  # a helper that has ended meanwhile
                continue
            for name, value in zip(FIGURES, values, strict=True):
                found[name] += value
            key = f"memory_bytes, {program}"
            found[key] = found.get(key, 0.0) + values[0]
        return found

    def alive(self) -> list[psutil.Process]:
        """Return those but the first that run."""
        return [process for process in self._seen if process != self._root and _runs(process)]

    def _now(self) -> list[psutil.Process]:
        now = [self._root]
        with suppress(psutil.Error):
            now += self._root.children(recursive=True)
        self._seen.update(now)
        return now


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _program(words: Sequence[str]) -> str:
    signs = {"nni_cream.manager.trial": "trial", "--experiment-id": "manager", "nni.runtime": "tuner"}
    signs |= {"nni.__main__": "tuner", "nni": "tuner"}
    return next((name for sign, name in signs.items() if sign in words), "command")


def _watch(
    running: subprocess.Popen[bytes], tree: Tree, epochs: Callable[[], int], seconds: float, interval: float
) -> list[dict[str, float]]:
    """Sample from the first finished epoch on; stop early if it ends."""
    deadline = time.monotonic() + PATIENCE
    while running.poll() is None and not epochs() and time.monotonic() < deadline:
        tree.figures()
        time.sleep(0.05)
    begin, samples = time.monotonic(), []
    while running.poll() is None and time.monotonic() - begin < seconds:
        samples.append({"seconds": time.monotonic() - begin, **tree.figures()})
        time.sleep(interval)
    return samples


def _lines(out: Path, pattern: str) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.glob(pattern))


def _write_config(path: Path, manager: bool) -> Path:
    text = EXPERIMENT.replace("PYTHON", sys.executable) + textwrap.indent(CONFIG, "    ") if manager else CONFIG
    path.write_text(text + "trainingService: {platform: local}\n" * manager)
    return path


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long to sample, after the first epoch")
    parser.add_argument("--interval", type=float, default=1, help="seconds from sample to sample")
    parser.add_argument("--manager", action="store_true", help="an experiment of NNI's manager in place of a search")
    parser.add_argument("--config", type=Path, help="another file; what it starts should last longer than --seconds")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
