"""Does the predictor rank the paths of every kind of space? Its predictions beside the scores of fresh random paths.

    python benchmarks/predictor_spaces.py --space cream [--epochs 12] [--paths 100] [--seed 0]
    python benchmarks/predictor_spaces.py --space widths

``cream`` is the paper's space at 64 pixels, with depths as conditional choices, within a range of multiply-adds and one
of parameters. ``widths`` chooses kernel sizes and widths inside of shared convolutions, with ``nni.choice``. Each is
searched on Fashion-MNIST with the defaults. Then paths that no training step need have seen are drawn within the ranges
and scored on 2,048 validation images. Prints one JSON line last: Kendall's tau of the scores with the predictions, with
those without the prior of size and, for comparison, with the multiply-adds. A truth would be better, and these spaces
have none: scores of a supernet that has learned little favour small paths, and the prior of size corrects that.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import nni
import torch
from nni.nas.nn.pytorch import ModelSpace, MutableBatchNorm2d, MutableConv2d, MutableLinear
from scipy import stats
from torch import Tensor, nn

FORM = {"image_size": 64, "depths": [1, [1, 2], [1, 3], [2, 3], [1, 2]]}
SPACES: dict[str, dict[str, Any]] = {
    "cream": {"image_size": 64, "costs": {"macs": [5e6, 14e6], "params": [None, 3e6]}},
    "widths": {"image_size": None, "costs": None},
}


class Widths(ModelSpace):
    """Four convolutions in a row; kernel size and width of each are chosen."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before: Any = 1
        for number in range(1, 5):
            width = nni.choice(f"width_{number}", [8, 16, 24, 32])
            kernel = nni.choice(f"kernel_{number}", [1, 3, 5])
            stride = 2 if number % 2 else 1
            layers += [
                MutableConv2d(before, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                MutableBatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = MutableLinear(before, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(images).mean(dim=(2, 3)))
        return logits


def searched(options: argparse.Namespace) -> tuple[Any, float]:
    """Return a strategy after its search, and the CPU seconds that the search took."""
    from nni.nas.evaluator.pytorch import Lightning, Trainer
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.space import RawFormatModelSpace

    from nni_cream import CreamStrategy, data, spaces
    from nni_cream.training import ClassificationModule, make_loader, seeded

    settings = SPACES[options.space]
    enlarged = {} if settings["image_size"] is None else {"image_size": settings["image_size"]}
    splits = data.create("fashion", train=options.train, validation=2048, seed=options.seed, **enlarged)
    cost: dict[str, Any] = {}
    if settings["costs"]:
        cost = {"cost": list(settings["costs"]), "cost_range": settings["costs"]}
    with seeded(options.seed):
        space = (
            Widths() if options.space == "widths" else spaces.create("cream", num_classes=10, input_channels=1, **FORM)
        )
        trainer = Trainer(
            max_epochs=options.epochs,
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        evaluator = Lightning(
            ClassificationModule(10, learning_rate=0.05),
            trainer,
            make_loader(splits.train, 64, shuffle=True),
            make_loader(splits.validation, 256),
        )
        strategy = CreamStrategy(seed=options.seed, **cost)
        began = time.process_time()
        strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
        return strategy, time.process_time() - began


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=sorted(SPACES), required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train", type=int, default=8000, help="training images (8000)")
    parser.add_argument("--paths", type=int, default=100, help="fresh paths (100)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)

    from nni_cream.runs.quiet_libraries import quiet_libraries
    from nni_cream.search import Costs, RandomPaths, path_key

    quiet_libraries(training=True)
    torch.set_num_threads(1)
    strategy, seconds = searched(options)
    module = strategy.oneshot_module
    fresh = RandomPaths(module.supernet.space, options.seed + (1 << 32))
    costs: Costs = module.costs
    costs.constrain(fresh)
    found: dict[str, Any] = {}
    while len(found) < options.paths:
        path = module.supernet.usage.canonical(fresh.draw())
        found.setdefault(path_key(path), path)
    paths = [*found.values()]
    scores = [module.scorer.score(path) for path in paths]
    sizes = [costs.primary(path) for path in paths]
    predicted = module.predictor.means(paths)
    module.predictor.sizes = None
    without_size = module.predictor.means(paths)
    print(
        json.dumps(
            {
                **vars(options),
                "cpu_seconds": round(seconds, 1),
                "steps": module.steps,
                "effects": module.predictor.size,
                "tau_predicted": round(stats.kendalltau(predicted, scores).statistic, 3),
                "tau_predicted_without_size": round(stats.kendalltau(without_size, scores).statistic, 3),
                "tau_multiply_adds": round(stats.kendalltau(sizes, scores).statistic, 3),
                "scores": [round(min(scores), 4), round(max(scores), 4)],
                "board_best": module.board.best.accuracy,
            }
        )
    )


if __name__ == "__main__":
    main()
