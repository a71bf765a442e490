from __future__ import annotations

import math
import re
import subprocess
from functools import partial

import pytest
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.evaluator.pytorch import Classification, DataLoader, LightningModule
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch import MobileNetV3Space, ProxylessNAS
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import model_context
from torch import nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import nni_cream
from nni_cream import CreamStrategy, spaces
from nni_cream.errors import ConfigError, SearchError, SpaceError
from nni_cream.search import CostModel, RandomPaths, Supernet
from tests.search.small import TRAINER, CellSpace, LayerSpace, ValueSpace, cream, custom_evaluator, digits, evaluator


def colour_evaluator(size: int) -> Classification:
    data = TensorDataset(torch.randn(24, 3, size, size), torch.arange(24) % 10)
    return Classification(
        num_classes=10,
        train_dataloaders=DataLoader(data, batch_size=8),
        val_dataloaders=DataLoader(data, batch_size=8),
        max_steps=5,
        **TRAINER,
    )


HUB = {
    "proxyless": lambda: ProxylessNAS(num_labels=10, base_widths=(8, 8, 8, 16, 16, 16, 16, 16, 32)),
    "mobilenet_v3": lambda: MobileNetV3Space(num_labels=10, width_multipliers=(0.25, 0.5)),
}
OURS = {
    "digits": lambda: spaces.create("digits"),
    "cells": CellSpace,
    "values": ValueSpace,
}


def run_experiment(space: ModelSpace, strategy: CreamStrategy, use: Classification, folder) -> NasExperiment:
    experiment = NasExperiment(space, use, strategy)
    experiment.config.experiment_working_directory = str(folder)
    experiment.run()
    return experiment


