"""Every file of experiments/: it says how it is run, it is valid, and a dry run or a small version goes through."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from nni_cream import config, spaces
from nni_cream.cli import main
from nni_cream.config import RETRAIN
from nni_cream.detection.boxes.scenes import make_scenes
from nni_cream.detection.detect_rehearsal import rehearse_detection
from nni_cream.manager.plan import ExperimentPlan
from nni_cream.manager.tuner_arguments import resolve_experiment
from nni_cream.results.architecture_file import Best
from nni_cream.runs.rehearsals.retrain_rehearsal import rehearse_retraining
from nni_cream.runs.rehearsals.search_rehearsal import rehearse_search
from nni_cream.search import Teaching

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

FOLDER = Path(__file__).parents[1] / "experiments"
IMAGES = 2  # at once: the largest networks see images of 224 pixels here


def commands(path: Path) -> list[list[str]]:
    """Return the words of each command in the comment at the head of a file."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("#   nni")]
    return [re.findall(r"[^\s`]+", line.lstrip("# ")) for line in lines]


def a_result(space: str, folder: Path) -> Path:
    """Write what a search of this space might have found."""
    choices = {f"layer_{number}": "conv_3x3" for number in range(1, 8)}
    data = {"name": space, "arguments": {}, "fingerprint": "f"}
    best = Best({"name": space, "arguments": {}}, choices, 0.5, 1.0, "of_mine", data, 0, {})
    best.save(folder / "best.json")
    return folder


def rehearse(path: Path, folder: Path) -> dict[str, Any]:
    """Make a dry run of a file, whatever its kind."""
    content = config.read_yaml(path)
    if "tuner" in content:
        resolved, varied = resolve_experiment(content["tuner"]["classArgs"], content["searchSpace"])
        trial = ExperimentPlan(resolved, varied).next()
        assert trial is not None
        return rehearse_search(trial.parameters["config"], IMAGES).to_json()
    if "detector" in content:
        return rehearse_detector(path, folder)
    if "recipe" in content:
        result = a_result(name_of(content["data"]), folder)
        return rehearse_retraining(result, RETRAIN.load(path), images_at_once=IMAGES).to_json()
    return rehearse_search(shallow(config.load(path)), IMAGES).to_json()


def shallow(resolved: dict[str, Any]) -> dict[str, Any]:
    """Return a search with fewer layers of the same kinds, where the file has long stages; build its own space, too."""
    space = resolved["space"]
    if space["name"] != "mixed":
        return resolved
    spaces.create(space["name"], **space["arguments"])
    data = {"name": "cifar10", "arguments": {"root": "nowhere"}}  # images of this shape, without the folder
    return {**resolved, "data": data, "space": {**space, "arguments": {**space["arguments"], "layers": 1}}}


def rehearse_detector(path: Path, folder: Path) -> dict[str, Any]:
    """Make a dry run of a detector's file, on a few scenes in the layout of its data."""
    resolved = config.DETECT.load(path)
    arguments = resolved["data"]["arguments"]
    scenes = make_scenes(folder / "scenes", train=16, test=2).out
    if resolved["data"]["name"] == "coco":
        for ours, theirs in (("train", arguments["train"]), ("test", arguments["test"])):
            (scenes / ours).rename(scenes / theirs)
            annotations = scenes / "annotations"
            (annotations / f"instances_{ours}.json").rename(annotations / f"instances_{theirs}.json")
    else:
        as_voc(scenes, {"train": arguments["train"], "test": arguments["test"]})
    arguments["root"] = str(scenes)
    resolved["trainer"]["threads"] = 1  # more are many times slower where all processors are busy
    resolved["detector"] |= {key: min(320, resolved["detector"][key]) for key in ("min_size", "max_size")}
    return rehearse_detection(resolved, images_at_once=IMAGES).to_json()


def as_voc(scenes: Path, parts: dict[str, str]) -> None:
    """Write scenes once more, in Pascal VOC's layout."""
    (scenes / "JPEGImages").mkdir()
    (scenes / "Annotations").mkdir()
    (scenes / "ImageSets" / "Main").mkdir(parents=True)
    for part, name in parts.items():
        content = json.loads((scenes / "annotations" / f"instances_{part}.json").read_text())
        names = []
        for image in content["images"]:
            names.append(f"{part}_{image['id']}")
            (scenes / part / image["file_name"]).rename(scenes / "JPEGImages" / f"{names[-1]}.png")
            objects = "".join(
                f"<object><name>{box['category_id']}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
                f"<xmax>{left + width}</xmax><ymax>{top + height}</ymax></bndbox></object>"
                for box in content["annotations"]
                if box["image_id"] == image["id"]
                for left, top, width, height in [box["bbox"]]
            )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            text = f"<annotation><filename>{names[-1]}.png</filename>{size}{objects}</annotation>"
            (scenes / "Annotations" / f"{names[-1]}.xml").write_text(text)
        (scenes / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(names))


def name_of(section: Any) -> str:
    return str(section if isinstance(section, str) else section["name"])


STUDIES = {"truth": config.TRUTH, "rank": config.RANK, "ablation": config.RANK, "final": config.FINAL}


# Of 81 paths: the largest board of a variant has 50 entries.
SMALL_SPACE: dict[str, Any] = {
    "name": "digits",
    "channels": [12] * 4,
    "operations": ["conv_3x3", "conv_1x1", "identity"],
}


def kind(path: Path) -> str:
    return path.stem.partition("_")[0]


