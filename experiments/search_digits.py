"""Search a space of your own from Python:  python experiments/search_digits.py  (about a minute)."""

from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn, set_num_threads

from nni_cream import CreamStrategy, data
from nni_cream.training import ClassificationModule, Recipe, make_loader, retrain


class MySpace(ModelSpace):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.layers = nn.Sequential(*[LayerChoice(self.operations(), label=f"layer_{i}") for i in range(5)])
        self.head = nn.Linear(16, 10)

    def operations(self):
        convs = {f"conv_{k}x{k}": nn.Conv2d(16, 16, k, padding=k // 2, bias=False) for k in (1, 3, 5)}
        blocks = {name: nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU()) for name, conv in convs.items()}
        return {**blocks, "max_pool": nn.MaxPool2d(3, 1, 1), "skip": nn.Identity()}

    def forward(self, x):
        return self.head(self.layers(self.stem(x)).amax((2, 3)))


if __name__ == "__main__":
    set_num_threads(1)  # networks this small are no faster on more
    digits = data.create("digits")
    loaders = [make_loader(digits.train, 64, shuffle=True), make_loader(digits.validation, 360)]
    trainer = Trainer(max_epochs=15, logger=False, enable_checkpointing=False, enable_model_summary=False)
    evaluator = Lightning(ClassificationModule(digits.num_classes), trainer, *loaders)
    strategy = CreamStrategy(board_size=10, cost_range=(None, 400_000))  # at most 400,000 multiply-adds
    experiment = NasExperiment(MySpace(), evaluator, strategy)
    experiment.run()
    best = experiment.export_top_models(formatter="dict")[0]
    network = strategy.supernet.freeze(best)  # a network of its own, with the supernet's weights
    result = retrain(network, digits.train, digits.validation, digits.test, Recipe(epochs=15), seed=0)
    print(best, f"{strategy.board.best.cost:,.0f} multiply-adds", f"test accuracy {result.test_accuracy:.4f}", sep="\n")
