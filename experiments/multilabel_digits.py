"""Find all digits of a scene, several labels an image:  python experiments/multilabel_digits.py  (half a minute)."""

import argparse

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from torchmetrics.classification import MultilabelAveragePrecision

from nni_cream import CreamStrategy


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def operations():
    convs = {k: nn.Conv2d(32, 32, k, padding=k // 2, bias=False) for k in (1, 3, 5)}
    blocks = {f"conv_{k}x{k}": Residual(conv, nn.BatchNorm2d(32), nn.ReLU()) for k, conv in convs.items()}
    return {**blocks, "skip": nn.Identity()}


class TenLogits(ModelSpace):
    def __init__(self):
        super().__init__()
        stem = nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)
        layers = [LayerChoice(operations(), label=f"layer_{i}") for i in range(3)]
        self.network = nn.Sequential(*stem, *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, images):
        return self.network(images)


class Occurrence(LightningModule):
    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_index):
        images, labels = batch
        return functional.binary_cross_entropy_with_logits(self(images), labels.float())

    def validation_step(self, batch, batch_index):
        self.log("val_loss", self.training_step(batch, batch_index))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.005)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


def scenes(digits, classes, count):
    """Put three digits into three of the four quarters of each scene."""
    images, labels = torch.zeros(count, 1, 16, 16), torch.zeros(count, 10, dtype=torch.long)
    for image, label in zip(images[:, 0], labels, strict=True):
        for quarter, chosen in zip(torch.randperm(4)[:3], torch.randint(len(digits), (3,)), strict=True):
            top, left = 8 * (quarter // 2), 8 * (quarter % 2)
            image[top : top + 8, left : left + 8] = digits[chosen]
            label[classes[chosen]] = 1
    return TensorDataset(images, labels)


def main(epochs=25, seed=0):
    pl.seed_everything(seed)
    data = load_digits()
    pixels, classes = torch.tensor(data.images).float() / 16, torch.tensor(data.target)
    parts = torch.randperm(len(pixels)).split([1080, 360, 357])  # no digit is in two parts
    training, validation, test = (
        scenes(pixels[part], classes[part], count) for part, count in zip(parts, (2000, 400, 400), strict=True)
    )
    loaders = [DataLoader(training, batch_size=32, shuffle=True), DataLoader(validation, batch_size=200)]
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    precision = MultilabelAveragePrecision(num_labels=10, thresholds=50)  # a metric of torchmetrics is a score, too
    strategy = CreamStrategy(score=precision, distillation="binary_cross_entropy", seed=seed)
    strategy(RawFormatModelSpace(TenLogits(), Lightning(Occurrence(), trainer, *loaders)), SequentialExecutionEngine())

    best = strategy.finalise(*loaders)[0]  # frozen, with BatchNorm statistics of its own
    images, labels = test[:]
    with torch.no_grad():
        found = average_precision_score(labels, best.network.eval()(images), average="macro")
    baseline = float(labels.float().mean())  # of one answer to all scenes
    print(f"best: {best.entry.path}, {best.entry.cost:,.0f} multiply-adds")
    print(f"average precision: validation {best.entry.validated:.3f}, test {found:.3f}; one answer: {baseline:.3f}")
    return strategy, best, images, (found, baseline)


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks this small are no faster on more
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
