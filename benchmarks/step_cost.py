"""What does a training step of a search cost, all included, beside one of NNI's RandomOneShot?

    python benchmarks/step_cost.py --space cream [--rounds 7]
    python benchmarks/step_cost.py --space fashion

Four trainings on the same space, with the same evaluator, recipe and real images (Fashion-MNIST, enlarged to 64x64 for
CreamSpace, which halves it five times): RandomOneShot; a search with default settings; one with a board of 100; and
one that follows the published procedure, transcribed: meta updates by unrolled double back-propagation, and forward
passes of the probe images through every board entry for each match. All are in one process, each in a thread of its
own, and only one of them runs at a time: a window of steps each, in turns. They train the same paths, which
RandomOneShot draws: the sizes of 40 random paths differ by more than what a search adds.

Timed is the dearest phase: the board full and teachers at work (the gate is held open). Scorings, meta updates and
rescorings are timed apart, after each window, and added at their default intervals: the last ones for an epoch of the
size that ``--epoch-steps`` says (ImageNet at 64 images a step; 8,000 images at 64). ``ratio_whole_search`` counts the
phases before it, too: the warm-up, in which a step costs what RandomOneShot's costs, and the stretch without teachers,
which lacks the shares of teachers and of their matching. It counts the scorings that fill the board and that end the
search, for one of the length that SPACES says. What a search does before its first step is left out. On a CPU, time is
that of the process, which other work on the machine hardly touches; on a GPU it is the clock's, with synchronisation.
Peak memory is that of fresh processes (benchmarks/search_memory.py). Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from published_procedure import transcribe

from nni_cream.search import MetaMatcher, Scoring, Teaching, rescored_entries

# The form of the published network of 287 million multiply-adds: a search has one depth for each stage. At 32 pixels
# the last stage would run 7x7 kernels on single pixels, which only searches on images that small do.
FORM = {"image_size": 64, "depths": [1, 2, 3, 4, 3]}
# Without `space`, `data` and `sizes`: the space of that name and Fashion-MNIST.
SPACES: dict[str, dict[str, Any]] = {
    "cream": {"image_size": 64, "batch": 64, "epoch_steps": 20_018, "epochs": 120, "arguments": FORM},
    "fashion": {"image_size": None, "batch": 64, "epoch_steps": 125, "epochs": 20, "arguments": {}},
}
SEARCHES: dict[str, dict[str, Any] | None] = {
    "random": None,
    "search": {},
    "board of 100": {"board_size": 100},
    "published": {"teaching": "paper", "ema_decay": None},
}
META_INTERVAL = 200  # the default of MetaMatcher; a test compares
WARMUP = 1 / 6  # likewise
START = 0.5  # of distillation, likewise
PARTS = ("teacher", "matching", "sampling")


class Stop(BaseException):
    """Ends a training that has been measured; nothing may take it for an error."""


class Turns:
    """Several trainings, one of which runs at a time."""

    def __init__(self) -> None:
        self._turn: str | None = None
        self._over = False
        self._changed = threading.Condition()
        self.failed: BaseException | None = None

    def run(self, name: str) -> None:
        """Let a training go on, and wait until it hands back."""
        with self._changed:
            self._turn = name
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn is None)
        if self.failed is not None:
            raise self.failed

    def wait(self, name: str) -> None:
        """Wait, in a training, for its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == name or self._over)
        if self._over:
            raise Stop

    def hand_back(self) -> None:
        """Let the others run."""
        with self._changed:
            self._turn = None
            self._changed.notify_all()

    def end(self) -> None:
        """Stop all trainings that wait."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


@dataclass
class Timers:
    """How long the parts of a search take within a window; what one does inside another counts once, outside."""

    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: bool = False

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time a method from now on."""
        inner = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._open:
                return inner(*args, **kwargs)
            before, self._open = self.now(), True
            try:
                return inner(*args, **kwargs)
            finally:
                self._open = False
                self.seconds[name] += self.now() - before

        setattr(owner, attribute, timed)

    def take(self) -> dict[str, float]:
        """Return what was timed, and begin anew."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


def clock(device: str) -> Callable[[], float]:
    import torch

    def wall() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return time.process_time if device == "cpu" else wall


# The trainings --------------------------------------------------------------------------------------------------------


def make_training(kind: str, options: argparse.Namespace, callback: Any, steps: int) -> Callable[[], None]:
    """Return what runs one of the four trainings, up to ``steps``."""
    from nni.nas.evaluator.pytorch import Lightning, Trainer
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.space import RawFormatModelSpace
    from nni.nas.strategy import RandomOneShot

    from nni_cream import CreamStrategy, data, spaces
    from nni_cream.training import ClassificationModule, make_loader

    settings = SPACES[options.space]
    enlarged = {} if settings["image_size"] is None else {"image_size": settings["image_size"]}
    sizes = settings.get("sizes", {"train": 100 * options.batch, "validation": 4000})
    splits = data.create(settings.get("data", "fashion"), **sizes, **enlarged)
    name = settings.get("space", options.space)
    space = spaces.create(name, num_classes=10, input_channels=1, **settings["arguments"])
    changes = SEARCHES[kind]
    # Meta updates and rescorings are timed apart.
    apart: dict[str, Any] = {
        "warmup": 0,
        "matching": MetaMatcher(interval=10**9),
        "scoring": Scoring(images=options.score_images, rescore_interval=None),
        "teaching": Teaching(start=None, gate=False),  # a teacher in every step
    }
    strategy = RandomOneShot() if changes is None else CreamStrategy(**{**apart, **changes})
    trainer = Trainer(
        max_steps=steps,
        max_epochs=None,
        accelerator="cpu" if options.device == "cpu" else "gpu",
        devices=1,
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[callback],
    )
    evaluator = Lightning(
        ClassificationModule(10, learning_rate=0.05),
        trainer,
        make_loader(splits.train, options.batch, shuffle=True),
        make_loader(splits.validation, 256),
    )
    return lambda: strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())


class Windows(pl.Callback):
    """Warms a training up, then runs a window at each turn.

    Parameters
    ----------
    name
        Which training.
    turns
        Whose turn it is.
    options
        Of the command line.
    drawn
        The path of each step, which RandomOneShot's training adds and the others train, too.
    """

    def __init__(self, name: str, turns: Turns, options: argparse.Namespace, drawn: dict[int, dict[str, Any]]) -> None:
        self.windows: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.meta: list[float] = []
        self.scoring: list[float] = []
        self.rescoring: list[float] = []
        self.fillings: list[float] = []
        self.interval = 1
        self._name, self._turns, self._options = name, turns, options
        self._now = clock(options.device)
        self._timers = Timers(self._now)
        self._drawn = drawn
        self._steps = 0
        self._began = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        owner, method = (module, "resample") if self._name == "random" else (module.sampler, "draw")
        draw = getattr(owner, method)

        def noted() -> Any:
            path = self._drawn[self._steps] = draw()
            return path

        def given() -> Any:
            path = self._drawn[self._steps]
            return module.paths.usage.canonical({label: path[label] for label in draw()})

        setattr(owner, method, noted if self._name == "random" else given)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        place = self._steps - self._options.warm_steps
        if place >= 0 and place % self._options.window == 0:
            if place == 0:
                self._settle(module)
            else:
                self._end_window(module, batch)
            self._turns.hand_back()
            self._turns.wait(self._name)
            self._timers.take()
            self._began = self._now()
        self._steps += 1

    def _settle(self, module: Any) -> None:
        if self._name == "random":
            return
        assert module.board.full, "the board is not full yet: give more --warm-steps"
        self.interval = module.score_interval
        self._compete, module._compete = module._compete, lambda: False
        if self._name == "published":
            transcribe(module)
        for owner, method, part in (
            (module.distiller, "teach", "teacher"),
            (module.matcher, "pick", "matching"),
            (module.sampler, "draw", "sampling"),
        ):
            self._timers.wrap(owner, method, part)

    def _end_window(self, module: Any, batch: Any) -> None:
        self.windows.append(self._now() - self._began)
        self.parts.append(self._timers.take())
        if self._name == "random":
            return
        self.meta.append(self._timed(lambda: module._update_matcher(module._path, batch)))
        step, module._step = module._step, self.interval * (len(self.windows) + 1)
        self.scoring.append(self._timed(self._compete))
        module._step = step
        if self._name != "published":
            images, trained = len(module.scorer.subset), self._options.epoch_steps * self._options.batch
            entries = min(len(module.board), rescored_entries(images, trained))
            one = self._timed(lambda: module.scorer.score(module.board.best.path))
            self.rescoring.append(entries * one)
            self.fillings.append((module.board.capacity + module.board.capacity // 2) * one)

    def _timed(self, call: Callable[[], object]) -> float:
        before = self._now()
        call()
        return self._now() - before


# Measuring ------------------------------------------------------------------------------------------------------------


def interleave(options: argparse.Namespace) -> dict[str, Any]:
    """Run all trainings in turns; return their callbacks, which hold what was timed."""
    import torch

    turns = Turns()
    steps = options.warm_steps + (options.rounds + 1) * options.window + 2
    drawn: dict[int, dict[str, Any]] = {}
    # In the order of the table: RandomOneShot draws a path before the others need it.
    callbacks = {name: Windows(name, turns, options, drawn) for name in SEARCHES if name in options.kinds}

    def train(name: str) -> None:
        torch.set_num_threads(options.threads)
        try:
            turns.wait(name)
            make_training(name, options, callbacks[name], steps)()
        except Stop:
            return
        except BaseException as error:  # noqa: BLE001 (told in the main thread)
            turns.failed = error
        turns.hand_back()

    threads = [threading.Thread(target=train, args=(name,), daemon=True) for name in callbacks]
    for thread in threads:
        thread.start()
    try:
        for turn in range(options.rounds + 1):  # the first turn is all that comes before the first window
            for name in callbacks:
                turns.run(name)
                windows = callbacks[name].windows
                shown = f"{windows[-1] / options.window:.4f} s a step" if windows else "warmed up"
                print(f"round {turn}, {name}: {shown}", flush=True)
    finally:
        turns.end()
        for thread in threads:
            thread.join(timeout=60)
    return callbacks


def summarise(callbacks: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Turn what was timed into ratios."""
    base = [seconds / options.window for seconds in callbacks["random"].windows]

    def all_in(name: str, epoch_steps: int) -> list[float]:
        own = callbacks[name]
        # A mean: which path is scored, and whether it is given up early, differs from one scoring to the next.
        apart = statistics.median(own.meta) / META_INTERVAL + statistics.mean(own.scoring) / own.interval
        if own.rescoring:
            apart += statistics.median(own.rescoring) / epoch_steps
        return [seconds / options.window + apart for seconds in own.windows]

    own = all_in("search", options.epoch_steps)
    ratios = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
    search = callbacks["search"]
    step = statistics.median(own)
    shares = {
        part: statistics.median(taken.get(part, 0.0) for taken in search.parts) / options.window / step
        for part in PARTS
    }
    meta, rescoring = statistics.median(search.meta), statistics.median(search.rescoring)
    steps = SPACES[options.space]["epochs"] * options.epoch_steps
    shares |= {
        "meta_updates": meta / META_INTERVAL / step,
        "scoring": statistics.mean(search.scoring) / search.interval / step,
        "rescoring": rescoring / options.epoch_steps / step,
        "filling": statistics.median(search.fillings) / steps / step,
    }
    ratio = statistics.median(ratios)
    untaught = ratio * (1 - shares["teacher"] - shares["matching"] - shares["meta_updates"])
    whole = WARMUP + (START - WARMUP) * untaught + (1 - START) * ratio + shares["filling"] * ratio
    found: dict[str, Any] = {
        "ratio_median": ratio,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_whole_search": whole,
        "rounds": len(ratios),
        "seconds_a_step": statistics.median(base),
        "shares": {name: round(value, 5) for name, value in shares.items()},
    }
    if "board of 100" in callbacks:
        large = all_in("board of 100", options.epoch_steps)
        found["board_size_ratio"] = statistics.median(b / a for a, b in zip(own, large, strict=True))
    if "published" in callbacks:
        published = all_in("published", options.epoch_steps)
        found["published_ratio"] = statistics.median(b / a for a, b in zip(base, published, strict=True))
        found["meta_update_ratio"] = statistics.median(
            theirs / mine for mine, theirs in zip(search.meta, callbacks["published"].meta, strict=True)
        )
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