def assert_a_useful_result(experiment: NasExperiment, strategy: CreamStrategy, x: torch.Tensor) -> None:
    exported = experiment.export_top_models(top_k=2, formatter="dict")
    assert exported == [dict(entry.path) for entry in strategy.board.entries[:2]]
    network = experiment.export_top_models(formatter="instance")[0]
    strategy.supernet.eval()
    network.eval()
    Supernet(strategy.supernet).activate(exported[0])
    with torch.no_grad():
        torch.testing.assert_close(network(x), strategy.supernet(x), atol=1e-6, rtol=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("name", OURS)
def test_an_nni_experiment_ends_with_a_board_and_a_freezable_best(tmp_path, name):
    strategy = cream(board_size=4, meta_interval=4)
    experiment = run_experiment(OURS[name](), strategy, evaluator(max_epochs=2), tmp_path)
    assert len(strategy.board) == 4
    assert_a_useful_result(experiment, strategy, digits(8)[:][0])
    with model_context(strategy.board.best.path):
        assert OURS[name]()(digits(4)[:][0]).shape == (4, 10)


@pytest.mark.integration
@pytest.mark.parametrize("name", HUB)
def test_spaces_of_nnis_hub_are_searched_in_an_experiment(tmp_path, name):
    strategy = cream(board_size=2, meta_interval=2, warmup=0, probe_images=2, score_images=16)
    experiment = run_experiment(HUB[name](), strategy, colour_evaluator(32), tmp_path)
    assert len(strategy.board) == 2
    assert_a_useful_result(experiment, strategy, torch.randn(2, 3, 32, 32))


@pytest.mark.integration
@pytest.mark.parametrize("name", [*HUB, "digits", "fashion"])
def test_costs_of_paths_of_whole_spaces_equal_half_of_torchs_flop_count(name):
    create = HUB.get(name) or partial(spaces.create, name)
    channels, size = (3, 32) if name in HUB else (1, {"digits": 8, "fashion": 28}[name])
    net = Supernet(cream(board_size=1).mutate_model(create()))
    x = torch.randn(2, channels, size, size)
    cost, sampler = CostModel(net, (x,)), RandomPaths(net.space, seed=3)
    for _ in range(4 if name in HUB else 50):
        path = sampler.draw()
        with model_context(path):
            network = create().eval()
        with FlopCounterMode(display=False) as counter:
            network(x[:1])
        assert cost(path) == counter.get_total_flops() / 2


@pytest.mark.integration
@pytest.mark.parametrize("name", [*HUB, "digits", "fashion"])
def test_a_path_of_a_whole_space_equals_its_frozen_network(name):
    space = HUB[name]() if name in HUB else spaces.create(name)
    channels, size = (3, 32) if name in HUB else (1, {"digits": 8, "fashion": 28}[name])
    net = Supernet(cream(board_size=1).mutate_model(space))
    net.space.eval()
    sampler = RandomPaths(net.space, seed=4)
    for _ in range(3):
        path, x = sampler.draw(), torch.randn(2, channels, size, size)
        net.activate(path)
        with torch.no_grad():
            torch.testing.assert_close(net.freeze(path).eval()(x), net.space(x), atol=1e-6, rtol=1e-6)


@pytest.mark.integration
def test_nnis_own_strategies_survive_our_import(python):
    code = "import nni_cream.strategy; from nni.nas.strategy import RandomOneShot; RandomOneShot()"
    subprocess.run([*python, "-c", code], check=True, capture_output=True)


def test_public_names_are_importable_and_others_are_not():
    assert all(getattr(nni_cream, name) is not None for name in nni_cream.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nni_cream.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"board_size": 0}, "board_size is 0"),
        ({"matching": "teacher"}, "matching is 'teacher'"),
        ({"cost": "flops"}, "cost is 'flops'"),
        ({"cost_range": (2, 1)}, "low end"),
        ({"cost_range": (math.nan, None)}, "cost_range is .nan"),
        ({"margin": -1}, "margin"),
        ({"margin": math.nan}, "margin is nan"),
        ({"margin": math.inf}, "margin is inf"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"warmup": -1}, "warmup is -1"),
        ({"warmup": True}, "warmup is True"),
        ({"warmup": math.nan}, "warmup is nan"),
        ({"warmup": math.inf}, "warmup is inf"),
        ({"score_images": 0}, r"scoring\.images is 0; expected a whole number of at least 2"),
        ({"score_interval": 2.5}, "scoring.interval is 2.5"),
        ({"meta_interval": -3}, "matching.interval is -3"),
        ({"meta_learning_rate": 0}, "matching.learning_rate is 0"),
        ({"meta_learning_rate": math.nan}, "matching.learning_rate is nan"),
        ({"meta_learning_rate": math.inf}, "matching.learning_rate is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"distillation": "hard"}, "distillation is 'hard'"),
        ({"score": "top5"}, "score is 'top5'"),
        ({"rescore_interval": 0}, "scoring.rescore_interval is 0; expected a whole number of at least 1"),
        ({"rescore_interval": 0.5}, r"scoring.rescore_interval is 0\.5"),
        ({"match_weight": 0}, "matching.weight is 0; expected a number above 0 and below 1"),
        ({"match_weight": 1}, "matching.weight is 1"),
        ({"match_weight": math.nan}, "matching.weight is nan"),
        ({"match_weight": True}, "matching.weight is True"),
        ({"match_weight": None}, "matching.weight is None"),
        ({"joint_loss": "sum"}, "teaching.joint_loss is 'sum'; expected one of mix, add"),
        ({"joint_loss": ["mix"]}, r"teaching.joint_loss is \['mix'\]"),
        ({"temperature": 0}, "teaching.temperature is 0; expected a number above 0"),
        ({"temperature": math.inf}, "teaching.temperature is inf"),
        ({"temperature": math.nan}, "teaching.temperature is nan"),
        ({"temperature": True}, "teaching.temperature is True"),
        ({"temperature": "hot"}, "teaching.temperature is 'hot'"),
        (
            {"temperature": 2, "distillation": "mean_squared_error"},
            "teaching.temperature is 2.0; expected 1, since distillation 'mean_squared_error' has no temperature",
        ),
        (
            {"temperature": 2, "distillation": nn.functional.mse_loss},
            "teaching.temperature is 2.0; expected 1, since distillation 'mse_loss' has no",
        ),
        ({"distillation_start": -1}, "teaching.start is -1; expected a whole number of at least 0, or a fraction"),
        ({"distillation_start": 1.0}, r"teaching.start is 1\.0"),
        ({"distillation_start": math.nan}, "teaching.start is nan"),
        ({"distillation_start": True}, "teaching.start is True"),
        ({"distillation_start": "2"}, "teaching.start is '2'"),
        ({"distillation_gate": 1}, "teaching.gate is 1; expected true or false"),
        ({"distillation_gate": "yes"}, "teaching.gate is 'yes'"),
        ({"teacher_weights": "ema"}, "teaching.weights is 'ema'; expected one of current, average"),
        (
            {"ema_decay": None},
            "teaching.weights is 'average'; expected 'current', since ema_decay is None",
        ),
        ({"margin": 5}, "margin is 5; expected a number of at least 0 and at most 1"),
        ({"margin": 1.5, "score": "miou"}, r"margin is 1\.5; expected a number of at least 0 and at most 1"),
        ({"margin": -1, "score": "negative_squared_error"}, "margin is -1; expected a number of at least 0"),
        ({"margin": "0.1"}, "margin is '0.1'"),
        ({"sampling": "evolution"}, "sampling is 'evolution'; expected one of uniform, or a PathSampler"),
        ({"sampling": None}, "sampling is None"),
    ],
)
def test_an_argument_out_of_its_range_is_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        cream(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"teaching": {"start": 1, "gat": True}},
            "teaching has the key 'gat'; expected keys among joint_loss, start, gate, weights, share, temperature. "
            "Did you mean 'gate'?",
        ),
        (
            {"scoring": {"image": 9}},
            "scoring has the key 'image'; expected keys among images, interval, proposals, rescore_interval, "
            "recalibration_images. Did you mean 'images'?",
        ),
        ({"scoring": {1: 9}}, "scoring has the key 1; expected keys among images, "),
        ({"teaching": "papr"}, "teaching is 'papr'; expected careful, paper, a mapping or Teaching(...)"),
        ({"scoring": 7}, "scoring is 7; expected a mapping or Scoring(...)"),
    ],
)
def test_a_mapping_with_an_unknown_key_is_refused_with_the_nearest_one(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        CreamStrategy(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rescore_interval": None},
        {"distillation_start": None},
        {"distillation_start": 0.1},
        {"distillation_start": 2, "warmup": 2},
        {"distillation_start": 0.0, "warmup": 0.0},
        {"temperature": 4, "distillation": "soft_cross_entropy"},
        {"temperature": 1, "distillation": "mean_squared_error"},
        {"teacher_weights": "average", "ema_decay": 0.99},
        {"margin": 1},
    ],
)
def test_arguments_at_the_end_of_their_ranges_are_kept_as_they_are(arguments):
    outline = cream(**arguments)._settings.outline()
    homes = {"distillation_start": ("teaching", "start"), "teacher_weights": ("teaching", "weights")}
    homes |= {"temperature": ("teaching", "temperature"), "rescore_interval": ("scoring", "rescore_interval")}
    for name, value in arguments.items():
        outer, inner = homes.get(name, (name, None))
        found = outline[outer] if inner is None else outline[outer][inner]
        assert (found["name"] if name == "distillation" else found) == value


