from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import v2

from nni_cream import data, spaces
from nni_cream.data.folders import file_arguments
from nni_cream.errors import ConfigError, DataError, ExportError, FileError, SpaceError
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.rebuilt_network import build_network
from nni_cream.runs import export_run
from nni_cream.runs.export_run import Wish, export_pareto, export_result
from nni_cream.search.cost.latency.latency_table import LatencyTable, Measured
from tests.export.networks import settled
from tests.results.saved import BEST, save
from tests.spaces.test_zoo import reference_state

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    save(BEST, folder / "best.json", folder / "weights.pt")
    return folder


def wish(tmp_path: Path, *formats: str, **changes: Any) -> Wish:
    return replace(Wish(tmp_path / "out", formats or ("code",)), **changes)


def nothing_new(tmp_path: Path) -> bool:
    return os.listdir(tmp_path) == ["result"]


ELSEWHERE = """
import sys
import numpy, onnxruntime, torch
import network

images = torch.load("../images.pt", weights_only=True)
session = onnxruntime.InferenceSession("network.onnx")
outputs = {
    "code": network.load()(images).detach(),
    "onnx": torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]),
    "torch": torch.export.load("network.pt2").module()(images).detach(),
}
torch.save(outputs, "../outputs.pt")
print(sorted(name for name in sys.modules if name.split(".")[0] in ("nni", "nni_cream")))
"""


