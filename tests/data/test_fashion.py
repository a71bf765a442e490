"""Fashion-MNIST from IDX files: where they are looked for, what is taken from them, what is said when they are bad."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from nni_cream import data
from nni_cream.data import fashion
from nni_cream.errors import ConfigError, DataError

Write = Callable[..., Path]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load(root: Path | None, **changes: Any) -> data.DataSplits:
    return data.create("fashion", root=root, **{"train": 30, "validation": 20, **changes})


@pytest.fixture
def no_shared_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'system'}:{tmp_path / 'second'}")
    monkeypatch.setattr(fashion.sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setattr(fashion.sys, "base_prefix", str(tmp_path / "base_python"))


@pytest.mark.parametrize("compressed", [True, False])
def test_parts_come_from_the_training_file_and_test_is_the_whole_test_file(
    tmp_path: Path, write_fashion: Write, compressed: bool
) -> None:
    splits = load(write_fashion(tmp_path, compressed=compressed))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [30, 20, 20]
    assert splits.input_shape == (1, 6, 6)
    assert max(splits.indices["train"].max(), splits.indices["validation"].max()) < 60
    assert splits.indices["test"].tolist() == list(range(60, 80))
    for one, other in combinations(splits.indices.values(), 2):
        assert not np.intersect1d(one, other).size


def test_labels_belong_to_their_images(tmp_path: Path, write_fashion: Write) -> None:
    splits = load(write_fashion(tmp_path))
    # The files' labels go 0, 1, ... 9, 0, ... and 60 is a multiple of 10, so a label is its source index modulo 10.
    for part in ("train", "validation", "test"):
        assert getattr(splits, part)[:][1].tolist() == (splits.indices[part] % 10).tolist()


def test_pixels_are_the_files(tmp_path: Path, write_fashion: Write) -> None:
    splits = load(write_fashion(tmp_path))
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz") as file:
        source = np.frombuffer(file.read()[16:], dtype=np.uint8)
    loaded = splits.test[:][0].numpy().ravel()
    slope, intercept = np.polyfit(source, loaded, 1)
    np.testing.assert_allclose(loaded, slope * source + intercept, atol=1e-5)


def test_same_seed_gives_the_same_content_another_seed_not(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path)
    first = load(tmp_path, seed=1)
    assert load(tmp_path, seed=1).fingerprint == first.fingerprint
    assert load(tmp_path, seed=2).fingerprint != first.fingerprint
    assert first.arguments == {"root": str(tmp_path), "train": 30, "validation": 20, "seed": 1}


def test_folder_that_torchvision_made_is_found_from_its_root(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path / "FashionMNIST" / "raw")
    assert len(load(tmp_path).test) == 20


@pytest.mark.usefixtures("no_shared_files")
@pytest.mark.parametrize("share", ["user", "system", "second", "python/share", "base_python/share"])
def test_share_folders_are_searched_when_no_root_is_given(tmp_path: Path, write_fashion: Write, share: str) -> None:
    write_fashion(tmp_path / share / "datasets" / "fashion-mnist")
    assert load(None).arguments["root"] is None


@pytest.mark.usefixtures("no_shared_files")
def test_environment_variable_names_the_folder(
    tmp_path: Path, write_fashion: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data.ROOT_VARIABLE, str(write_fashion(tmp_path / "mine")))
    assert len(load(None).test) == 20


@pytest.mark.usefixtures("no_shared_files")
def test_missing_files_are_told_with_every_place_and_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(None)
    for place in ("user", "system", "second", "python/share", "base_python/share"):
        assert str(tmp_path / place / "datasets" / "fashion-mnist") in str(caught.value)
    for word in ("apt-get install dataset-fashion-mnist", "root", "download=True"):
        assert word in str(caught.value)


def test_missing_root_is_told_and_the_share_folders_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "absent")
    assert f"{tmp_path / 'absent'}: no such folder" in str(caught.value)
    assert "/usr/share" not in str(caught.value)


def test_missing_file_is_told_by_its_name(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"without t10k-labels-idx1-ubyte\[\.gz\]\n"):
        load(tmp_path)


def test_truncated_file_is_told_by_its_name(tmp_path: Path, write_fashion: Write) -> None:
    path = write_fashion(tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: broken or truncated"):
        load(tmp_path)


def test_labels_and_images_of_different_files_are_told(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path, train=60)
    write_fashion(tmp_path / "other", train=70)
    name = "train-labels-idx1-ubyte.gz"
    (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: the number of labels is 70; expected 60"):
        load(tmp_path)


def test_test_images_of_another_size_are_told(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path)
    write_fashion(tmp_path / "other", size=7)
    name = "t10k-images-idx3-ubyte.gz"
    (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(DataError, match=r"test images are \(7, 7\) pixels; expected \(6, 6\)"):
        load(tmp_path)


def test_label_out_of_range_is_told(tmp_path: Path, write_fashion: Write) -> None:
    path = write_fashion(tmp_path, compressed=False) / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match="highest label is 10; expected 0 to 9"):
        load(tmp_path)


def test_asking_for_more_images_than_there_are_is_told_with_numbers(tmp_path: Path, write_fashion: Write) -> None:
    with pytest.raises(
        ConfigError, match=r"train \(50\) and validation \(20\) are 70 images together; expected at most 60"
    ):
        load(write_fashion(tmp_path), train=50)


def test_nothing_is_downloaded_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(fashion, "FashionMNIST", lambda *args, **kwargs: calls.append(args))
    with pytest.raises(DataError):
        load(tmp_path)
    assert calls == []


def test_download_is_torchvisions(tmp_path: Path, write_fashion: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, train: bool, download: bool) -> None:
        assert download
        write_fashion(root / "FashionMNIST" / "raw")

    monkeypatch.setattr(fashion, "FashionMNIST", download)
    assert len(load(tmp_path, download=True).test) == 20


def test_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(fashion, "FashionMNIST", no_network)
    with pytest.raises(DataError, match=r"the download to .* failed: .*no network"):
        load(tmp_path, download=True)


def test_download_without_a_root_is_told() -> None:
    with pytest.raises(ConfigError, match=r"root is None; expected .* since download is True"):
        load(None, download=True)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_package_holds_the_official_images() -> None:
    splits = data.create("fashion", root=DEBIAN_FOLDER, train=1000, validation=500)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1000, 500, 10_000]
    assert splits.input_shape == (1, 28, 28)
    assert torch.bincount(splits.test[:][1]).tolist() == [1000] * 10
    assert torch.bincount(splits.train[:][1]).tolist() == [100] * 10
    # The first test image is an ankle boot, class 9.
    assert splits.test[0][1] == 9


def test_images_can_be_enlarged(tmp_path: Path, write_fashion: Write) -> None:
    root = write_fashion(tmp_path)
    splits = load(root, image_size=9)
    assert splits.input_shape == (1, 9, 9)
    assert splits.test[0][0].shape == (1, 9, 9)
    assert splits.arguments["image_size"] == 9
    assert splits.fingerprint == load(root).fingerprint
