"""IDX files: every byte accounted for, every broken file named."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from nni_cream.data.idx import read_idx
from nni_cream.errors import DataError

HEADER = struct.pack(">HBB3I", 0, 8, 3, 2, 3, 4)
PIXELS = bytes(range(24))


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_reads_the_values_in_their_shape(tmp_path: Path, name: str) -> None:
    content = HEADER + PIXELS
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    np.testing.assert_array_equal(read_idx(path, dimensions=3), np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["starts with nothing"]),
        (b"\x89PNG and so on", ["00 00 08 03", "89 50 4e 47"]),
        (struct.pack(">HBBI", 0, 8, 1, 24) + PIXELS, ["3 dimension", "00 00 08 01"]),
        (struct.pack(">HBB3I", 0, 13, 3, 2, 3, 4) + PIXELS, ["unsigned bytes", "00 00 0d 03"]),
        (HEADER[:9], ["9 bytes long", "expected 16"]),
        (HEADER + PIXELS[:-1], ["holds 23 bytes; expected 24, for the shape (2, 3, 4)"]),
        (HEADER + PIXELS + b"\0", ["holds 25 bytes; expected 24"]),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_wrong_content_is_told_with_the_file(
    tmp_path: Path, content: bytes, words: list[str], compressed: bool
) -> None:
    path = tmp_path / ("images.gz" if compressed else "images")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataError) as caught:
        read_idx(path, dimensions=3)
    for word in [str(path), "Get the file again", *words]:
        assert word in str(caught.value)


def test_every_truncation_of_a_gzip_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(HEADER + PIXELS)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="Get the file again"):
            read_idx(path, dimensions=3)


def test_every_flipped_byte_of_the_compressed_values_is_told(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(HEADER + PIXELS)
    for position in range(10, len(whole)):  # the first ten bytes hold the time and other things that are not checked
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(DataError, match="Get the file again"):
            read_idx(path, dimensions=3)


def test_file_that_is_not_gzip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="broken or truncated gzip"):
        read_idx(path, dimensions=3)


def test_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.mkdir()
    with pytest.raises(DataError, match=r"images: cannot be read \(Is a directory\)"):
        read_idx(path, dimensions=3)
