"""Small IDX files in the layout of Debian's package dataset-fashion-mnist, written here byte by byte."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def write_fashion() -> Callable[..., Path]:
    """A function that fills a folder with four files: images of noise, labels 0 to 9 in turn."""

    def write(folder: Path, train: int = 60, test: int = 20, size: int = 6, compressed: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(0)
        for stem, count in (("train", train), ("t10k", test)):
            images = generator.integers(0, 256, (count, size, size), dtype=np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            for name, values in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
                content = idx_bytes(values)
                path = folder / (f"{name}.gz" if compressed else name)
                path.write_bytes(gzip.compress(content) if compressed else content)
        return folder

    return write


def write_image(path: Path, label: int = 0, number: int = 0, size: tuple[int, int] = (24, 20)) -> None:
    """Write a file whose mean colour says which label it has: red is 40 times that, green is the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40 * label, number, 128)).save(path, quality=95)


@pytest.fixture
def write_imagenet(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes an ImageNet of tiny JPEGs: the class n0000000<k> has the label k."""

    def write(classes: int = 3, train: int = 6, val: int = 2, root: Path = tmp_path / "imagenet") -> Path:
        for part, count in (("train", train), ("val", val)):
            for label in range(classes):
                for number in range(count):
                    name = f"{part}/n{label:08d}/{part}_{label}_{number}.JPEG"
                    write_image(root / name, label, number)
        return root

    return write
