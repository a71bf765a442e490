"""Does a search that runs for long grow? Its memory, open files and threads over time, and what it leaves behind.

    python benchmarks/soak.py --seconds 600
    python benchmarks/soak.py --seconds 600 --config my_search.yml

A real `nni-cream search` runs in a process of its own, with every part at work from its first step. This script
samples it and its children, stops it as Ctrl-C does, and looks for processes that are still there. Samples of the
warm-up (the first fifth) are left out: libraries and caches fill then. Neighbouring samples resemble one another, which
would make the interval of a slope too narrow. So the slope is fitted to the means of ten stretches of time, with a
95 % Student interval. Prints one JSON line last; exits with 1 if something was left behind or the search failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
        config = options.config or Path(scratch, "soak.yml")
        if options.config is None:
            config.write_text(CONFIG)
        out = Path(scratch, "out")
        command = [sys.executable, "-m", "nni_cream", "search", str(config), "--out", str(out)]
        with Path(scratch, "errors").open("w+") as errors:
            # A session of its own, by which what it leaves behind is found.
            search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
            try:
                samples = _watch(search, out / "metrics.jsonl", options.seconds, options.interval)
                search.send_signal(signal.SIGINT)
                code = search.wait(PATIENCE)
                left = _session(search.pid)
            finally:
                for process in _session(search.pid):
                    process.kill()
                search.wait()
            errors.seek(0)
            messages = errors.read()
        found = summary(samples) | {"epochs": _lines(out / "metrics.jsonl"), "exit_code": code, "left": len(left)}
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
    for name in FIGURES:
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


def _watch(search: subprocess.Popen[bytes], metrics: Path, seconds: float, interval: float) -> list[dict[str, float]]:
    """Sample a search from its first finished epoch on; stop early if it ends."""
    deadline = time.monotonic() + PATIENCE
    while search.poll() is None and not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    begin, samples = time.monotonic(), []
    while search.poll() is None and time.monotonic() - begin < seconds:
        samples.append({"seconds": time.monotonic() - begin, **_figures(search.pid)})
        time.sleep(interval)
    return samples


def _figures(pid: int) -> dict[str, float]:
    found = dict.fromkeys(FIGURES, 0.0)
    main_process = psutil.Process(pid)
    for process in (main_process, *main_process.children(recursive=True)):
        try:
            with process.oneshot():
                values = (process.memory_info().rss, process.num_fds(), process.num_threads())
        except psutil.NoSuchProcess:  # a helper that has ended meanwhile
            continue
        for name, value in zip(FIGURES, values, strict=True):
            found[name] += value
    return found


def _session(leader: int) -> list[psutil.Process]:
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(psutil.Process(pid))
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long to sample, after the first epoch")
    parser.add_argument("--interval", type=float, default=1, help="seconds from sample to sample")
    parser.add_argument("--config", type=Path, help="another search; it should last longer than --seconds")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
