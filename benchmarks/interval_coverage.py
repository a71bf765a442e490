"""How often do the intervals of `nni-cream rank` hold the true value?

    python benchmarks/interval_coverage.py [--trials 1000]

Scores of two methods are made up, with the variances that the supernets of docs/evidence/rank have (spos and default,
seeds 5 to 9, BatchNorm recalibrated): architectures differ, seeds differ, a seed moves each architecture in its own
way, and of all three a part is common to both methods. Neither method is better, so the true difference is 0; the true
tau is the mean over all trials. Prints the share of intervals that hold the truth, which should be 0.95, for several
numbers of architectures and seeds, and one JSON line last. A minute or two of one core.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from nni_cream.studies.correlation import kendall_tau, measure_ranking, paired_difference

ARCHITECTURE, WITH_TRUTH = 0.060, 0.77  # standard deviation over architectures, correlation with the truth
SEED, BOTH = 0.009, 0.022  # over seeds; of a seed and an architecture together
OF_METHOD = {"architecture": 0.0044, "seed": 0.0019, "both": 0.0059}  # what each method adds of its own


def draw(
    generator: np.random.Generator, architectures: int, seeds: int
) -> tuple[np.ndarray, list[dict[int, list[float]]]]:
    """Return accuracies of architectures trained alone, and the scores of two methods by seed."""
    truth = generator.normal(size=architectures)
    luck = generator.normal(size=architectures)
    common = (
        ARCHITECTURE * (WITH_TRUTH * truth + np.sqrt(1 - WITH_TRUTH**2) * luck)
        + SEED * generator.normal(size=(seeds, 1))
        + BOTH * generator.normal(size=(seeds, architectures))
    )
    methods = []
    for _ in range(2):
        own = (
            common
            + OF_METHOD["architecture"] * generator.normal(size=architectures)
            + OF_METHOD["seed"] * generator.normal(size=(seeds, 1))
            + OF_METHOD["both"] * generator.normal(size=(seeds, architectures))
        )
        methods.append({seed: scores.tolist() for seed, scores in enumerate(own)})
    return truth, methods


def coverage(architectures: int, seeds: int, trials: int, resamples: int) -> dict[str, float]:
    generator = np.random.default_rng([architectures, seeds])
    worlds = [draw(generator, architectures, seeds) for _ in range(trials)]
    expected = np.mean([kendall_tau(own[0], truth) for truth, (own, _) in worlds])
    held = {"tau": 0, "tau less baseline": 0, "score less baseline": 0}
    for truth, (own, other) in worlds:
        known = truth.tolist()
        tau = measure_ranking(own, known, "tau", resamples)
        held["tau"] += bool(tau.low <= expected <= tau.high)
        for name, measure in (("tau less baseline", "tau"), ("score less baseline", "accuracy")):
            difference = paired_difference(own, other, known, measure, resamples)
            held[name] += bool(difference.low <= 0 <= difference.high)
    return {name: round(number / trials, 3) for name, number in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    found = []
    for architectures in (32, 64):
        for seeds in (1, 2, 3, 5):
            held = coverage(architectures, seeds, options.trials, options.resamples)
            print(f"{architectures} architectures, {seeds} seeds: {held}")
            found.append({"architectures": architectures, "seeds": seeds, **held})
    print(json.dumps({"trials": options.trials, "coverage": found}))


if __name__ == "__main__":
    main()
