"""Does a search find more than luck does? Its best path against random paths of the same cost range, trained alike.

    nni-cream search experiments/search_fashion.yml --out out/fashion
    python benchmarks/best_against_random.py out/fashion

Every network starts from new weights and gets the same recipe and seed. Random paths are drawn uniformly from those
whose cost lies between the cheapest and the costliest entry of the board. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from nni_cream import data, spaces
from nni_cream.results.architecture_file import load_best
from nni_cream.results.output_folder import read_json
from nni_cream.results.rebuilt_network import build_path
from nni_cream.runs.quiet_libraries import quiet_libraries
from nni_cream.search import CostModel, RandomPaths, Supernet, encode_path, path_key
from nni_cream.strategy import CreamStrategy
from nni_cream.training import RECIPES, retrain, seeded


def sampler_of(best: Any, splits: Any, cost_range: tuple[float, float], seed: int) -> RandomPaths:
    space = spaces.create(best.space["name"], **best.space["arguments"])
    cost = CostModel(Supernet(CreamStrategy().mutate_model(space)), (torch.zeros(1, *splits.input_shape),))
    sampler = RandomPaths(space, seed, cost_range)
    sampler.constrain(cost, table=cost.table)
    return sampler


def train(best: Any, path: dict[str, Any], splits: Any, recipe: Any, seed: int) -> float:
    with seeded(seed):
        network = build_path(best.space, encode_path(path))
    result = retrain(
        network, splits.train, splits.validation, splits.test, recipe, seed, trainer_kwargs={"accelerator": "auto"}
    )
    print(f"validation {result.validation_accuracy:.4f}  test {result.test_accuracy:.4f}  {path}", flush=True)
    return float(result.test_accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path, help="output folder of `nni-cream search`")
    parser.add_argument("--paths", type=int, default=10, help="number of random paths (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random paths and of every training (0)")
    arguments = parser.parse_args()
    quiet_libraries(training=True)
    torch.set_num_threads(1)

    best = load_best(arguments.search)
    board = read_json(arguments.search / "board.json", "board", "search first")
    costs = [entry["cost"] for entry in board["entries"]]
    splits = data.create(best.data["name"], **best.data["arguments"])
    assert splits.fingerprint == best.data["fingerprint"], "the data is not what the search saw"
    sampler = sampler_of(best, splits, (min(costs), max(costs)), arguments.seed)
    recipe = RECIPES[best.space["name"]]

    chosen = train(best, best.choices, splits, recipe, arguments.seed)
    seen, accuracies = {path_key(best.choices)}, []
    while len(accuracies) < arguments.paths:
        path = sampler.draw()
        if path_key(path) not in seen:
            seen.add(path_key(path))
            accuracies.append(train(best, path, splits, recipe, arguments.seed))
    report = {
        "best": chosen,
        "random_median": statistics.median(accuracies),
        "random": sorted(accuracies),
        "beaten": sum(chosen > accuracy for accuracy in accuracies),
        "cost_range": [min(costs), max(costs)],
        "seed": arguments.seed,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