def reduced(content: dict[str, Any]) -> dict[str, Any]:
    """Return the file of a study with as many variants, on a few images and for one epoch.

    Retired settings go: nothing can be run with them.
    """
    small = {**content, "space": SMALL_SPACE, "data": {"name": "digits", "train": 40, "validation": 60}}
    study = {**content["study"], "judging_images": 40, "seeds": [0]}
    study.pop("retired", None)
    if "recipe" in content:
        small["recipe"] = {**content["recipe"], "epochs": 1, "batch_size": 20}
    if "search" in content:
        small["search"] = {**content["search"], "epochs": 1, "batch_size": 20}
        if "variants" in content:
            study |= {"recalibration_images": 20, "resamples": 100}
        else:
            study |= {"retrain_seeds": [0], "population": 4}
            small["search"]["scoring"] = {**content["search"].get("scoring", {}), "recalibration_images": 20}
    else:
        study |= {"seeds": [0, 1], "architectures": 10}
    if "scored" in study:
        study["scored"] = 10
    if "evolution" in study:
        study |= {"evolution": 4, "population": 2}
    for name, changes in content.get("variants", {}).items():
        small["variants"] = small["variants"] | {name: {key: changes[key] for key in changes if key != "retired"}}
    return {**small, "study": study}


@pytest.fixture(scope="module")
def truths(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return the truth of a reduced study file; several files are compared with one."""

    @cache
    def truth(path: Path) -> Path:
        folder = tmp_path_factory.mktemp("truth")
        (folder / "truth.yml").write_text(yaml.safe_dump(reduced(config.read_yaml(path)), sort_keys=False))
        assert main(["study", "truth", str(folder / "truth.yml"), "--workers", "1", "--out", str(folder / "out")]) == 0
        return folder / "out/truth.json"

    return truth


def truth_of_others(folder: Path) -> Path:
    """Return a truth of all paths of the reduced space, made up."""
    labels = [f"layer_{number}" for number, _ in enumerate(SMALL_SPACE["channels"], start=1)]
    paths = itertools.product(SMALL_SPACE["operations"], repeat=len(labels))
    lines = [f"{','.join(path)},{0.5 + number / 1000},{1 + number}" for number, path in enumerate(paths)]
    (folder / "table.csv").write_text("\n".join([f"{','.join(labels)},accuracy,macs", *lines]))
    arguments = {key: SMALL_SPACE[key] for key in ("channels", "operations")}
    words = ["--space", json.dumps({"name": SMALL_SPACE["name"], "arguments": arguments})]
    out = folder / "truth_of_others.json"
    assert main(["study", "import-truth", "csv", str(folder / "table.csv"), *words, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    "path", [path for path in sorted(FOLDER.glob("*.yml")) if kind(path) in STUDIES], ids=lambda path: path.stem
)
def test_every_study_file_runs_in_a_reduced_version(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truths: Callable[[Path], Path]
) -> None:
    monkeypatch.chdir(FOLDER.parent)  # what its command stands for
    space = STUDIES[kind(path)].load(path)["space"]
    spaces.create(space["name"], **space["arguments"])
    small = tmp_path / path.name
    small.write_text(yaml.safe_dump(reduced(config.read_yaml(path)), sort_keys=False))
    out = tmp_path / "out"
    words = ["study", kind(path)] if kind(path) in ("truth", "final") else ["rank"]
    more = ["--workers", "1", "--out", str(out)]
    if words == ["rank"]:
        (command,) = [words for words in commands(path) if "--truth" in words]
        truth = FOLDER / Path(command[command.index("--truth") + 1]).with_suffix(".yml").name
        more += ["--truth", str(truths(truth) if truth.exists() else truth_of_others(tmp_path))]
    assert main([*words, str(small), *more]) == 0
    assert json.loads((out / f"{path.stem}.json").read_text())["complete"] is True


OTHERS = [path for path in sorted(FOLDER.glob("*.yml")) if kind(path) not in STUDIES]
# Published networks at their size: tests/runs/test_retrain_run.py. Spaces of NNI's hub: tests/spaces/test_hub.py.
ELSEWHERE = ("retrain_cream_*", "hub_*")


@pytest.mark.parametrize(
    "path", [path for path in OTHERS if not any(map(path.match, ELSEWHERE))], ids=lambda path: path.stem
)
def test_every_experiment_file_goes_through_a_dry_run(path: Path, tmp_path: Path) -> None:
    found = rehearse(path, tmp_path)
    assert found["seconds"] > 0
    assert min(found["memory"][name] for name in ("parameters", "gradients", "optimizer", "activations")) > 0
    assert found.get("board_entries", 3) >= 2


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.stem)
def test_every_experiment_file_is_headed_by_a_command_with_its_own_name(path: Path) -> None:
    assert any(f"experiments/{path.name}" in words for words in commands(path))


def test_the_papers_search_has_the_papers_settings() -> None:
    paper = config.load(FOLDER / "imagenet_search.yml")
    search, trainer = paper["search"], paper["trainer"]
    assert search["batch_size"] * trainer["devices"] == 1024
    assert (search["epochs"], search["learning_rate"], search["warmup"]) == (120, 1.0, 20)
    assert (search["board_size"], search["ema_decay"]) == (10, 0.9998)
    assert search["matching"] == {
        "name": "meta",
        "arguments": {"interval": 200, "learning_rate": 1e-4, "probe_images": 4},
    }
    assert search["teaching"] == asdict(Teaching.of("paper"))
