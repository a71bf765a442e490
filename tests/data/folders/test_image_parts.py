"""Images that are decoded when they are asked for: any mode, any worker, the same pixels from memory."""

from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, DataLoader, default_collate
from torchvision.transforms.functional import pil_to_tensor

from nni_cream import data
from nni_cream.data import ImagePart, UnreadableImageError
from nni_cream.data.folders import image_parts
from nni_cream.data.folders.image_parts import ImageFiles, ImagesInMemory, read_image
from nni_cream.data.folders.unreadable import cannot_be_decoded, find_dark, is_damaged
from nni_cream.errors import DataError
from tests.data.conftest import write_image

Write = Callable[..., Path]


def noise(size: tuple[int, int] = (300, 240)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def load(root: Path, **changes: object) -> data.DataSplits:
    return data.create("imagenet", root=str(root), **{"validation": 3, "image_size": 16, "augment": "none", **changes})


@pytest.mark.parametrize(
    ("shortest_side", "size"), [(None, (300, 240)), (241, (300, 240)), (120, (150, 120)), (60, (75, 60)), (1, (38, 30))]
)
def test_jpeg_is_decoded_no_smaller_than_asked_for(
    tmp_path: Path, shortest_side: int | None, size: tuple[int, int]
) -> None:
    noise().save(tmp_path / "image.jpg")
    assert read_image(tmp_path / "image.jpg", shortest_side).size == size


def test_decoding_smaller_is_much_like_resizing(tmp_path: Path) -> None:
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    Image.fromarray(np.stack([columns, rows, (columns + rows) // 2], axis=-1).astype(np.uint8)).save(tmp_path / "a.jpg")
    whole = read_image(tmp_path / "a.jpg").resize((64, 64), Image.Resampling.BOX)
    small = read_image(tmp_path / "a.jpg", 64)
    assert np.abs(np.asarray(whole, float) - np.asarray(small, float)).mean() < 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    (Image.new(mode, (9, 7)) if mode == "I;16" else noise((9, 7)).convert(mode)).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (9, 7))


def test_shades_of_sixteen_bits_keep_their_place_between_black_and_white(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 63).astype(np.uint16).reshape(7, 9)
    Image.fromarray(shades).save(tmp_path / "image.png")
    red = np.asarray(read_image(tmp_path / "image.png"), float)[..., 0]
    np.testing.assert_allclose(red / 255, shades / 65535, atol=1 / 255)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_no_known_range_are_told_by_a_look_and_by_decoding(tmp_path: Path, kind: type[np.generic]) -> None:
    path = str(tmp_path / "image.tiff")
    Image.fromarray(np.ones((7, 9), dtype=kind)).save(path)
    for found in (is_damaged(path), cannot_be_decoded(path)):
        assert found is not None
        assert "without a known range" in found


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_upright_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise((9, 7)).save(tmp_path / "image.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "image.png"))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "image.png", exif=True)), np.asarray(upright))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "image.png")), np.asarray(noise((9, 7))))


def test_damaged_exif_does_not_make_an_image_unreadable(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    broken = exif.tobytes().replace(b"\x05\x00", b"\x02\x00")  # the resolution is a text now
    noise((32, 16)).save(tmp_path / "image.jpg", exif=broken)
    with pytest.raises(Exception), Image.open(tmp_path / "image.jpg") as image:  # noqa: B017, PT011 - of many kinds
        ImageOps.exif_transpose(image, in_place=True)
    assert read_image(tmp_path / "image.jpg", exif=True).size == (16, 32)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1"])
def test_transparent_pixels_are_white_and_half_transparent_ones_mixed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    if mode in ("RGBA", "LA"):
        pixels = np.zeros((1, 3, len(mode)), dtype=np.uint8)
        pixels[0, :, -1] = 0, 128, 255
        Image.fromarray(pixels).save(path)
        expected = [255, 127, 0]
    else:  # one colour is the transparent one
        image = Image.new(mode, (3, 1))
        image.putpixel((1, 0), 1)
        image.save(path, transparency=(0, 0, 0) if mode == "RGB" else 0)
        other = Image.open(path).convert("RGB").getpixel((1, 0))
        expected = [255, other[0], 255]
    assert [pixel[0] for pixel in np.asarray(read_image(path))[0]] == expected


def test_white_ink_and_palette_and_one_bit_keep_their_colours(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    image = Image.new("RGB", (64, 16))
    for place, colour in enumerate(colours):
        image.paste(colour, (16 * place, 0, 16 * place + 16, 16))
    for mode, name, tolerance in (("CMYK", "image.jpg", 8), ("CMYK", "image.tiff", 0), ("P", "image.png", 0)):
        image.convert(mode).save(tmp_path / name, **({"quality": 95} if name.endswith("jpg") else {}))
        for place, colour in enumerate(colours):
            found = read_image(tmp_path / name).getpixel((16 * place + 8, 8))
            np.testing.assert_allclose(found, colour, atol=tolerance)  # type: ignore[arg-type]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert np.asarray(read_image(tmp_path / "bits.png"))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("name", ["image.png", "image.webp", "image.tiff"])
def test_file_with_several_images_is_told_by_a_look_and_by_decoding(tmp_path: Path, name: str) -> None:
    noise((9, 7)).save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (9, 7))])
    for found in (is_damaged(str(tmp_path / name)), cannot_be_decoded(str(tmp_path / name))):
        assert found is not None
        assert "it holds 2 images; expected one" in found


def test_photograph_with_its_preview_is_the_photograph(tmp_path: Path) -> None:
    noise().save(tmp_path / "image.jpg", "MPO", save_all=True, append_images=[noise((30, 24))])
    assert is_damaged(str(tmp_path / "image.jpg")) is None
    assert read_image(tmp_path / "image.jpg").size == (300, 240)


def test_pgm_of_twelve_bits_states_its_range(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], dtype=">u2").tobytes())
    assert is_damaged(str(tmp_path / "a.pgm")) is None
    assert [pixel[0] for pixel in np.asarray(read_image(tmp_path / "a.pgm"))[0]] == [0, 128, 255]
    assert find_dark(tmp_path, ["a.pgm"]) == {}


def test_transparent_colour_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    Image.fromarray(np.full((7, 9), 40_000, dtype=np.uint16)).save(path, transparency=40_000)
    for found in (is_damaged(path), cannot_be_decoded(path)):
        assert found is not None
        assert "one of its colours of 16 bits is transparent" in found


@pytest.mark.parametrize(
    ("largest", "told"), [(4095, True), (1023, True), (16_383, True), (16_384, False), (65_535, False)]
)
@pytest.mark.parametrize("name", ["a.png", "a.TIFF"])
def test_file_that_leaves_its_upper_bits_empty_is_told_with_its_largest_value(
    tmp_path: Path, name: str, largest: int, told: bool
) -> None:
    Image.fromarray(np.linspace(0, largest, 63).astype(np.uint16).reshape(7, 9)).save(tmp_path / name)
    Image.new("RGB", (9, 7)).save(tmp_path / "black.png")  # eight bits are never too few
    assert find_dark(tmp_path, [name, "black.png"]) == ({name: largest} if told else {})


def test_colours_of_sixteen_bits_are_told_too(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + np.full((9, 3), value, dtype=">u2").tobytes() for value in (0, 4000))
    header = struct.pack(">IIBBBBB", 9, 2, 16, 2, 0, 0, 0)  # 9x2 pixels of 16 bits, in colour
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert is_damaged(str(tmp_path / "a.png")) is None
    assert find_dark(tmp_path, ["a.png"]) == {"a.png": 4095}  # the upper half is 15; the lower one is lost


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_file_that_is_no_image_is_told_by_its_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"image\.jpg: cannot be decoded .*nni-cream data check --full"):
        read_image(path)


