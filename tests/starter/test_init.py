"""A first configuration: what it says of the images, that it runs, and that no file is lost."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from nni_cream import cli, config, data
from nni_cream.errors import DataError
from nni_cream.runs.go_run import check_go
from nni_cream.spaces.chain import ChainSpace
from nni_cream.starter.image_profile import look_at_images
from nni_cream.starter.proposal import chain_channels, propose, stem_stride

SIZES = {"cats": [(40, 30)] * 10, "über hunde": [(44, 33)] * 10}


def pictures(root: Path, sizes: dict[str, list[tuple[int, int]]], mode: str = "RGB") -> Path:
    for name, images in sizes.items():
        (root / name).mkdir(parents=True)
        for number, size in enumerate(images):
            colour: object = (8 * number, 90, 200) if mode == "RGB" else 8 * number
            Image.new(mode, size, colour).save(root / name / f"{number} é.png")  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init")
    root = pictures(folder / "my pictures", SIZES)
    assert cli.main(["init", str(root), "--out", str(folder / "search.yml"), "--json"]) == 0
    return folder / "search.yml"


def test_file_is_a_configuration_that_fits_the_images(written: Path) -> None:
    resolved = config.load(written)
    arguments = resolved["data"]["arguments"]
    assert (arguments["image_size"], arguments["channels"]) == ([31, 42], 3)
    assert resolved["space"] == {
        "name": "chain",
        "arguments": {"channels": [16, 16, 32, 32, 64, 64], "stem_stride": 2},
    }
    assert (arguments["validation"], arguments["test"]) == (0.2, 0.2)  # a tenth would be one image of each class
    assert resolved["search"]["batch_size"] == 3  # a quarter of the 12 training images
    check_go(resolved, ["code"])


def test_each_choice_has_its_reason_beside_it(written: Path) -> None:
    text = " ".join(written.read_text().replace("#", " ").split())
    for reason in ("s an epoch on this machine", "some images have colours", "Write your own budget here"):
        assert reason in text
    assert f"nni-cream go {written}" in text


@pytest.mark.parametrize("size", [(28, 28), (24, 24), (30, 20)])
def test_small_images_keep_all_their_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    root = pictures(tmp_path / "images", {"a": [size] * 10, "b": [size] * 10})
    proposal = propose(look_at_images("folder", {"root": str(root)}))
    found = proposal.config["data"]["image_size"]
    assert found == (size[0] if size[0] == size[1] else [size[1], size[0]])
    assert "100% of the mean image" in proposal.reasons["data.crop_fraction"]


def test_one_broken_file_is_left_out_and_counted_in_the_configuration(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"a": [(20, 20)] * 10, "b": [(20, 20)] * 10})
    (root / "a" / "broken.png").write_bytes(b"no image")
    proposal = propose(look_at_images("folder", {"root": str(root)}))
    assert proposal.config["data"]["max_unreadable"] == 1
    assert "cannot be read" in proposal.reasons["data.max_unreadable"]
    config.SEARCH.resolve(proposal.config)


def test_several_broken_files_are_an_error_that_names_them(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"a": [(20, 20)] * 10, "b": [(20, 20)] * 10})
    for name in ("one.png", "two.png"):
        (root / "a" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 unreadable files.*one\.png.*two\.png"):
        look_at_images("folder", {"root": str(root)})


def test_share_that_is_seen_is_that_of_the_crop(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"a": [(100, 50)] * 10, "b": [(50, 50)] * 10})
    profile = look_at_images("folder", {"root": str(root)})
    assert profile.seen(32, 32) == pytest.approx(0.75)  # half of the wide ones, all of the others


def test_space_of_ones_own_needs_the_current_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--data", "digits", "--space", "--out", str(tmp_path / "mine.yml")]) == 2
    assert "expected a file in the current folder with --space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_file_is_replaced(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written.read_bytes()
    assert cli.main(["init", "--data", "digits", "--out", str(written)]) == 1
    assert f"{written}: is there already; expected a new file" in capsys.readouterr().err
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    ("mode", "grey"),
    [("L", True), ("RGB", False)],
)
def test_channels_follow_from_the_pixels(tmp_path: Path, mode: str, grey: bool) -> None:
    profile = look_at_images("folder", {"root": str(pictures(tmp_path / "images", SIZES, mode))})
    assert profile.grey is grey


def test_sizes_and_balance_are_those_of_the_files(tmp_path: Path) -> None:
    sizes = {"a": [(20, 30)] * 8 + [(200, 30)], "b": [(22, 33)] * 40}
    profile = look_at_images("folder", {"root": str(pictures(tmp_path / "images", sizes))})
    assert (profile.height, profile.width, profile.smallest, profile.largest) == (33, 22, (30, 20), (30, 200))
    assert profile.alike is False
    assert profile.images == 49
    train = data.create("folder", root=str(tmp_path / "images"), validation=0.2, test=0.2).train
    assert profile.counts == tuple(torch.bincount(torch.as_tensor(train.labels)).tolist())  # type: ignore[attr-defined]


def test_turned_photographs_count_upright(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"a": [(20, 20)] * 4, "b": [(20, 20)] * 4})
    for file in root.glob("*/*.png"):
        image, exif = Image.new("RGB", (64, 32)), Image.Exif()
        exif[0x0112] = 6
        image.save(file.with_suffix(".jpg"), exif=exif)
        file.unlink()
    profile = look_at_images("folder", {"root": str(root)})
    assert (profile.height, profile.width) == (64, 32)


def test_parts_that_have_folders_are_left_as_they_are(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pictures(tmp_path / "images" / part, SIZES)
    profile = look_at_images("folder", {"root": str(tmp_path / "images")})
    assert profile.parts == {"train": 16, "validation": 4, "test": 20}
    assert "test" not in profile.arguments


@pytest.mark.parametrize("side", [8, 16, 28, 32, 48, 64, 96, 128, 224])
def test_last_feature_map_of_the_chain_has_a_few_pixels(side: int) -> None:
    channels = chain_channels(side)
    space = ChainSpace(channels=channels, num_classes=2, input_channels=1, stem_stride=stem_stride(side))
    seen = []
    space.layers.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    space(torch.zeros(1, 1, side, side))
    assert 2 <= seen[0] <= 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.mkdir(), "holds 0 folders"),
        (lambda root: pictures(root, {"only": [(40, 40)] * 9}), "holds 1 folders"),
        (lambda root: pictures(root, {"a": [(40, 40)], "b": [(40, 40)]}), "expected at least 3, one for each part"),
        (lambda root: root.write_text("a file"), "which is a file; expected a folder"),
        (lambda root: None, "which is not there; expected a folder"),
    ],
    ids=["empty folder", "one class", "one image a class", "a file", "nothing"],
)
def test_unusable_images_end_in_one_error_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, message: str
) -> None:
    root, out = tmp_path / "images", tmp_path / "search.yml"
    make(root)  # type: ignore[operator]
    assert cli.main(["init", str(root), "--out", str(out)]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("nni-cream: error") == 1
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_access_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert cli.main(["init", "--data", "digits", "--out", str(tmp_path / "search.yml")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_missing_folder_of_the_file_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--data", "digits", "--out", str(tmp_path / "no" / "search.yml")]) == 1
    assert "cannot be written; expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["pictures", "--data", "digits"], ["pictures", "--root", "elsewhere"]])
def test_one_source_of_images_is_wanted(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["init", *words])
    assert ended.value.code == 2


@pytest.mark.integration
def test_space_of_ones_own_is_searched_and_passes_its_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert cli.main(["init", "--data", "digits", "--out", "mine.yml", "--space", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert yaml.safe_load((tmp_path / "mine.yml").read_text())["space"] == {"name": "my_space:MySpace"}
    assert found["config"]["search"]["epochs"] >= 12
    importlib.import_module("test_my_space").test_networks_compute_what_the_search_saw()
    for name in ("my_space", "test_my_space"):
        sys.modules.pop(name)
