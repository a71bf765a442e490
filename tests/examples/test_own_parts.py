"""A matcher, a cost and a sampler of a user's own, from files outside the package, in Python and from YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from nni_cream import CreamStrategy, config
from nni_cream.cli import main
from nni_cream.errors import ConfigError
from nni_cream.from_config import make_strategy
from nni_cream.search import MetaMatcher, Scoring, Teaching
from tests.examples.own_cost import StoredBytes
from tests.examples.own_matcher import NearestMatcher
from tests.examples.own_sampler import MutatingSampler
from tests.search.small import LayerSpace, evaluator, run

FOLDER = Path(__file__).parent
MATCHER = "tests.examples.own_matcher:NearestMatcher"
COST = "tests.examples.own_cost:StoredBytes"
SAMPLER = "tests.examples.own_sampler:MutatingSampler"
FEW: dict[str, Any] = {
    "board_size": 4,
    "warmup": 0,
    "teaching": Teaching(start=None, gate=False, share=1.0),
    "scoring": Scoring(images=40, interval=2),
    "seed": 2,
}


class Seen(Callback):
    """Every path that is trained."""

    def __init__(self) -> None:
        self.paths: dict[int, tuple[Any, ...]] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.paths[trainer.global_step] = tuple(module._path.values())


def searched(strategy: CreamStrategy, *callbacks: Any, checkpoint: Path | None = None, **trainer: Any) -> CreamStrategy:
    pl.seed_everything(2)
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    use = evaluator(max_epochs=3, callbacks=[*callbacks], enable_checkpointing=saving, **trainer)
    if checkpoint is not None:
        use.fit_kwargs["ckpt_path"] = str(checkpoint)
    return run(LayerSpace(), strategy, use)


@pytest.mark.parametrize("name", ["own_matcher", "own_cost", "own_sampler"])
def test_each_example_has_at_most_25_lines_and_imports_public_names_alone(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 25
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert all(line.startswith("from nni_cream.search import ") and " _" not in line for line in imports)
    assert "._" not in text


# From Python ----------------------------------------------------------------------------------------------------------


def test_own_matcher_picks_the_nearest_entry_for_every_path_that_is_taught() -> None:
    seen = []

    class Watched(NearestMatcher):
        def pick(self, student: Any, entries: Any) -> Any:
            match = super().pick(student, entries)
            if match is not None:
                own = self.outputs(student)
                assert own.shape == (8, 10)  # probe_images, classes
                gaps = [float((self.outputs(entry.path) - own).abs().sum()) for entry in entries]
                seen.append((entries.index(match.entry), gaps.index(min(gaps)), match.weight))
            return match

    strategy = searched(CreamStrategy(matching=Watched(weight=0.8), **FEW))
    assert len(seen) > 10
    assert all(picked == nearest and weight == 0.8 for picked, nearest, weight in seen)
    assert len({picked for picked, _, _ in seen}) > 1
    assert strategy.statistics["match_weight"] == pytest.approx(0.8)


def test_own_cost_gives_the_cost_of_every_entry_and_keeps_its_range() -> None:
    strategy = searched(CreamStrategy(cost=StoredBytes(bits=4), cost_range=(None, 600), **FEW))
    assert len(strategy.board) == 4
    models = strategy.list_models(limit=None)
    for entry, model in zip(strategy.board.entries, models, strict=True):
        weights = sum(weight.numel() for weight in model.executable_model().parameters())
        assert entry.cost == weights / 2 <= 600


def test_own_cost_stands_beside_others() -> None:
    strategy = searched(CreamStrategy(cost=["macs", StoredBytes()], cost_range={"StoredBytes": (None, 1200)}, **FEW))
    assert all(entry.other_costs["StoredBytes"] <= 1200 for entry in strategy.board.entries)


def test_own_sampler_draws_mutations_of_the_board() -> None:
    near = []

    class Watched(MutatingSampler):
        def draw(self) -> Any:
            path = super().draw()
            entries = [entry.path for entry in self.board.entries]
            if entries:
                near.append(min(sum(path[label] != entry[label] for label in path) for entry in entries))
            return path

    searched(CreamStrategy(sampling=Watched(share=1.0), **FEW))
    assert len(near) > 10
    assert max(near) <= 1  # a single choice was drawn again


def test_own_sampler_keeps_the_range_of_the_costs() -> None:
    seen = Seen()
    strategy = CreamStrategy(sampling=MutatingSampler(), cost="params", cost_range=(None, 1000), **FEW)
    searched(strategy, seen)
    weights = {"identity": 0, "conv_1x1": 8 * 8 + 16, "conv_3x3": 9 * 8 * 8 + 16}
    rest = 9 * 8 + 16 + 8 * 10 + 10
    assert len(seen.paths) == 24
    assert all(rest + sum(weights[name] for name in path) <= 1000 for path in seen.paths.values())


@pytest.mark.integration
def test_resumed_search_with_the_own_parts_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    def strategy() -> CreamStrategy:
        return CreamStrategy(sampling=MutatingSampler(), matching=NearestMatcher(), cost=StoredBytes(), **FEW)

    whole, rest = Seen(), Seen()
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=11, save_top_k=-1)
    undisturbed = searched(strategy(), whole, saves)
    resumed = searched(strategy(), rest, checkpoint=tmp_path / "step=11.ckpt")
    assert len(whole.paths) == 24
    assert rest.paths == {step: path for step, path in whole.paths.items() if step > 11}
    assert resumed.board.entries == undisturbed.board.entries


# From YAML ------------------------------------------------------------------------------------------------------------


def written(folder: Path, **search: Any) -> str:
    content = {
        "space": {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]},
        "data": {"name": "digits", "train": 200, "validation": 100},
        "search": {"epochs": 2, "board_size": 4, "warmup": 0, "batch_size": 50, **search},
        "trainer": {"accelerator": "cpu", "threads": 1},
    }
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def made(folder: Path, **search: Any) -> Any:
    return make_strategy(config.load(written(folder, **search))["search"])._settings


def test_own_parts_are_made_from_their_names(tmp_path: Path) -> None:
    settings = made(tmp_path, matching=MATCHER, cost=COST, sampling=SAMPLER)
    assert isinstance(settings.matching, NearestMatcher)
    assert isinstance(settings.sampling, MutatingSampler)
    assert isinstance(settings.cost[0], StoredBytes)
    assert settings.matching.weight == settings.sampling.share == 0.5


def test_own_parts_take_arguments_beside_the_name(tmp_path: Path) -> None:
    settings = made(tmp_path, matching={"name": MATCHER, "weight": 0.9}, sampling={"name": SAMPLER, "share": 0.1})
    assert settings.matching.weight == 0.9
    assert settings.sampling.share == 0.1


def test_own_cost_stands_beside_others_in_a_file(tmp_path: Path) -> None:
    settings = made(tmp_path, cost=["macs", COST], cost_range={"StoredBytes": [None, 1200]})
    assert settings.cost_range == ((None, None), (None, 1200.0))


def test_a_name_of_ours_takes_arguments_in_the_same_way(tmp_path: Path) -> None:
    matcher = made(tmp_path, matching={"name": "meta", "interval": 20, "probe_images": 8}).matching
    assert isinstance(matcher, MetaMatcher)
    assert (matcher.interval, matcher.probe_images) == (20, 8)


@pytest.mark.integration
def test_whole_search_of_a_file_with_all_three(tmp_path: Path) -> None:
    file = written(tmp_path, matching={"name": MATCHER, "probe_images": 4}, cost=COST, sampling=SAMPLER)
    assert main(["search", file, "--out", str(tmp_path / "out")]) == 0
    board = json.loads((tmp_path / "out" / "board.json").read_text())
    assert len(board["entries"]) == 4
    assert all(entry["cost"] == int(entry["cost"]) > 0 for entry in board["entries"])


# Wrong input ----------------------------------------------------------------------------------------------------------


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no matcher": ({"matching": SAMPLER}, ["matching", "MutatingSampler", "expected a subclass of Matcher"]),
    "no sampler": ({"sampling": MATCHER}, ["sampling", "NearestMatcher", "expected a subclass of PathSampler"]),
    "a matcher's unknown argument": (
        {"matching": {"name": MATCHER, "wieght": 0.5}},
        ["matching", MATCHER, "'wieght'", "expected", "weight, probe_images"],
    ),
    "a sampler's unknown argument": (
        {"sampling": {"name": SAMPLER, "shares": 0.5}},
        ["sampling", SAMPLER, "'shares'", "expected", "share"],
    ),
    "an unknown argument of ours": (
        {"matching": {"name": "meta", "intervall": 3}},
        ["matching", "meta", "'intervall'", "expected", "interval, learning_rate, probe_images, weight"],
    ),
    "no module": ({"matching": "nowhere.at.all:Matcher"}, ["matching", "nowhere.at.all:Matcher", "expected"]),
    "no class": ({"sampling": "tests.examples.own_sampler:No"}, ["sampling", "own_sampler:No", "expected"]),
    "no cost": ({"cost": "tests.examples.own_cost:__doc__"}, ["cost", "own_cost:__doc__", "expected"]),
    "no name": ({"matching": "nearest"}, ["matching", "'nearest'", "expected one of meta, random, best, none"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_ends_in_one_error_with_key_value_and_what_was_expected(case: str, tmp_path: Path) -> None:
    search, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        made(tmp_path, **search)
    message = str(caught.value)
    assert "search." in message
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(("key", "value"), [("matching", NearestMatcher), ("sampling", MutatingSampler)])
def test_a_class_in_the_place_of_an_object_is_refused_from_python(key: str, value: type) -> None:
    arguments: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=rf"{key} is .*{value.__name__}.*; expected"):
        CreamStrategy(**arguments)