@pytest.mark.parametrize("score", ["negative_squared_error", nn.functional.l1_loss])
def test_the_margin_of_a_score_that_is_no_share_has_the_unit_of_the_score(score):
    assert cream(margin=250, score=score).board.margin == 250


def test_a_board_larger_than_the_space_is_refused():
    with pytest.raises(ConfigError, match="expected at most 81, the number of paths"):
        cream(board_size=82).mutate_model(LayerSpace())


def test_a_model_without_choices_is_refused():
    class Fixed(ModelSpace):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

    with pytest.raises(SpaceError, match="holds no mutable"):
        cream().mutate_model(Fixed())


def test_something_that_is_not_a_model_space_is_refused():
    with pytest.raises(SpaceError, match="is a Linear"):
        cream().mutate_model(nn.Linear(1, 1))


def test_an_evaluator_that_is_not_lightning_is_refused():
    with pytest.raises(SearchError, match="FunctionalEvaluator"):
        cream().mutate_evaluator(FunctionalEvaluator(lambda model: None))


def test_an_evaluator_without_validation_images_is_refused():
    use = Classification(num_classes=10, train_dataloaders=DataLoader(digits(8), batch_size=4), **TRAINER)
    with pytest.raises(SearchError, match="lacks train_dataloaders or val_dataloaders"):
        cream().mutate_evaluator(use)


