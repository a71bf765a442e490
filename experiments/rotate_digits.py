"""Estimate the angle of a turned digit, a regression:  python experiments/rotate_digits.py  (20 seconds)."""

import argparse

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from torchvision.transforms.functional import InterpolationMode, rotate

from nni_cream import CreamStrategy
from nni_cream.search import Score


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def operations():
    convs = {k: nn.Conv2d(16, 16, k, padding=k // 2, bias=False) for k in (1, 3, 5)}
    blocks = {f"conv_{k}x{k}": Residual(conv, nn.BatchNorm2d(16), nn.ReLU()) for k, conv in convs.items()}
    return {**blocks, "skip": nn.Identity()}


class OneNumber(ModelSpace):
    def __init__(self):
        super().__init__()
        layers = [LayerChoice(operations(), label=f"layer_{i}") for i in range(4)]
        head = nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 1), nn.Flatten(0)
        self.network = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), *layers, *head)

    def forward(self, images):
        return 45 * self.network(images)  # degrees


class Angle(LightningModule):
    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_index):
        images, degrees = batch
        return functional.l1_loss(self(images), degrees)

    def validation_step(self, batch, batch_index):
        self.log("val_loss", self.training_step(batch, batch_index))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.003)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


def turned(digits, times):
    """Turn each digit several times, by -45 to 45 degrees."""
    images = functional.interpolate(digits, size=16, mode="bilinear").repeat(times, 1, 1, 1)
    degrees = torch.rand(len(images)) * 90 - 45
    pairs = zip(images, degrees.tolist(), strict=True)
    return TensorDataset(torch.stack([rotate(*pair, InterpolationMode.BILINEAR) for pair in pairs]), degrees)


def closeness(output, target):
    return -(output - target).abs()  # one value a sample, higher is better


def main(epochs=20, seed=0):
    pl.seed_everything(seed)
    digits = torch.tensor(load_digits().images[:, None]).float() / 16
    parts = digits[torch.randperm(len(digits))].split([1080, 360, 357])  # no digit is in two parts
    training, validation, test = (turned(part, times) for part, times in zip(parts, (3, 1, 1), strict=True))
    loaders = [DataLoader(training, batch_size=64, shuffle=True), DataLoader(validation, batch_size=360)]
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    score = Score(closeness, upper_bound=0.0)  # in degrees, as the margin is
    strategy = CreamStrategy(score=score, margin=2.0, distillation=functional.l1_loss, seed=seed)
    strategy(RawFormatModelSpace(OneNumber(), Lightning(Angle(), trainer, *loaders)), SequentialExecutionEngine())

    best = strategy.finalise(*loaders)[0]  # frozen, with BatchNorm statistics of its own
    images, degrees = test[:]
    with torch.no_grad():
        found = float((best.network.eval()(images) - degrees).abs().mean())
    baseline = float((degrees - training[:][1].mean()).abs().mean())
    print(f"best: {best.entry.path}, {best.entry.cost:,.0f} multiply-adds")
    print(f"mean error in degrees: validation {-best.entry.validated:.2f}, test {found:.2f}; the mean: {baseline:.2f}")
    return strategy, best, images, (found, baseline)


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks this small are no faster on more
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