def memory_ratio(options: argparse.Namespace) -> float:
    """Peak memory of a search divided by RandomOneShot's, each in a fresh process."""
    script = Path(__file__).with_name("search_memory.py")
    command = [sys.executable, str(script), "--space", options.space, "--rounds", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])[options.space]["ratio"])


@contextmanager
def quiet() -> Iterator[None]:
    from nni_cream.processes.kept_memory import keep_memory
    from nni_cream.runs.quiet_libraries import quiet_libraries

    keep_memory()  # as every training of ours does
    quiet_libraries(training=True)
    yield


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=sorted(SPACES), required=True)
    parser.add_argument("--rounds", type=int, default=7, help="windows of each training (7)")
    parser.add_argument("--window", type=int, default=80, help="steps of a window (80)")
    parser.add_argument("--warm-steps", type=int, default=120, help="steps before the first window (120)")
    parser.add_argument("--batch", type=int, help="images a step; by default as the space is used")
    parser.add_argument("--epoch-steps", type=int, help="steps of a real epoch, for rescoring")
    parser.add_argument("--score-images", type=int, default=2048, help="as in a search (2048)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", default="32-true", help="Lightning's word for it")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    parser.add_argument("--kinds", nargs="+", choices=list(SEARCHES), default=list(SEARCHES), help="which trainings")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory_ratio")
    options = parser.parse_args(words)
    options.batch = options.batch or SPACES[options.space]["batch"]
    options.epoch_steps = options.epoch_steps or SPACES[options.space]["epoch_steps"]
    if not {"random", "search"} <= set(options.kinds):
        parser.error("--kinds: random and search are what is compared")
    with quiet():
        found = summarise(interleave(options), options)
    print(json.dumps(found), flush=True)  # before anything else may fail
    if not options.no_memory:
        found["memory_ratio"] = memory_ratio(options)
    settings = {
        key: getattr(options, key) for key in ("space", "batch", "window", "epoch_steps", "device", "precision")
    }
    print(json.dumps({**settings, **found}))


if __name__ == "__main__":
    main()