def test_a_dict_of_validation_loaders_is_refused():
    from tests.search.small import run

    use = Classification(
        num_classes=10,
        train_dataloaders=DataLoader(digits(64), batch_size=16),
        val_dataloaders={"first": DataLoader(digits(64), batch_size=16)},
        max_epochs=1,
        **TRAINER,
    )
    with pytest.raises(SearchError, match=r"val_dataloaders is a dict with the keys \['first'\]; expected a loader"):
        run(LayerSpace(), cream(board_size=3, warmup=0), use)


def test_a_distributed_training_that_wants_a_gradient_for_every_weight_is_refused_before_it_starts():
    with pytest.raises(SearchError, match="ddp_find_unused_parameters_true"):
        cream().mutate_evaluator(evaluator(strategy="ddp", devices=1))
    cream().mutate_evaluator(evaluator(strategy="ddp_find_unused_parameters_true", devices=1))


@pytest.mark.integration
def test_a_datamodule_gives_the_images():
    import pytorch_lightning as pl

    from tests.search.small import run

    class Digits(pl.LightningDataModule):
        def setup(self, stage):
            self.ready = True

        def train_dataloader(self):
            assert self.ready
            return torch.utils.data.DataLoader(digits(64), batch_size=16)

        def val_dataloader(self):
            assert self.ready
            return [torch.utils.data.DataLoader(digits(64, start=900), batch_size=16)]

    for limit in (1.0, 0):
        strategy = cream(board_size=3, warmup=0)
        use = Classification(num_classes=10, datamodule=Digits(), max_epochs=1, limit_val_batches=limit, **TRAINER)
        run(LayerSpace(), strategy, use)
        assert len(strategy.board) == 3


def test_statistics_are_there_before_and_after():
    from tests.search.small import run

    strategy = cream(board_size=3)
    assert strategy.statistics == {}
    run(LayerSpace(), strategy)
    assert strategy.statistics["board_size"] == 3


class Lazy(LayerSpace):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(10)


class LazyCandidate(LayerSpace):
    def __init__(self) -> None:
        super().__init__()
        self.norm = LayerChoice([nn.Identity(), nn.Sequential(nn.LazyBatchNorm2d())], label="norm")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Lazy, r"module 'head' of the search space is a LazyLinear .* Give its sizes: Linear\("),
        (LazyCandidate, r"module 'norm.1.0' of the search space is a LazyBatchNorm2d"),
    ],
)
def test_a_lazy_module_is_refused_by_name_before_the_training(space, words):
    with pytest.raises(SpaceError, match=words):
        CreamStrategy(board_size=3).mutate_model(space())


def test_a_lazy_module_around_the_model_is_refused_too():
    class Around(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.LazyConv2d(4, 3)

    use = custom_evaluator(Around())
    with pytest.raises(SpaceError, match="module 'last' of the evaluator's module is a LazyConv2d"):
        CreamStrategy(board_size=3).mutate_evaluator(use)
