"""What ranks paths best: the losses of training steps, one-shot scores, or many paths on small validation batches?

    python benchmarks/validation_observations.py experiments/rank_nas_bench_macro.yml \\
        --truth out/truth_nas_bench_macro.json [--variant spos] [--seeds 0 1 2]

For each seed one supernet is trained, as the file says. Then three measurements of it are compared, listed before their
figures were known. The predictor learns from the training steps; nothing is paid for these. The study's architectures
are scored on the search's validation subset. For as many images in all, random paths get one batch of the subset each,
and the predictor's regression learns from these losses, less the mean of their batch; also for a quarter and a
sixteenth of the images. Last, training steps and observations together: the mean of both predictions, each in standard
deviations. All have the prior of size. Prints one JSON line last: Kendall's tau over the scored architectures and over
all, and the regret of the best of all (points of accuracy), for each seed and in the mean.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from predictor_variants import Array, standard
from scipy import stats
from torch.nn import functional

from nni_cream.config import RANK
from nni_cream.from_config import fit_space
from nni_cream.search import Path as NetworkPath
from nni_cream.search import RandomPaths
from nni_cream.search.scoring.predictor import PathPredictor
from nni_cream.studies.parts import load_parts
from nni_cream.studies.ranking.rank_study import make_variants, shared_by_all
from nni_cream.studies.supernets import TrainedSupernet, trained_supernet
from nni_cream.studies.truths.truth import Truth, load_truth

SHARES = {"": 1.0, ", a quarter of the images": 0.25, ", a sixteenth": 0.0625}
STREAM = 3 << 32  # added to a seed, so that paths differ from those of the training


def observe(supernet: TrainedSupernet, number: int) -> tuple[list[NetworkPath], Array]:
    """Return random paths, and the loss of each on one batch of the validation subset, less the mean of that batch."""
    module, chunks = supernet.module, supernet.module.scorer.subset.chunks
    random = RandomPaths(module.supernet.space, supernet.settings["seed"] + STREAM)
    paths, losses = [random.draw() for _ in range(number)], np.zeros(number)
    for place, path in enumerate(paths):
        images, labels = chunks[place % len(chunks)]
        module.supernet.activate(path)
        with module.supernet.detached():
            losses[place] = float(functional.cross_entropy(module.supernet.space(images), labels))
    for chunk in range(min(len(chunks), number)):
        losses[chunk :: len(chunks)] -= losses[chunk :: len(chunks)].mean()
    return paths, losses


def predictions(supernet: TrainedSupernet, paths: list[NetworkPath], losses: Array, wanted: list[NetworkPath]) -> Array:
    """Return what the regression makes of other paths: the higher the better."""
    module = supernet.module
    predictor = PathPredictor(module.supernet.mutables, module.supernet.usage)
    predictor.observe(paths, list(losses))
    predictor.sizes = module.predictor.sizes
    return np.asarray(predictor.predict(wanted).mean)


def judge(values: Array, truth: Truth, part: NDArray[np.intp]) -> dict[str, float]:
    """Return the figures of a ranking of all architectures of a truth."""
    means = np.array(truth.means)
    return {
        "tau of those scored": float(stats.kendalltau(values[part], means[part]).statistic),
        "tau": float(stats.kendalltau(values, means).statistic),
        "regret": 100 * float(means.max() - means[np.argmax(values)]),
    }


def compare(shared: dict[str, Any], search: dict[str, Any], truth: Truth, part: NDArray[np.intp]) -> dict[str, Any]:
    """Train one supernet, and return the figures of each measurement, with the CPU seconds that it took."""
    with trained_supernet(shared, search) as supernet:
        every = [supernet.decode(path) for path in truth.architectures]
        steps = np.asarray(supernet.module.predictor.predict(every).mean)
        found: dict[str, Any] = {"training steps": judge(steps, truth, part)}
        began = time.process_time()
        scores = np.array([supernet.score(every[place]) for place in part])
        tau = float(stats.kendalltau(scores, np.array(truth.means)[part]).statistic)
        found["one-shot scores"] = {"tau of those scored": tau, "cpu_seconds": time.process_time() - began}
        batches = len(part) * len(supernet.module.scorer.subset.chunks)
        for name, share in SHARES.items():
            began = time.process_time()
            paths, losses = observe(supernet, max(2, round(share * batches)))
            seconds = time.process_time() - began
            own = predictions(supernet, paths, losses, every)
            found[f"observations{name}"] = {**judge(own, truth, part), "cpu_seconds": seconds}
            both = standard(own) + standard(steps)
            found[f"training steps and observations{name}"] = judge(both, truth, part)
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="file of a ranking study")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--variant", default="spos", help="of the study, which trains the supernets (spos)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(words)
    config, truth = RANK.load(options.study), load_truth(options.truth)
    config["study"] |= {"seeds": options.seeds, "evolution": None, "record_steps": False}
    config = fit_space(config, load_parts(config["data"], config["study"]["judging_images"]).splits)
    scored = truth.part(config["study"]["scored"])
    part = np.array([truth.architectures.index(path) for path in scored.architectures])
    shared = shared_by_all(config, scored)
    variant = next(item for item in make_variants(config) if item.name == options.variant)
    found: dict[str, dict[str, list[float]]] = {}
    for seed, job in variant.jobs.items():
        own = compare(shared, job.arguments["search"], truth, part)
        print(f"seed {seed}: {json.dumps(own)}", flush=True)
        for name, figures in own.items():
            for figure, value in figures.items():
                found.setdefault(name, {}).setdefault(figure, []).append(round(value, 4))
    mean = {name: {key: float(np.mean(values)) for key, values in own.items()} for name, own in found.items()}
    print(json.dumps({"seeds": options.seeds, "variant": options.variant, "measurements": found, "mean": mean}))


if __name__ == "__main__":
    main()
