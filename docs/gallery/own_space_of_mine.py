"""A search space in 30 lines: five layers, each a convolution of one of three kernels, a pooling, or nothing."""

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn


def convolution(before, after, kernel):
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


class Mine(ModelSpace):
    def __init__(self, num_classes, input_channels, width=16):
        super().__init__()
        self.stem = convolution(input_channels, width, 3)
        self.layers = nn.Sequential(*(self.layer(width, number) for number in range(1, 6)))
        self.classifier = nn.Linear(width, num_classes)

    def layer(self, width, number):
        operations = {f"conv_{kernel}": convolution(width, width, kernel) for kernel in (1, 3, 5)}
        operations |= {"pool": nn.MaxPool2d(3, stride=1, padding=1), "skip": nn.Identity()}
        return LayerChoice(operations, label=f"layer_{number}")

    def forward(self, images):
        return self.classifier(self.layers(self.stem(images)).mean(dim=(2, 3)))
