"""Does a search work on this machine? The first file for a lab to run: one GPU or several, or none.

    python benchmarks/gpu_smoke.py

It searches in each floating point format, twice with one seed, on the digits that ship with scikit-learn. It counts
how often a step waits for the device, and compares step cost and memory with RandomOneShot's. It kills a search with
SIGKILL and resumes it. With several GPUs, a search runs on all of them; on a CPU, --devices 2 does likewise. Each check
prints a line; the last line is one JSON object. The exit code is 1 if a check failed. --small is for a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import step_cost
from host_reads import HostReads

import nni_cream
from nni_cream.search import MetaMatcher, Scoring, Teaching

step_cost.SPACES |= {
    "smoke": {
        **step_cost.SPACES["cream"],
        "space": "cream",
        "data": "digits",
        "sizes": {"train": 1080, "validation": 360},
    },
    "small smoke": {
        "space": "digits",
        "image_size": None,
        "batch": 16,
        "epoch_steps": 60,
        "epochs": 3,
        "arguments": {"channels": [8, 8]},
        "data": "digits",
        "sizes": {"train": 320, "validation": 360},
    },
}
META = 10
OURS = str(Path(nni_cream.__file__).parent)
OWN_READS = 1  # the chosen teacher and its weight
RESUMED = """
import sys, torch
torch.use_deterministic_algorithms(True, warn_only=True)
from nni_cream.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Watch(pl.Callback):
    """Notes what a training leaves behind: board, losses, reads of steps that only train, peak memory."""

    def __init__(self, device: str) -> None:
        self.reads: list[list[str]] = []
        self.finite = True
        self.board: list[Any] = []
        self.memory: int | None = None
        self._device = device

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._reads = HostReads(self._device)
        self._reads.__enter__()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._reads.__exit__(None, None, None)
        if not hasattr(module, "board"):
            return
        # A CPU checks each loss, which is free there.
        places = [place for place in self._reads.places if self._device != "cpu" or "finite_checks" not in place]
        if module.board.full and module.steps % module.score_interval and module.steps % META:
            self.reads.append(places)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        import torch

        self.finite = all(bool(weight.isfinite().all()) for weight in module.parameters())
        if hasattr(module, "board"):
            self.board = [[entry.key, entry.accuracy, entry.cost] for entry in module.board.entries]
        if self._device == "cuda":
            self.memory = torch.cuda.max_memory_allocated()


def train(kind: str, precision: str, options: argparse.Namespace) -> Watch:
    """Train from one seed, and return what was noted."""
    from nni_cream.training import seeded

    gc.collect()  # what a training leaves behind is no memory of the next one
    watch = Watch(options.device)
    # Made for each training, since a matcher has a state.
    step_cost.SEARCHES["smoke"] = {
        "matching": MetaMatcher(interval=META),
        "scoring": Scoring(images=options.score_images, interval=8),
        "teaching": Teaching(start=None),
    }
    own = argparse.Namespace(**{**vars(options), "precision": precision})
    with seeded(0):
        step_cost.make_training(kind, own, watch, options.steps)()
    return watch


# The checks: each returns whether it passed, what to say, and its figures ---------------------------------------------


def check_precision(precision: str, options: argparse.Namespace) -> tuple[bool, str, dict[str, Any]]:
    first, second = (train("smoke", precision, options) for _ in range(2))
    equal = first.board == second.board
    reads = max(map(len, first.reads), default=-1)
    own = max((sum(place.startswith(OURS) for place in places) for places in first.reads), default=-1)
    passed = first.finite and second.finite and bool(first.board) and equal and 0 <= own <= OWN_READS
    text = (
        f"{'finite' if first.finite and second.finite else 'NOT FINITE'}, board of {len(first.board)}, "
        f"{'equal' if equal else 'DIFFERENT'} on a second run, at most {own} reads a step ({reads} with Lightning's)"
    )
    found: dict[str, Any] = {"finite": first.finite and second.finite, "boards_equal": equal, "reads": own}
    found |= {"reads_with_lightnings": reads, "best": first.board[0][1] if first.board else None}
    if first.memory is not None:
        other = train("random", precision, options).memory
        assert other is not None
        found |= {"memory": first.memory, "memory_of_random": other}
        text += f", {first.memory / 2**20:.0f} MiB ({other / 2**20:.0f} MiB with RandomOneShot)"
    return passed, text, found


def check_step_cost(options: argparse.Namespace) -> tuple[bool, str, dict[str, Any]]:
    found = step_cost.summarise(step_cost.interleave(options), options)
    text = f"{found['ratio_median']:.2f} of RandomOneShot's ({found['ratio_min']:.2f} to {found['ratio_max']:.2f})"
    return found["ratio_median"] > 0, text, found


