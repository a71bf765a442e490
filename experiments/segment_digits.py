"""Segment scenes of digits, pixel by pixel:  python experiments/segment_digits.py  (half a minute)."""

import argparse

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from sklearn.datasets import load_digits, load_sample_image
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from torchmetrics.functional.classification import multiclass_jaccard_index

from nni_cream import CreamStrategy


def conv(inputs, outputs, dilation=1):
    layer = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def operations():
    return {"conv_3x3": Residual(conv(32, 32)), "dilated": Residual(conv(32, 32, dilation=2)), "skip": nn.Identity()}


class EncoderDecoder(ModelSpace):
    def __init__(self):
        super().__init__()
        self.fine = conv(1, 12)
        layers = [LayerChoice(operations(), label=f"layer_{i}") for i in range(3)]
        self.coarse = nn.Sequential(nn.MaxPool2d(2), conv(12, 32), *layers)
        resized = nn.Sequential(nn.Conv2d(32, 12, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
        self.up = LayerChoice({"resized": resized, "transposed": nn.ConvTranspose2d(32, 12, 2, stride=2)}, label="up")
        self.head = nn.Conv2d(24, 11, 1)  # the background and ten digits

    def forward(self, images):
        fine = self.fine(images)
        return self.head(torch.cat([fine, self.up(self.coarse(fine))], dim=1))


class Pixels(LightningModule):
    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_index):
        images, masks = batch
        # Five of six pixels are background, which would drown the digits in a plain mean.
        return functional.cross_entropy(self(images), masks, weight=torch.tensor([0.1] + [1.0] * 10))

    def validation_step(self, batch, batch_index):
        self.log("val_loss", self.training_step(batch, batch_index))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.005)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


def scenes(digits, classes, photograph, count):
    """Put a digit into each half of darkened parts of a photograph; return the scenes and the class of each pixel."""
    photo = torch.tensor(load_sample_image(photograph)).float().mean(2) / 255 / 2
    corners = zip(*(torch.randint(size - 16, (count,)) for size in photo.shape), strict=True)
    images = torch.stack([photo[None, top : top + 16, left : left + 16] for top, left in corners])
    masks = torch.zeros(count, 16, 16, dtype=torch.long)
    for image, mask in zip(images[:, 0], masks, strict=True):
        for left, top, chosen in zip((0, 8), torch.randint(9, (2,)), torch.randint(len(digits), (2,)), strict=True):
            place = (slice(top, top + 8), slice(left, left + 8))
            image[place] = image[place].maximum(digits[chosen])
            mask[place][digits[chosen] > 0.4] = 1 + classes[chosen]
    return TensorDataset(images, masks)


def main(epochs=25, seed=0):
    pl.seed_everything(seed)
    data = load_digits()
    pixels, classes = torch.tensor(data.images).float() / 16, torch.tensor(data.target)
    chosen = torch.randperm(len(pixels)).split([1080, 360, 357])  # no digit is in two parts
    settings = (("china.jpg", 1500), ("china.jpg", 300), ("flower.jpg", 300))
    training, validation, test = (
        scenes(pixels[part], classes[part], *setting) for part, setting in zip(chosen, settings, strict=True)
    )
    loaders = [DataLoader(training, batch_size=32, shuffle=True), DataLoader(validation, batch_size=150)]
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    strategy = CreamStrategy(score="miou", distillation="soft_cross_entropy", seed=seed)
    strategy(RawFormatModelSpace(EncoderDecoder(), Lightning(Pixels(), trainer, *loaders)), SequentialExecutionEngine())

    best = strategy.finalise(*loaders)[0]  # frozen, with BatchNorm statistics of its own
    images, masks = test[:]
    with torch.no_grad():
        predicted = best.network.eval()(images).argmax(dim=1)
    answers = (predicted, torch.zeros_like(masks))  # the majority class is the background
    found, baseline = (float(multiclass_jaccard_index(answer, masks, 11)) for answer in answers)
    print(f"best: {best.entry.path}, {best.entry.cost:,.0f} multiply-adds")
    print(f"mIoU: validation {best.entry.validated:.3f}, test {found:.3f}; majority: {baseline:.3f}")
    return strategy, best, images, (found, baseline)


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks this small are no faster on more
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
