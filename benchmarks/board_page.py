"""What does the board page cost NNI's manager, and does it stay responsive with 20,000 scored paths?

    python benchmarks/board_page.py

A real manager of its own runs five search trials. They train nothing: each reports 500 made-up updates through NNI's
own channel, 40 scored paths an update in the first trial and 8 in the others, and then one more every three seconds.
Rounds with the page open in a headless Chromium (on the trial with 20,000 paths) take turns with rounds without it; the
share of a core is the processor time of the manager's process, divided by the time of the round. Prints one JSON line
last. Needs the extra `test`, and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

UPDATES = 500
SCORED = (40, 8)  # paths an update: in the first trial, in the others
TRIALS = 5
LIVE_SECONDS = 3.0
SETTLE_SECONDS = 6.0

WATCH = """
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((entry) => entry.duration)))
    .observe({ type: "longtask", buffered: true });
new MutationObserver(() => {
    if (!window.drawn && document.querySelector("#board tbody tr")) window.drawn = performance.now();
}).observe(document, { childList: true, subtree: true });
"""
POINTER = """
const canvas = document.querySelector("#cloud canvas.cursor");
const box = canvas.getBoundingClientRect();
const times = [];
for (let index = 0; index < 60; index += 1) {
    const started = performance.now();
    const place = { clientX: box.left + 70 + 6 * index, clientY: box.top + 40 + 2 * index };
    canvas.dispatchEvent(new PointerEvent("pointermove", place));
    times.push(performance.now() - started);
}
return times;
"""


def report_as_trial() -> None:
    """Be one of the trials: report, and go on reporting until NNI ends this process."""
    from nni_cream.manager.trial import Reporter
    from tests.manager.fakes import made_up_search

    reporter = Reporter()
    seed = reporter.parameters["seed"]
    for number, metric in enumerate(made_up_search(4 * UPDATES, SCORED[min(seed, 1)], seed=seed), 1):
        if number > UPDATES:
            time.sleep(LIVE_SECONDS)
        reporter.intermediate(number, metric)


def experiment_file(folder: Path) -> Path:
    content = {
        "experimentName": "board_page_benchmark",
        "experimentWorkingDirectory": str(folder / "nni"),
        "searchSpace": {"seed": {"_type": "choice", "_value": list(range(TRIALS))}},
        "trialCommand": f"exec {sys.executable} {Path(__file__).resolve()} --trial",
        "trialCodeDirectory": str(ROOT / "benchmarks"),
        "trialConcurrency": TRIALS,
        "tuner": {
            "className": "nni_cream.manager.tuner.CreamTuner",
            "codeDirectory": str(ROOT),
            "classArgs": {"space": "digits", "data": "digits", "search": {"epochs": 4 * UPDATES}},
        },
        "trainingService": {"platform": "local"},
    }
    path = folder / "experiment.yml"
    path.write_text(json.dumps(content))  # which is YAML as well
    return path


def wait_for_updates(api: str) -> dict[str, Any]:
    """Wait until every trial has reported all that it has in store; return the id of the one with the most paths."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        time.sleep(2)
        latest = requests.get(f"{api}/metric-data-latest", timeout=60).json()
        if len([record for record in latest if record["sequence"] >= UPDATES]) == TRIALS:
            jobs = requests.get(f"{api}/trial-jobs", timeout=60).json()
            records = requests.get(f"{api}/metric-data", timeout=60).json()
            size = statistics.mean(len(record["data"]) for record in records)
            first = next(job["trialJobId"] for job in jobs if job["sequenceId"] == 0)
            print(f"{len(records)} metrics, {size:.0f} characters on average", flush=True)
            return {"first": first, "metrics": len(records), "mean_metric_characters": round(size)}
    raise SystemExit("the trials did not report in time")


def share(process: psutil.Process, seconds: float) -> float:
    """Return how much of a core the manager takes in that time, in percent."""
    before, started = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after, passed = process.cpu_times(), time.monotonic() - started
    return 100 * (after.user - before.user + after.system - before.system) / passed


def measure(browser: Any, address: str, process: psutil.Process, rounds: int, seconds: float) -> dict[str, Any]:
    shares: dict[str, list[float]] = {"without": [], "with": []}
    drawn, loading, updating, pointer = [], [], [], []
    for number in range(rounds):
        for kind in ("without", "with") if number % 2 else ("with", "without"):
            browser.get("about:blank")
            if kind == "with":
                browser.get(address)
            time.sleep(SETTLE_SECONDS)
            if kind == "with":
                drawn.append(browser.execute_script("return window.drawn"))
                loading += browser.execute_script("return window.longTasks.splice(0)")
            shares[kind].append(share(process, seconds))
            if kind == "with":
                updating += browser.execute_script("return window.longTasks.splice(0)")
                pointer += browser.execute_script(POINTER)
            print(f"round {number + 1} {kind}: {shares[kind][-1]:.2f} % of a core", flush=True)
    extra = [page - alone for page, alone in zip(shares["with"], shares["without"], strict=True)]
    return {
        "share_with_percent": [round(value, 2) for value in shares["with"]],
        "share_without_percent": [round(value, 2) for value in shares["without"]],
        "share_of_page_percent": round(statistics.mean(extra), 2),
        "drawn_after_ms": [round(value) for value in drawn],
        "longest_task_loading_ms": round(max(loading, default=0)),
        "longest_task_updating_ms": round(max(updating, default=0)),
        "pointer_ms": round(statistics.median(pointer), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="rounds of each kind (4)")
    parser.add_argument("--seconds", type=float, default=30, help="length of a round (30)")
    parser.add_argument("--trial", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        report_as_trial()
        return

    from nni.experiment import Experiment, RunMode

    from nni_cream.manager.experiment_file import load_experiment
    from nni_cream.manager.ports import free_port
    from nni_cream.page import page_address
    from tests.manager.browser import open_browser

    with tempfile.TemporaryDirectory(prefix="nni_cream_benchmark_", ignore_cleanup_errors=True) as folder:
        port = free_port()
        experiment = Experiment(load_experiment(experiment_file(Path(folder))))
        experiment.start(port, run_mode=RunMode.Detach)
        try:
            known = wait_for_updates(f"http://127.0.0.1:{port}/api/v1/nni")
            with open_browser() as browser:
                browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
                address = f"{page_address(port)}#{known.pop('first')}"
                process = psutil.Process(experiment._proc.pid)
                result = measure(browser, address, process, arguments.rounds, arguments.seconds)
        finally:
            experiment.stop()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{platform.machine()}, {psutil.cpu_count()} cores"
    print(json.dumps({**known, **result, "commit": commit, "machine": machine}))


if __name__ == "__main__":
    main()