def test_images_and_labels_belong_together(write_imagenet: Write) -> None:
    splits = load(write_imagenet())
    for part in (splits.train, splits.validation, splits.test):
        for image, label in part:
            red = float((image[0] * 0.229 + 0.485).mean()) * 255
            assert red == pytest.approx(40 * int(label), abs=4)


def test_part_gives_the_same_in_workers_and_after_pickling(write_imagenet: Write) -> None:
    part = load(write_imagenet()).train
    here = [image for image, _ in part]
    elsewhere = [image for batch, _ in DataLoader(part, batch_size=4, num_workers=1) for image in batch]
    again = [image for image, _ in pickle.loads(pickle.dumps(part))]
    assert torch.equal(torch.stack(here), torch.stack(elsewhere))
    assert torch.equal(torch.stack(here), torch.stack(again))


def test_images_in_memory_are_the_same(write_imagenet: Write) -> None:
    root = write_imagenet()
    lazy, cached = load(root), load(root, cache=True)
    for path in root.rglob("*.JPEG"):
        path.unlink()
    assert lazy.fingerprint == cached.fingerprint
    assert len(cached.train) == 15
    assert float(cached.train[0][0].std()) > 0
    with pytest.raises(UnreadableImageError):
        lazy.train[0]


def test_pixels_in_memory_are_those_of_the_file(tmp_path: Path) -> None:
    noise((60, 40)).save(tmp_path / "image.jpg")
    files = ImageFiles(tmp_path, ["image.jpg"])
    np.testing.assert_array_equal(np.asarray(ImagesInMemory(files).load(0)), np.asarray(files.load(0)))


