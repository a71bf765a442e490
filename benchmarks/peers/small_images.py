"""The adaptation of networks for large images to 32 pixels: the first two strides become 1, as many do for CIFAR."""

from peer_task import multiply_adds
from torch import nn


# user: begin
def for_small_images(network):
    strided = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    for layer in strided[:2]:
        layer.stride = (1, 1)
    return network


def widest(build, limit):
    widths = (step / 20 for step in range(60, 2, -1))
    return next(width for width in widths if multiply_adds(build(width)) <= limit)
    # user: end
