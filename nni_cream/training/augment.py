"""Random changes to whole batches of training images, drawn from torch's global generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["augment_images", "random_flip", "random_shift"]


def augment_images(images: Tensor, kind: str) -> Tensor:
    """Change a batch of images (N, C, H, W), each image in its own way.

    ``"none"`` leaves them as they are. ``"shift"`` moves each by up to an eighth of its size (8x8 pixels: 1, 28x28: 3,
    32x32: 4). ``"shift+flip"`` also mirrors it left to right with probability 1/2.
    """
    if kind == "none":
        return images
    shifted = random_shift(images, max(1, min(images.shape[-2:]) // 8))
    return random_flip(shifted) if kind == "shift+flip" else shifted


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image (N, C, H, W) by a whole number of pixels, uniform in [-pixels, pixels] in each direction.

    The uncovered border repeats the image's own edge, which is right whatever the normalisation made of the background.
    """
    count, _, height, width = images.shape
    device = images.device
    padded = nn.functional.pad(images, [pixels] * 4, mode="replicate")
    top, left = torch.randint(0, 2 * pixels + 1, (2, count, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    image = torch.arange(count, device=device).view(-1, 1, 1)
    # Indexing around the channel dimension puts it last: (N, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability 1/2."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)
