"""Answer yes or no about a rare class, with one logit:  python experiments/binary_digits.py  (15 seconds)."""

import argparse

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset, random_split

from nni_cream import CreamStrategy


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def operations():
    convs = {k: nn.Conv2d(16, 16, k, padding=k // 2, bias=False) for k in (1, 3, 5)}
    blocks = {f"conv_{k}x{k}": Residual(conv, nn.BatchNorm2d(16), nn.ReLU()) for k, conv in convs.items()}
    return {**blocks, "skip": nn.Identity()}


class OneLogit(ModelSpace):
    def __init__(self):
        super().__init__()
        layers = [LayerChoice(operations(), label=f"layer_{i}") for i in range(4)]
        head = nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 1), nn.Flatten(0)
        self.network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *layers, *head)

    def forward(self, images):
        return self.network(images)


class RareClass(LightningModule):
    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_index):
        images, labels = batch
        # Nine of ten digits are no 3. Without a weight, "no" is a good answer to all.
        weight = torch.tensor(9.0)
        return functional.binary_cross_entropy_with_logits(self(images), labels.float(), pos_weight=weight)

    def validation_step(self, batch, batch_index):
        self.log("val_loss", self.training_step(batch, batch_index))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.003)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


def main(epochs=40, seed=0):
    pl.seed_everything(seed)
    pixels, digits = (torch.tensor(item) for item in load_digits(return_X_y=True))
    data = TensorDataset(pixels.float().reshape(-1, 1, 8, 8) / 16, (digits == 3).long())
    training, validation, test = random_split(data, [1080, 360, 357])
    loaders = [DataLoader(training, batch_size=64, shuffle=True), DataLoader(validation, batch_size=360)]
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    strategy = CreamStrategy(score="balanced_accuracy", distillation="binary_cross_entropy", seed=seed)
    strategy(RawFormatModelSpace(OneLogit(), Lightning(RareClass(), trainer, *loaders)), SequentialExecutionEngine())

    best = strategy.finalise(*loaders)[0]  # frozen, with BatchNorm statistics of its own
    images, labels = test[:]
    with torch.no_grad():
        found = balanced_accuracy_score(labels, best.network.eval()(images) > 0)
    baseline = 0.5  # of "no" for each image, the majority class
    print(f"best: {best.entry.path}, {best.entry.cost:,.0f} multiply-adds")
    print(f"balanced accuracy: validation {best.entry.validated:.3f}, test {found:.3f}; majority: {baseline:.3f}")
    return strategy, best, images, (found, baseline)


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks this small are no faster on more
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