def check_resume(options: argparse.Namespace) -> tuple[bool, str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = write_config(Path(folder), options, 1)
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        code = command("search", config, "--out", whole)
        process = start("search", config, "--out", killed)
        while process.poll() is None and not (killed / "last.ckpt").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ended = process.returncode
        resumed = command("search", config, "--out", killed, "--resume")
        equal = ended == -signal.SIGKILL and code == resumed == 0
        equal = equal and (whole / "board.json").read_bytes() == (killed / "board.json").read_bytes()
    text = "killed after a checkpoint and resumed: " + ("the same board" if equal else "NOT the same board")
    return equal, f"{text} (exit codes {code}, {ended}, {resumed})", {"exit_codes": [code, ended, resumed]}


def start(*words: object) -> subprocess.Popen[bytes]:
    """Start nni-cream in a process of its own."""
    line = [sys.executable, "-c", RESUMED, *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_devices(options: argparse.Namespace) -> tuple[bool, str, dict[str, Any]]:
    devices = count_devices(options)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = write_config(Path(folder), options, devices)
        words = [sys.executable, "-m", "nni_cream", "search", str(config), "--out", str(Path(folder, "out"))]
        done = subprocess.run(words, capture_output=True, text=True)
        passed = done.returncode == 0 and Path(folder, "out/best.json").exists()
    text = f"a search on {devices} devices: exit code {done.returncode}"
    return passed, text if passed else f"{text}\n{done.stderr[-2000:]}", {"devices": devices}


def count_devices(options: argparse.Namespace) -> int:
    """Return how many devices a search can use: on a CPU, as many processes as ``--devices`` says."""
    import torch

    return torch.cuda.device_count() if options.device == "cuda" else int(options.devices)


def write_config(folder: Path, options: argparse.Namespace, devices: int) -> Path:
    settings = step_cost.SPACES["small smoke"]
    config = {
        "space": {"name": settings["space"], "arguments": settings["arguments"]},
        "data": {"name": settings["data"], "arguments": settings["sizes"]},
        "search": {"epochs": options.epochs, "batch_size": settings["batch"], "board_size": 4, "warmup": 1},
        "trainer": {
            "accelerator": {"cpu": "cpu", "cuda": "gpu"}[options.device],
            "devices": devices,
            "threads": options.threads,
        },
    }
    path = folder / "smoke.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def command(*words: object) -> int:
    """Run nni-cream in this process, silently."""
    from nni_cream.cli import main as run

    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return int(run([str(word) for word in words]) or 0)


# ----------------------------------------------------------------------------------------------------------------------


def checks_of(options: argparse.Namespace) -> dict[str, Callable[[], tuple[bool, str, dict[str, Any]]]]:
    precisions = ["32-true", "bf16-mixed", *(["16-mixed"] if options.device == "cuda" else [])]
    checks: dict[str, Callable[[], tuple[bool, str, dict[str, Any]]]] = {
        precision: (lambda precision=precision: check_precision(precision, options)) for precision in precisions
    }
    checks |= {"step cost": lambda: check_step_cost(options), "resume": lambda: check_resume(options)}
    if count_devices(options) > 1:
        checks["devices"] = lambda: check_devices(options)
    return checks


def parse(words: list[str] | None) -> argparse.Namespace:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=own, help="by default a GPU if there is one")
    parser.add_argument("--small", action="store_true", help="few steps of a small space, for a CPU")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    parser.add_argument("--devices", type=int, default=1, help="processes that search together on a CPU (1)")
    options = parser.parse_args(words)
    small = options.small
    options.space, options.precision = "small smoke" if small else "smoke", "32-true"
    options.kinds = ["random", "search"]
    options.steps, options.epochs, options.rounds = (24, 3, 1) if small else (300, 12, 5)
    options.window, options.warm_steps, options.score_images = (9, 30, 64) if small else (80, 60, 360)
    settings = step_cost.SPACES[options.space]
    options.batch, options.epoch_steps = settings["batch"], settings["epoch_steps"]
    return options


def main(words: list[str] | None = None) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, equal runs on a GPU are refused
    import torch

    options = parse(words)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "passed": True, "checks": {}}
    with step_cost.quiet():
        for check, run in checks_of(options).items():
            # Equal boards need kernels that add in one order; the cost of a step is that of the usual ones.
            torch.use_deterministic_algorithms(check != "step cost", warn_only=True)
            began = time.monotonic()
            try:
                passed, text, found = run()
            except Exception as error:  # noqa: BLE001 - the other checks still tell something
                passed, text, found = False, f"{type(error).__name__}: {error}", {}
            seconds = time.monotonic() - began
            report["checks"][check] = {"passed": passed, "seconds": round(seconds, 1), **found}
            report["passed"] = report["passed"] and passed
            print(f"{'ok  ' if passed else 'FAIL'} {check}: {text} [{seconds:.0f} s]", flush=True)
    torch.use_deterministic_algorithms(False)
    print(json.dumps(report), flush=True)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
