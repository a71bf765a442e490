"""CIFAR: pickles of the official layout, made here, whose checksums take the place of the official ones."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms.functional import pil_to_tensor

from nni_cream import data
from nni_cream.data import ImagePart
from nni_cream.errors import DataError

LAYOUT = {
    "cifar10": (CIFAR10, [f"data_batch_{number}" for number in range(1, 6)], "test_batch", "batches.meta"),
    "cifar100": (CIFAR100, ["train"], "test", "meta"),
}
KEYS = {"cifar10": ("labels", "label_names", 10), "cifar100": ("fine_labels", "fine_label_names", 100)}


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 300 training and 100 test images, all of which torchvision takes for the official ones."""
    official, batches, test, meta = LAYOUT[name]
    label_key, names_key, classes = KEYS[name]
    folder = tmp_path / official.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(file: str, content: dict[str, Any]) -> list[str]:
        packed = pickle.dumps(content)
        (folder / file).write_bytes(packed)
        return [file, hashlib.md5(packed).hexdigest()]

    def batch(count: int) -> dict[str, Any]:
        labels = [number % classes for number in range(count)]
        return {"data": generator.integers(0, 256, (count, 3072), dtype=np.uint8), label_key: labels}

    each = 300 // len(batches)
    monkeypatch.setattr(official, "train_list", [write(file, batch(each)) for file in batches])
    monkeypatch.setattr(official, "test_list", [write(test, batch(100))])
    checksum = write(meta, {names_key: [f"class {number}" for number in range(classes)]})[1]
    monkeypatch.setattr(official, "meta", {"filename": meta, "key": names_key, "md5": checksum})
    return tmp_path


def test_parts_are_balanced_and_the_test_is_the_official_one(root: Path, name: str) -> None:
    splits = data.create(name, root=str(root), validation=100)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [200, 100, 100]
    assert splits.indices["test"].tolist() == list(range(300, 400))
    assert splits.input_shape == (3, 32, 32)
    assert splits.classes[:2] == ("class 0", "class 1")
    each = 100 // splits.num_classes
    assert set(Counter(int(label) for _, label in splits.validation).values()) == {each}


def test_pixels_and_labels_are_torchvisions(root: Path, name: str) -> None:
    splits = data.create(name, root=str(root), validation=100)
    learned = LAYOUT[name][0](root, train=True)
    assert isinstance(splits.train, ImagePart)
    for (pixels, label), position in zip(
        splits.train.with_transform(pil_to_tensor), splits.indices["train"], strict=True
    ):
        image, expected = learned[position]
        assert torch.equal(pixels, pil_to_tensor(image))
        assert int(label) == expected


def test_training_part_has_mean_0_and_deviation_1(root: Path, name: str) -> None:
    images = torch.stack([image for image, _ in data.create(name, root=str(root), validation=100).train])
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_arguments_are_recorded_and_give_the_same_content(root: Path, name: str) -> None:
    splits = data.create(name, root=str(root), validation=100, seed=2, image_size=40)
    assert splits.test[0][0].shape == (3, 40, 40)
    again = data.create(splits.name, **splits.arguments)
    assert (again.fingerprint, again.arguments) == (splits.fingerprint, splits.arguments)
    assert data.create(name, root=str(root), validation=100).fingerprint != splits.fingerprint


def test_missing_file_is_told_with_where_to_get_it(root: Path, name: str) -> None:
    official, batches, *_ = LAYOUT[name]
    (root / official.base_folder / batches[0]).unlink()
    with pytest.raises(DataError, match=rf"{batches[0]} not found\. Unpack {official.url} into .*download"):
        data.create(name, root=str(root))


def test_file_that_is_not_the_official_one_is_told_and_never_unpickled(root: Path, name: str) -> None:
    official, _, test, _ = LAYOUT[name]

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (root / "sprung",))  # type: ignore[return-value]

    (root / official.base_folder / test).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=rf"the checksum of {test} is not that of the official file"):
        data.create(name, root=str(root))
    assert not (root / "sprung").exists()


def test_nothing_is_downloaded_unless_asked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(self: Any) -> None:
        calls.append(self.root)
        raise OSError("no network")

    monkeypatch.setattr(LAYOUT[name][0], "download", download)
    with pytest.raises(DataError, match="not found"):
        data.create(name, root=str(tmp_path / "empty"))
    assert calls == []
    with pytest.raises(DataError, match=r"torchvision cannot read or download it: no network"):
        data.create(name, root=str(tmp_path / "empty"), download=True)
    assert len(calls) == 1