@pytest.mark.integration
def test_every_format_agrees_with_the_frozen_network_where_nni_is_not_imported(
    result: Path, tmp_path: Path, python: list[str]
) -> None:
    exported = export_result(result, wish(tmp_path, "code", "onnx", "torch"))
    network = build_network(BEST)
    network.load_state_dict(torch.load(result / "weights.pt", weights_only=True))
    digits = data.create("digits", train=200, validation=100, seed=3)
    images = torch.stack([digits.validation[index][0] for index in range(20)])
    torch.save(images, tmp_path / "images.pt")
    done = subprocess.run([*python, "-c", ELSEWHERE], cwd=exported.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    expected = network.eval()(images).detach()
    assert expected.std() > 1e-2
    outputs = torch.load(tmp_path / "outputs.pt", weights_only=True)
    assert outputs.keys() == exported.differences.keys() == {"code", "onnx", "torch"}
    for found in outputs.values():
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_architecture_and_weights_are_in_the_folder_unchanged(result: Path, tmp_path: Path) -> None:
    exported = export_result(result, wish(tmp_path))
    assert sorted(os.listdir(exported.folder)) == ["README.md", "best.json", "export.json", "network.py", "weights.pt"]
    assert load_best(exported.folder) == BEST
    copied = torch.load(exported.folder / "weights.pt", weights_only=True)
    torch.testing.assert_close(copied, torch.load(result / "weights.pt", weights_only=True), rtol=0, atol=0)


def test_costs_are_counted_on_the_network(result: Path, tmp_path: Path) -> None:
    exported = export_result(result, wish(tmp_path))
    # By hand, 8x8 pixels: stem; expand, depthwise and project; 1x1 to 12 channels; 3x3 on 4x4 pixels; classifier.
    convolutions = 64 * (9 * 8 + 8 * 16 + 9 * 16 + 16 * 8 + 8 * 12) + 16 * 9 * 12 * 12
    assert exported.macs == convolutions + 12 * 10
    assert exported.params == sum(parameter.numel() for parameter in build_network(BEST).parameters())


def test_card_says_what_the_files_say_and_what_they_do_not(result: Path, tmp_path: Path) -> None:
    (result / "config.yml").write_text("search:\n  epochs: 4711\n")
    export_result(result, wish(tmp_path, command="nni-cream export result --format code --out out"))
    card = (tmp_path / "out" / "README.md").read_text()
    digits = data.create("digits", train=200, validation=100, seed=3)
    pixels = load_digits().data[digits.indices["train"]]
    for fact in (
        "those of the training images range from 0 to 16.",
        f"Subtract {pixels.mean():.6g}, then divide by {pixels.std():.6g}.",
        "`digits`",
        '| `layer_1` | `"mbconv_k3e2"` |',
        '`{"train": 200, "validation": 100, "seed": 3}`',
        "fingerprint of the images in `best.json`: `0123`",
        f"checked with: `{digits.fingerprint}`",
        "shape (N, 1, 8, 8)",
        "`logits`, float32, shape (N, 10)",
        "has another `score`): 0.8750",
        "test accuracy, retrained: unknown",
        "cost in `best.json`: 57,208 multiply-adds",
        "seed in `best.json`: 17",
        "torch 1.2.3",
        f"torch {torch.__version__.partition('+')[0]}",
        "command: `nni-cream export result --format code --out out`",
        "weights in this folder: copied from `weights.pt`",
        "8 images of the test part",
        "epochs: 4711",
        "network.load()",
    ):
        assert fact in card, fact
    assert str(tmp_path) not in card
    for form in ("onnx", "torch.export.load"):
        assert form not in card


def test_card_says_that_images_were_enlarged(result: Path, tmp_path: Path) -> None:
    arguments = {**BEST.data["arguments"], "image_size": 16}
    cost = 4 * (BEST.cost - 120) + 120  # all but the classifier has four times the pixels
    replace(BEST, data={**BEST.data, "arguments": arguments}, cost=cost).save(result / "best.json")
    export_result(result, wish(tmp_path))
    assert "3. Enlarge the images of the source to 16x16 pixels" in (tmp_path / "out" / "README.md").read_text()
    steps = json.loads((tmp_path / "out" / "export.json").read_text())["input"]
    assert (steps["size"], steps["resize"], steps["crop"]) == ([16, 16], [16, 16], None)


def test_card_has_every_cost_of_the_search(result: Path, tmp_path: Path) -> None:
    several = replace(BEST, other_costs={"latency": 0.00125})
    save(several, result / "best.json", result / "weights.pt")
    save(several, result / "pareto" / "01.json", result / "pareto" / "01.pt")
    export_result(result, wish(tmp_path))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "* latency in `best.json`: 1.25 ms latency (the device is not in the result)" in card
    export_pareto(result, wish(tmp_path, out=tmp_path / "front"))
    assert "| 57,208 multiply-adds, 1.25 ms latency |" in (tmp_path / "front" / "README.md").read_text()


MEASURED = LatencyTable(
    device="cpu: a small one",
    sizes=(Measured((1, 8, 8), 0.0, {}),),
    settings={"batch_size": 1, "threads": 2},
    versions={"torch": "1.2.3"},
)


@pytest.mark.parametrize("place", ["latencies.json", "../../search/latencies.json"])
def test_card_says_where_and_how_a_latency_was_measured(
    place: str, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_run, "check_costs", lambda *arguments: None)  # the table is made up
    retrained = tmp_path / "retrained" / "01"
    retrained.parent.mkdir()
    result.rename(retrained)
    replace(BEST, cost_name="latency", cost=0.00125).save(retrained / "best.json")
    table = retrained / place
    table.parent.mkdir(exist_ok=True)
    table.write_text(json.dumps(MEASURED.to_json()))
    export_result(retrained, wish(tmp_path))
    told = "1.25 ms latency (PyTorch 1.2.3, on cpu: a small one, 2 threads, batch of 1)"
    assert told in (tmp_path / "out" / "README.md").read_text()


def test_card_of_a_retrained_network_has_its_accuracies(result: Path, tmp_path: Path) -> None:
    retrained = replace(BEST, retrained={"validation_accuracy": 0.9412, "test_accuracy": 0.9301, "epochs": 30})
    retrained.save(result / "best.json")
    export_result(result, wish(tmp_path, input_shape=(1, 8, 8)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "validation accuracy, retrained: 0.9412" in card
    assert "test accuracy, retrained: 0.9301" in card
    assert "epochs, retrained: 30" in card
    assert "8 made-up images" in card
    assert "classes: unknown" in card
    assert "steps from an image to the input: unknown" in card
    assert "command: unknown" in card


def test_architecture_without_weights_is_exported_as_code_alone(result: Path, tmp_path: Path) -> None:
    (result / "weights.pt").unlink()
    with pytest.raises(FileError, match=r"no weights in its folder.*--weights FILE, or export with --format code"):
        export_result(result, wish(tmp_path, "code", "onnx"))
    assert nothing_new(tmp_path)
    exported = export_result(result, wish(tmp_path))
    assert not (exported.folder / "weights.pt").exists()
    card = (exported.folder / "README.md").read_text()
    assert "There are no weights" in card
    assert "network.load()" not in card


def test_weights_of_another_file_are_taken_where_it_is_named(result: Path, tmp_path: Path) -> None:
    other = settled(build_network(BEST), seed=5).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in other.items()}}, result / "other.pt")
    exported = export_result(result / "best.json", wish(tmp_path), result / "other.pt")
    found = torch.load(exported.folder / "weights.pt", weights_only=True)
    torch.testing.assert_close(found, dict(other), rtol=0, atol=0)


