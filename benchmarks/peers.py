"""nni_cream beside its peers: the same images, limit of multiply-adds and CPU time, and retraining.

    python benchmarks/peers.py --data out/cifar10 --out out/peers
    python benchmarks/peers.py --out out/peers --report --truth out/truth_nas_bench_macro.json

CIFAR-10 is an image folder with `train` and `test`; 10,000 images train, 2,500 are for decisions of a search, and all
of `test` judge the chosen network once. The script makes two virtual environments below `--out` (about 6 GB each) and
runs each peer, a script in benchmarks/peers/, in one of them. Each pair of peer and seed becomes a line of
`records.jsonl`; the same command resumes. A peer that fails is recorded with its error. To repeat it, delete its line.
With a truth, from `nni-cream study import-truth`, the table also has the regret of each choice in that space. It is the
accuracy of the best network within the limit, less that of the chosen one, both trained for long by others.

Equal for all: the CPU time of the search in its own process, with one thread; at most 40 million multiply-adds,
counted by torch on the final network; the recipe (SGD, cosine, shift and flip) of search and retraining; new weights.
Short trainings measure what a step costs, and the number of steps follows. They count for nobody. A training that
misses its time by more than a tenth is repeated, up to twice, and only the last one counts. nni_cream is the installed
one: run from a clone that nobody edits meanwhile.

Not equal, since the peers are what they are:

* nni_cream and NNI's strategies search `nas-bench-macro`, in which a seventh of the paths is within the limit.
  modelopt searches MobileNetV2, and the widths of MobileNetV3 and EfficientNet-lite are not searched at all.
* nni_cream's defaults were chosen in that space, on these images. Seeds 0 to 2 chose them, so 5 to 7 are the default
  here. The settings of the others are the defaults of their libraries, or one guess that the scripts explain.
* All decide by the same 2,500 validation images, each in its way. Evolution and modelopt score 1,024 of them, and
  nni_cream searches on 1,024 that it draws, and ends on these. ENAS, DARTS and Proxyless learn from all.
* nni_cream and RandomOneShot train paths within the limit alone. For evolution a table of costs filters them. ENAS has
  a penalty, and its last proposals are filtered. DARTS and Proxyless give the most probable path within the limit.
* Lines of code are those between marks in the scripts, without blank lines and comments. Loops of training, clocks and
  the Lightning evaluator, which nni_cream and NNI share, count for nobody.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nni_cream.errors import CreamError
from nni_cream.studies.intervals import Estimate, over_seeds
from nni_cream.studies.jobs import Job, Records, run_jobs
from nni_cream.studies.ranking.choice_rules import WholeTruth
from nni_cream.studies.report import as_markdown, show_estimate
from nni_cream.studies.truths.truth import Truth, load_truth

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks/peers"
LIMIT = 40e6
# tianshou and gym are for ENAS; the newer torchprofile lacks what modelopt 0.47 imports from it.
ENVIRONMENTS = {
    "nni": ("-e", f"{ROOT}[recipes]", "tianshou<1", "gym"),
    "modelopt": ("-e", str(ROOT), "nvidia-modelopt[hf]==0.47.*", "torchprofile<0.1"),
}
HEAD = (
    "peer", "seeds", "test accuracy", "less nni_cream", "multiply-adds (M)", "search CPU seconds", "training steps",
    "lines",
)  # fmt: skip
REGRET = "regret (points)"


@dataclasses.dataclass(frozen=True)
class Peer:
    """What a peer is called, the environment that it needs, and the modules that it shares with others."""

    title: str
    environment: str
    parts: tuple[str, ...] = ()


PEERS = {
    "cream": Peer("nni_cream", "nni"),
    "largest": Peer("the largest within the limit, no search", "nni", ("nni_parts",)),
    "nni_evolution": Peer("NNI RandomOneShot + RegularizedEvolution", "nni", ("nni_parts",)),
    "nni_enas": Peer("NNI ENAS", "nni", ("nni_parts",)),
    "nni_proxyless": Peer("NNI Proxyless", "nni", ("nni_parts", "nni_probable")),
    "nni_darts": Peer("NNI DARTS", "nni", ("nni_parts", "nni_probable")),
    "modelopt_autonas": Peer("modelopt AutoNAS, MobileNetV2", "modelopt", ("small_images",)),
    "mobilenet_v3_small": Peer("MobileNetV3-small, width only", "nni", ("small_images",)),
    "efficientnet_lite0": Peer("EfficientNet-lite0, width only", "nni", ("small_images",)),
}
BASELINE = "cream"


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    records_file = options.out / "records.jsonl"
    try:
        if not options.report:
            run(options, records_file)
        text = report(records_file, options.truth and load_truth(options.truth))
    except CreamError as error:
        raise SystemExit(f"peers.py: {error}") from error
    (options.out / "peers.md").write_text(text)
    print(text, end="")
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="image folder with train and test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU time of each search")
    parser.add_argument("--epochs", type=int, default=10, help="of each retraining")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    parser.add_argument("--peers", nargs="+", default=[*PEERS], metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--workers", type=int, default=1, help="peers at once, each with one thread")
    parser.add_argument("--report", action="store_true", help="run nothing, write the table of the records")
    parser.add_argument("--truth", type=Path, help="accuracies of all networks of nas-bench-macro, for their regrets")
    options = parser.parse_args(words)
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise SystemExit(f"peers.py: --peers is {', '.join(unknown)}; expected some of {', '.join(PEERS)}.")
    if not (options.seconds > 0 and min(options.epochs, options.workers) >= 1 and min(options.seeds) >= 0):
        raise SystemExit(
            "peers.py: --seconds, --epochs, --workers or a seed is too small; expected above 0, at least 1, 1 and 0."
        )
    if not options.report and not (options.data and all((options.data / part).is_dir() for part in ("train", "test"))):
        raise SystemExit(f"peers.py: --data is {options.data}; expected a folder of images with train and test.")
    return options


# Running --------------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace, records_file: Path) -> None:
    """Run all pairs of peer and seed that have no record yet."""
    options.out.mkdir(parents=True, exist_ok=True)
    task = {
        "data": str(options.data),  # as given, so that records hold no path of a machine
        "seconds": options.seconds,
        "epochs": options.epochs,
        "limit": LIMIT,
    }
    records = Records(records_file, task)
    jobs = [
        Job(f"{peer} seed {seed}", {"peer": peer, "seed": seed}) for seed in options.seeds for peer in options.peers
    ]
    missing = records.missing(jobs)
    pythons = {name: environment(options.out / "venvs" / name, ENVIRONMENTS[name]) for name in needed(missing)}
    run_jobs(partial(run_peer, pythons, options.out), jobs, records, options.workers, on_done=tell)


def needed(jobs: Sequence[Job]) -> list[str]:
    """Return the names of the environments that some jobs need, each once."""
    return sorted({PEERS[job.arguments["peer"]].environment for job in jobs})


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Make a virtual environment, unless it is there, and return its Python."""
    python, stamp, content = folder / "bin/python", folder / "peers.json", json.dumps(packages)
    if not (stamp.exists() and stamp.read_text() == content):
        print(f"installing {' '.join(packages)} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        finished = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if finished.returncode:
            raise SystemExit(
                f"peers.py: pip cannot install into {folder} ({last_line(finished.stderr)}). Is there a network?"
            )
        stamp.write_text(content)
    return python


def run_peer(
    pythons: Mapping[str, Path], out: Path, task: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Search and retrain in a process of the peer's environment; an error is a result, too."""
    peer, seed = arguments["peer"], arguments["seed"]
    own = out / f"{peer}_{seed}"
    own.mkdir(exist_ok=True)
    source, target, log = own / "job.json", own / "result.json", own / "log.txt"
    target.unlink(missing_ok=True)
    source.write_text(json.dumps({**task, "data": str(Path(task["data"]).resolve()), "seed": seed}))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [pythons[PEERS[peer].environment], SCRIPTS / f"{peer}.py", source.resolve(), target.resolve()]
    with log.open("w") as output:
        # Its folder as the working directory: Lightning and NNI may write files.
        finished = subprocess.run(
            [str(Path(word).absolute()) for word in command],
            cwd=own,
            env={**variables, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if finished.returncode or not target.exists():
        return {"error": last_line(log.read_text()) or f"exit code {finished.returncode}"}
    result: dict[str, Any] = json.loads(target.read_text())
    return result


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def tell(job: Job, result: Mapping[str, Any]) -> None:
    print(f"{job.key}: {result.get('error') or result['test_accuracy']}", flush=True)


# The report -----------------------------------------------------------------------------------------------------------


def count_lines(text: str) -> int:
    """Count the lines that a user writes: between the marks, neither blank nor a comment."""
    inside, lines = False, 0
    for line in map(str.strip, text.splitlines()):
        if line in ("# user: begin", "# user: end"):
            inside = line.endswith("begin")
        elif inside and line and not line.startswith("#"):
            lines += 1
    return lines


def lines_of(name: str) -> int:
    return sum(count_lines((SCRIPTS / f"{part}.py").read_text()) for part in (name, *PEERS[name].parts))


def report(records_file: Path, truth: Truth | None = None) -> str:
    """Return the table of all records as Markdown."""
    if not records_file.exists():
        raise SystemExit(f"peers.py: {records_file} does not exist; expected the records of a run. Leave out --report.")
    head, *lines = [json.loads(line) for line in records_file.read_text().splitlines()]
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in PEERS}
    for line in lines:
        found[line["arguments"]["peer"]][line["arguments"]["seed"]] = line["result"]
    task, baseline = head["shared"], good(found[BASELINE])
    found = {name: results for name, results in found.items() if results}
    rows = [row(name, results, baseline) for name, results in found.items()]
    counts = sorted({f"{line['result']['training_images']:,}" for line in lines if "error" not in line["result"]})
    intro = (
        f"{Path(task['data']).name}, {' or '.join(counts)} training images; at most {task['limit'] / 1e6:g} million "
        "multiply-adds; "
        f"{task['seconds']:g} CPU seconds for a search; {task['epochs']} epochs of retraining. Brackets are 95 % "
        "Student intervals over the seeds, differences are paired by seed."
    )
    if truth is None:
        return f"{intro}\n\n{as_markdown(HEAD, rows)}"
    within = truth_within(truth, task["limit"])
    whole = WholeTruth(within, within)
    for cells, results in zip(rows, found.values(), strict=True):
        chosen = [result["choice"] for result in good(results).values()]
        regrets = [whole.regret(choice) for choice in chosen if isinstance(choice, dict)]
        own = [100 * regret for regret in regrets if regret is not None]  # of those who search this space
        cells.append(show_estimate(over_seeds(own).within(0, 100), 2) if own else "")
    mean = 100 * (max(within.means) - sum(within.means) / len(within.means))
    here, *nearby = (regret_of_largest(truth, task["limit"] * share / 20) for share in (20, *range(15, 26)))
    intro += (
        f" {len(within.means)} networks of the truth are within the limit, with a mean regret of {mean:.2f}. The "
        f"largest network has {here:.2f}, and {sum(nearby) / len(nearby):.2f} as the mean of {len(nearby)} limits from "
        "0.75 to 1.25 of this one."
    )
    return f"{intro}\n\n{as_markdown((*HEAD, REGRET), rows)}"


def truth_within(truth: Truth, limit: float) -> Truth:
    """Return the truth of the networks within a limit of multiply-adds that are known with all seeds."""
    places = [place for place in truth.known if truth.macs[place] <= limit]
    if not places:
        raise SystemExit(
            f"peers.py: --truth has no network within {limit:,.0f} multiply-adds; expected nas-bench-macro."
        )
    return truth.at(places)


def regret_of_largest(truth: Truth, limit: float) -> float:
    """Return the points that the network with the most multiply-adds loses within the limit; of several, their mean."""
    within = truth_within(truth, limit)
    return 100 * WholeTruth(within, within).regret_of_highest(np.array(within.macs))


def good(results: Mapping[int, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {seed: result for seed, result in results.items() if "error" not in result}


def row(name: str, results: Mapping[int, Mapping[str, Any]], baseline: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return the cells of a peer; with failures alone, the error."""
    title, complete, lines = PEERS[name].title, good(results), str(lines_of(name))
    failed = [result["error"] for result in results.values() if "error" in result]
    seeds = f"{len(complete)}" + (f" ({len(failed)} failed)" if failed else "")
    if not complete:
        return [title, seeds, f"failed: {failed[0].replace('|', '/')}", "", "", "", "", lines]

    def mean(key: str) -> Estimate:
        return over_seeds([result[key] for result in complete.values()])

    pairs = [
        result["test_accuracy"] - baseline[seed]["test_accuracy"]
        for seed, result in complete.items()
        if seed in baseline
    ]
    return [
        title,
        seeds,
        show_estimate(mean("test_accuracy").within(0, 1), 4),
        show_estimate(over_seeds(pairs).within(-1, 1), 4, signed=True) if pairs and name != BASELINE else "",
        f"{mean('multiply_adds').value / 1e6:.1f}",
        f"{mean('search_cpu_seconds').value:.0f}",
        "" if None in [result["steps"] for result in complete.values()] else f"{mean('steps').value:.0f}",
        lines,
    ]


if __name__ == "__main__":
    sys.exit(main())