def test_images_that_do_not_fit_into_memory_are_told(write_imagenet: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_parts.psutil, "virtual_memory", lambda: SimpleNamespace(available=20_000))
    with pytest.raises(DataError, match=r"cache is true.*smaller image_size, or set cache to false"):
        load(write_imagenet(), cache=True)


def test_part_with_another_transform_has_the_same_images(write_imagenet: Write) -> None:
    part = load(write_imagenet()).train
    assert isinstance(part, ImagePart)
    raw = part.with_transform(pil_to_tensor)
    assert raw[3][0].shape == (3, 20, 24)
    assert [int(label) for _, label in raw] == [int(label) for _, label in part]
    assert part[3][0].shape == (3, 16, 16)  # the part itself is as before
    assert (raw.mean, raw.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_part_of_bytes_has_the_images_of_the_part(write_imagenet: Write) -> None:
    part = load(write_imagenet()).validation
    assert isinstance(part, ImagePart)
    pixels, normalise = part.as_bytes()
    assert normalise is not None
    assert {image.dtype for image, _ in pixels} == {torch.uint8}
    images, labels = default_collate([*pixels])
    assert torch.equal(normalise(images), torch.stack([image for image, _ in part]))
    assert labels.tolist() == [int(label) for _, label in part]


def test_part_with_a_users_transform_keeps_it(write_imagenet: Write) -> None:
    part = load(write_imagenet()).train
    assert isinstance(part, ImagePart)
    own = part.with_transform(pil_to_tensor)
    assert own.as_bytes() == (own, None)


def test_broken_image_in_a_worker_is_one_clear_line(write_imagenet: Write) -> None:
    root = write_imagenet()
    broken = root / "train" / "n00000001" / "train_1_2.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    splits = load(root, check=False)
    loader = DataLoader(ConcatDataset([splits.train, splits.validation]), batch_size=4, num_workers=1)
    with pytest.raises(UnreadableImageError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{broken}: cannot be decoded (")
    assert "\n" not in str(caught.value)


def test_names_in_any_script_are_found(tmp_path: Path) -> None:
    write_image(tmp_path / "höhe" / "画像 1.png")
    assert ImageFiles(tmp_path, ["höhe/画像 1.png"]).load(0).size == (24, 20)