def test_card_names_weights_of_another_place_without_its_folder(result: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (result / "weights.pt").rename(tmp_path / "private" / "mine.pt")
    export_result(result, wish(tmp_path), tmp_path / "private" / "mine.pt")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "copied from `mine.pt`" in card
    assert "private" not in card


def test_weights_of_another_architecture_are_refused_with_their_first_keys(result: Path, tmp_path: Path) -> None:
    save(replace(BEST, choices={**BEST.choices, "layer_1": "conv_1x1"}), result / "x" / "b.json", result / "other.pt")
    with pytest.raises(FileError, match=r"(?s)other\.pt.*layers\.0\.expand\.0\.weight"):
        export_result(result, wish(tmp_path), result / "other.pt")
    with pytest.raises(FileError, match=r"missing\.pt"):
        export_result(result, wish(tmp_path), result / "missing.pt")
    assert nothing_new(tmp_path)


def test_published_checkpoint_is_exported_under_the_names_of_weights_here(tmp_path: Path) -> None:
    published, theirs = spaces.published("cream-14"), reference_state("cream-14")
    (tmp_path / "result").mkdir()
    images = {"name": "imagenet", "arguments": {"image_size": 64}}
    best = replace(BEST, space=published.space, choices=published.choices, cost=published.macs, data=images)
    best.save(tmp_path / "result" / "best.json")
    torch.save({"state_dict": theirs}, tmp_path / "result" / "weights.pt")
    export_result(tmp_path / "result", wish(tmp_path, input_shape=(3, 64, 64)))
    exported = torch.load(tmp_path / "out" / "weights.pt", weights_only=True)
    assert torch.equal(exported["first.depthwise.0.weight"], theirs["blocks.0.0.conv_dw.weight"])


def test_published_network_alone_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cream-14: .*nni-cream retrain cream-14.*write_formats"):
        export_result("cream-14", wish(tmp_path))


def test_images_that_are_not_here_are_an_error_that_says_what_to_do(result: Path, tmp_path: Path) -> None:
    replace(BEST, data={"name": "of_another_machine", "arguments": {}}).save(result / "best.json")
    with pytest.raises(DataError, match=r"(?s)of_another_machine.*--input-shape C,H,W"):
        export_result(result, wish(tmp_path))
    with pytest.raises(ExportError, match=r"does not take images of shape \(8, 3, 8, 8\)"):
        export_result(result, wish(tmp_path, input_shape=(3, 8, 8)))
    assert nothing_new(tmp_path)
    assert export_result(result, wish(tmp_path, input_shape=(1, 12, 12))).differences == {"code": 0.0}


def test_wrong_wish_is_refused_before_any_work(result: Path, tmp_path: Path) -> None:
    (result / "best.json").write_text("broken")
    with pytest.raises(ConfigError, match="opset is 3"):
        export_result(result, wish(tmp_path, "onnx", opset=3))
    with pytest.raises(FileError, match="no export wrote"):
        export_result(result, wish(tmp_path, out=result))
    with pytest.raises(FileError, match=r"best\.json"):
        export_result(result, wish(tmp_path))


def test_export_that_fails_leaves_nothing_and_the_earlier_one(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_result(result, wish(tmp_path))
    before = (tmp_path / "out" / "export.json").read_bytes()

    def interrupted(card: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_run, "result_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_result(result, wish(tmp_path, force=True))
    assert sorted(os.listdir(tmp_path)) == ["out", "result"]
    assert (tmp_path / "out" / "export.json").read_bytes() == before


@pytest.fixture
def front(result: Path) -> Path:
    for number, operation in enumerate(("conv_1x1", "conv_3x3"), start=1):
        choices = {**BEST.choices, "layer_1": operation}
        best = replace(BEST, choices=choices, accuracy=0.5 + number / 8, cost=number, cost_name="milliwatts")
        save(best, result / "pareto" / f"0{number}.json", result / "pareto" / f"0{number}.pt")
    return result


def test_pareto_front_is_a_folder_for_each_network_and_a_table(front: Path, tmp_path: Path) -> None:
    written = export_pareto(front, wish(tmp_path, command="nni-cream export"))
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["01", "02", "README.md", "export.json", "pareto.json"]
    assert [exported.folder for exported in written] == [out / "01", out / "02"]
    assert load_best(out / "02").choices["layer_1"] == "conv_3x3"
    rows = json.loads((out / "pareto.json").read_text())
    assert [(row["folder"], row["accuracy"], row["cost"]) for row in rows] == [("01", 0.625, 1), ("02", 0.75, 2)]
    assert [row["macs"] for row in rows] == [exported.macs for exported in written]
    assert rows[1]["params"] - rows[0]["params"] == 8 * 8 * (9 - 1)
    card = (out / "README.md").read_text()
    assert f"| [02](02/README.md) | 0.7500 | 2 milliwatts | {written[1].macs:,} | {written[1].params:,} |" in card
    export_pareto(front, wish(tmp_path, force=True))  # what is in the folders below is known to be an export's


def test_pareto_front_is_exported_whole_or_not_at_all(front: Path, tmp_path: Path) -> None:
    weights = (front / "pareto" / "02.pt").read_bytes()
    (front / "pareto" / "02.pt").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(FileError, match=r"02\.pt"):
        export_pareto(front, wish(tmp_path))
    assert nothing_new(tmp_path)
    shutil.rmtree(front / "pareto")
    with pytest.raises(FileError, match="there is no Pareto front"):
        export_pareto(front, wish(tmp_path))


def pictures(root: Path) -> dict[str, Any]:
    """Save pictures of two classes, and return the arguments of their data set."""
    draw = np.random.default_rng(0)
    for number in range(20):
        file = root / ("cat" if number % 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        blocks = draw.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        blocks[..., number % 3] //= 4
        Image.fromarray(blocks).resize((48 + number, 40), Image.Resampling.BICUBIC).save(file)
    return {"root": str(root), "image_size": 32, "validation": 0.3, "test": 0.3, "crop_fraction": 0.8}


def colour(source: dict[str, Any]) -> Best:
    """Describe a network for pictures of two classes, 32x32 pixels in colour."""
    space = {"name": "digits", "arguments": {**BEST.space["arguments"], "input_channels": 3, "num_classes": 2}}
    # By hand: all convolutions but the last, that one at 16x16, the classifier.
    cost = 1024 * (27 * 8 + 8 * 16 + 9 * 16 + 16 * 8 + 8 * 12) + 256 * 9 * 12 * 12 + 12 * 2
    return replace(BEST, space=space, cost=cost, data={"name": "folder", "arguments": source})


def test_card_of_image_files_has_classes_and_every_step_from_file_to_input(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour({**pictures(tmp_path / "images"), "cache": True}).save(result / "best.json")
    monkeypatch.delattr(file_arguments, "ImagesInMemory")  # eight images are not worth to decode all
    (result / "weights.pt").unlink()
    export_result(result, wish(tmp_path))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "classes: 2: cat, dog" in card
    assert "1. Decode the file to RGB" in card
    assert "2. Turn the image upright" in card
    assert "3. Resize it in its own proportions until it just covers 40x40 pixels" in card  # the centre is 80 % of it
    assert "4. Crop the centre of 32x32 pixels." in card
    assert "6. Subtract 0.485, 0.456, 0.406, then divide by 0.229, 0.224, 0.225." in card
    assert "Compose" not in card
    assert "classify.py" not in card  # there is no ONNX file to run


EACH = """
import runpy, sys
for file in sys.argv[1:]:
    sys.argv = ["classify.py", file]
    print("logits:", *runpy.run_path("classify.py")["logits"][0])
print("foreign:", *({"torch", "torchvision", "nni", "nni_cream"} & set(sys.modules)))
"""


def test_script_of_the_card_gives_the_class_of_a_picture_without_torch(result: Path, tmp_path: Path) -> None:
    source = pictures(tmp_path / "images")
    part: Any = data.create("folder", **source).test
    best = colour(source)
    best.save(result / "best.json")
    network = settled(build_network(best))
    images = torch.stack([image for image, _ in part])
    network.get_parameter("classifier.bias").data -= network(images).detach().mean(dim=0)  # so that both classes occur
    torch.save(network.state_dict(), result / "weights.pt")
    out = export_result(result, wish(tmp_path, "onnx")).folder
    manifest = json.loads((out / "export.json").read_text())
    (metadata,) = onnx.load(out / "network.onnx").metadata_props
    assert (metadata.key, json.loads(metadata.value)) == (
        "nni_cream",
        {name: manifest[name] for name in ("classes", "input")},
    )
    (script,) = re.findall(r"^```python\n(import json.*?)^```", (out / "README.md").read_text(), re.M | re.S)
    (out / "classify.py").write_text(script)
    files = [part.source.path(int(position)) for position in part.positions]
    done = subprocess.run([sys.executable, "-I", "-c", EACH, *files], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, foreign = done.stdout.splitlines()
    assert foreign == "foreign:"
    expected = network(images).detach()
    told = torch.tensor([[float(value) for value in line.split()[1:]] for line in lines[1::2]])
    assert (told - expected).abs().max() < 0.05 * expected.std()
    assert lines[::2] == [["cat", "dog"][int(row.argmax())] for row in expected]
    assert set(lines[::2]) == {"cat", "dog"}


def test_transform_of_ones_own_is_said_to_be_unknown(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "images")
    splits = data.create("folder", **source)
    part: Any = splits.test
    own = replace(
        splits,
        test=part.with_transform(
            v2.Compose([*part.transform.to_bytes.transforms, v2.ToDtype(torch.float32, scale=True)])
        ),
    )
    monkeypatch.setattr(data, "create", lambda name, **arguments: own)
    colour(source).save(result / "best.json")
    (result / "weights.pt").unlink()
    export_result(result, wish(tmp_path))
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (manifest["classes"], manifest["input"]) == (["cat", "dog"], None)
    assert (
        "unknown, since the data set has a transform of its own: `Compose("
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_data_with_other_classes_than_the_network_is_refused(result: Path, tmp_path: Path) -> None:
    seven = replace(BEST, space={"name": "digits", "arguments": {**BEST.space["arguments"], "num_classes": 7}})
    save(seven, result / "best.json", result / "weights.pt")
    with pytest.raises(SpaceError, match=r"space\.num_classes is 7; expected 10, as in the data"):
        export_result(result, wish(tmp_path))
    assert nothing_new(tmp_path)


@pytest.mark.parametrize(
    ("side", "problem"), [(16, "at least 32x32"), (48, "expected 32x32, which the space is planned for")]
)
def test_images_that_the_space_is_not_made_for_are_refused(tmp_path: Path, side: int, problem: str) -> None:
    arguments = {"depths": [1] * 5, "width_multiplier": 0.1, "image_size": 32}
    choices = {f"stage_{number}_block_1": "k3e4" for number in range(1, 6)}
    space = {"name": "cream", "arguments": arguments}
    replace(BEST, space=space, choices=choices, cost_name="milliwatts").save(tmp_path / "best.json")
    with pytest.raises(SpaceError, match=problem):
        export_result(tmp_path / "best.json", wish(tmp_path, input_shape=(3, side, side)))
    assert os.listdir(tmp_path) == ["best.json"]
