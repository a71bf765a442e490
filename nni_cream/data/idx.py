"""Reader of the IDX format of the MNIST family, plain or compressed with gzip.

Source: https://yann.lecun.com/exdb/mnist/, "file formats": two zero bytes, the type of the values (8: unsigned byte),
the number of dimensions, each dimension as a big-endian 32-bit number, then the values, last dimension fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nni_cream.errors import DataError

__all__ = ["read_idx"]

_UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one file, compressed if its name ends in ``.gz``: 3 dimensions for images (N, H, W), 1 for labels (N,).

    Raises ``DataError`` if the file cannot be read, is not IDX, or has other dimensions or another size than it states.
    """
    content = _read_bytes(path)
    header = 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        raise DataError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}; expected {expected.hex(' ')}, an IDX file of "
            f"unsigned bytes in {dimensions} dimension(s). Get the file again."
        )
    if len(content) < header:
        raise DataError(f"{path}: the IDX header is {len(content)} bytes long; expected {header}. Get the file again.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: holds {len(content) - header} bytes; expected {math.prod(shape)}, for the shape {shape} that it "
            "states. Get the file again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: broken or truncated gzip file ({error}). Get the file again.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
