from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from nni_cream.errors import ConfigError, ExportError
from nni_cream.export import check_formats, write_formats
from nni_cream.export.output_check import compare
from tests.export.networks import settled

IMAGES = torch.randn(3, 1, 6, 6)


def small() -> nn.Module:
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return settled(nn.Sequential(*layers, nn.Linear(3, 4)))


@pytest.mark.integration
@pytest.mark.skipif(torch.__version__ < "2.7", reason="the export extra needs PyTorch 2.7")
def test_all_formats_agree_with_the_network_on_any_number_of_images(tmp_path: Path) -> None:
    network = small()
    facts = {"classes": ["ä", "b"], "input": None}
    differences = write_formats(network, IMAGES, tmp_path, ["code", "onnx", "torch"], opset=19, facts=facts)
    assert max(differences.values()) < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.onnx", "network.pt2", "network.py"]
    model = onnx.load(tmp_path / "network.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [19]
    assert [(entry.key, json.loads(entry.value)) for entry in model.metadata_props] == [("nni_cream", facts)]
    here = str(Path(torch.__file__).parents[1]).encode()
    with zipfile.ZipFile(tmp_path / "network.pt2") as program:
        contents = [(tmp_path / "network.onnx").read_bytes(), *map(program.read, program.namelist())]
    assert not any(here in content for content in contents)  # no folder of this machine is published
    batch = torch.randn(7, 1, 6, 6)
    exported = torch.export.load(tmp_path / "network.pt2").module()
    torch.testing.assert_close(exported(batch), network(batch), rtol=0, atol=1e-5)


def test_code_says_which_weights_it_lacks_and_loads_them_once_they_are_saved(tmp_path: Path) -> None:
    network = small()
    write_formats(network, IMAGES, tmp_path, ["code"])
    load = runpy.run_path(str(tmp_path / "network.py"))["load"]
    with pytest.raises(FileNotFoundError, match=r"weights\.pt: there is no such file\. Save the weights"):
        load()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.testing.assert_close(load()(IMAGES), network(IMAGES), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [torch.zeros(2), float("nan")])
def test_facts_that_are_no_json_are_refused_before_any_file_is_written(value: object, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="facts is no JSON object"):
        write_formats(small(), IMAGES, tmp_path, ["onnx"], facts={"mean": value})
    assert not any(tmp_path.iterdir())


def test_interrupt_that_the_exporter_would_swallow_still_stops_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(*arguments: object, **keywords: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as interrupt:
            raise TypeError("failed to unpack the object") from interrupt

    monkeypatch.setattr(torch.export, "export", swallow)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_formats(small(), IMAGES, tmp_path, ["torch"])
    assert signal.getsignal(signal.SIGINT) is before


class FixedBatch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(3, -1)


class Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


class SizeOfBatch(nn.Module):
    """Forward is the same for any batch, but what torch sees of it is the size of the first."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * (2.0 if len(images) > 2 else 3.0)


@pytest.mark.parametrize(
    ("network", "formats", "problem"),
    [
        (nn.Linear(5, 2), ["code"], r"does not take images of shape \(3, 1, 6, 6\)"),
        (FixedBatch(), ["code"], r"the output of the network is \(3, 12\) for 1 image"),
        (Pair(), ["torch"], "the output of the network is tuple"),
        (nn.Identity(), ["code"], r"is \(3, 1, 6, 6\)"),
        (SizeOfBatch(), ["torch"], "network.pt2"),
    ],
)
def test_network_that_no_program_could_use_is_refused(
    network: nn.Module, formats: list[str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=problem):
        write_formats(network, IMAGES, tmp_path, formats)


def test_network_whose_own_outputs_are_no_numbers_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the outputs of the network are not finite"):
        write_formats(nn.Sequential(nn.Flatten(), Plus(float("nan"))), IMAGES, tmp_path, ["torch"])


def test_one_image_is_too_few_to_check_with(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"number of images of the check is .; expected at least two"):
        write_formats(small(), IMAGES[:1], tmp_path, ["code"])


@pytest.mark.parametrize(
    ("formats", "opset", "problem"),
    [
        (["code", "tflite"], None, "format is code, tflite; expected different ones of code, onnx, torch"),
        ([], None, "format is empty"),
        (["code", "code"], None, "different ones"),
        (["code"], 18, "opset is 18; expected none with code"),
        (["onnx"], 17, r"opset is 17; expected 18 to \d+ here"),
        (["onnx"], 99, r"opset is 99; expected 18 to \d+ here"),
    ],
)
def test_format_or_opset_that_is_not_available_is_refused(formats: list[str], opset: int | None, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_formats(formats, opset)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_package_is_named_with_the_extra_that_has_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    check_formats(["code", "torch"])
    with pytest.raises(ExportError, match=rf"package {name} cannot be imported .*pip install 'nni_cream\[export\]'"):
        check_formats(["onnx"])


def off_by(amount: float) -> tuple[nn.Module, nn.Module]:
    return nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Threshold(-100.0, 0.0), Plus(amount))


class Plus(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


@pytest.mark.parametrize("amount", [3e-4, -3e-4, float("nan"), float("inf")])
def test_form_that_gives_other_outputs_is_refused(amount: float) -> None:
    network, form = off_by(amount)
    images = IMAGES.clamp(-1, 1)
    with pytest.raises(ExportError, match=r"the difference of network\.onnx from the network is"):
        compare(network, form, images, "network.onnx")


def test_form_that_is_as_good_as_float32_passes_and_its_difference_is_told() -> None:
    network, form = off_by(5e-5)
    assert compare(network, form, IMAGES.clamp(-1, 1), "network.onnx") == pytest.approx(5e-5, rel=0.01)


def test_form_with_other_shape_or_that_does_not_run_is_refused() -> None:
    with pytest.raises(ExportError, match=r"gives \(3, 6, 6\) numbers; expected \(3, 36\)"):
        compare(nn.Flatten(), nn.Flatten(0, 1), IMAGES, "x")
    with pytest.raises(ExportError, match=r"x does not run on 3 image\(s\)"):
        compare(nn.Flatten(), nn.Linear(2, 2), IMAGES, "x")
