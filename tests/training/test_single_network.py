"""Retraining and measuring one architecture on real digits, on a CPU."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from nni.nas.space import model_context
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from nni_cream import data, spaces
from nni_cream.errors import ConfigError, DataError, SearchError
from nni_cream.training import RECIPES, Recipe, RetrainResult, evaluate, make_loader, retrain, seeded

CPU = {"accelerator": "cpu"}
PATH = {f"layer_{number}": "conv_3x3" if number % 2 else "identity" for number in range(1, 8)}
SHORT = replace(RECIPES["digits"], epochs=2)


@pytest.fixture(scope="module")
def digits() -> data.DataSplits:
    return data.create("digits")


def build(seed: int = 0) -> nn.Module:
    with seeded(seed), model_context(PATH):
        return spaces.create("digits", channels=[8, 8, 8, 8, 12, 12, 12])


def train(splits: data.DataSplits, seed: int = 0, network: nn.Module | None = None, **changes: Any) -> RetrainResult:
    arguments: dict[str, Any] = {"recipe": SHORT, "trainer_kwargs": CPU, **changes}
    network = build() if network is None else network
    return retrain(network, splits.train, splits.validation, splits.test, seed=seed, **arguments)


class Counting(Dataset[tuple[Tensor, ...]]):
    """Counts how often each image is looked at, and when."""

    def __init__(self, source: Dataset[tuple[Tensor, ...]], log: list[str], name: str) -> None:
        self.source, self.log, self.name = source, log, name

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.log.append(self.name)
        return self.source[index]


@pytest.mark.integration
def test_two_epochs_are_far_above_chance_and_reported_one_by_one(digits: data.DataSplits) -> None:
    epochs: list[dict[str, float]] = []
    network = build()
    result = train(digits, network=network, on_epoch=epochs.append)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]
    assert result.train_loss == epochs[1]["train_loss"]
    assert result.validation_accuracy == epochs[1]["val_acc"]
    assert result.validation_accuracy == pytest.approx(evaluate(network, digits.validation), abs=1e-6)
    assert result.test_accuracy == evaluate(network, digits.test)
    assert result.test_accuracy > 0.5
    assert result.epochs == 2
    assert result.seconds > 0


@pytest.mark.integration
def test_same_seed_gives_the_same_result_and_another_seed_another(digits: data.DataSplits) -> None:
    first, again, other = build(), build(), build()
    results = [replace(train(digits, seed, net), seconds=0.0) for seed, net in ((1, first), (1, again), (2, other))]
    assert results[0] == results[1]
    assert results[0] != results[2]
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_generators_are_left_as_they_were(digits: data.DataSplits) -> None:
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    train(digits, trainer_kwargs={**CPU, "limit_train_batches": 2, "max_epochs": 1})
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_test_images_are_looked_at_once_after_everything_else(digits: data.DataSplits) -> None:
    log: list[str] = []
    parts = [Counting(getattr(digits, name), log, name) for name in ("train", "validation", "test")]
    retrain(build(), *parts, replace(SHORT, epochs=1), seed=0, trainer_kwargs=CPU)
    assert log.count("test") == len(digits.test)
    assert set(log[-len(digits.test) :]) == {"test"}


def test_nothing_is_printed_or_written(
    digits: data.DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(digits, trainer_kwargs={**CPU, "limit_train_batches": 2, "max_epochs": 1})
    assert [str(warning.message) for warning in caught] == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_callbacks_of_the_caller_are_called_too(digits: data.DataSplits) -> None:
    class Starts(pl.Callback):
        count = 0

        def on_train_start(self, *_: Any) -> None:
            Starts.count += 1

    short = {**CPU, "limit_train_batches": 1, "max_epochs": 1}
    train(digits, trainer_kwargs={**short, "callbacks": [Starts()]})
    train(digits, trainer_kwargs={**short, "callbacks": Starts()})
    assert Starts.count == 2


def test_loss_that_is_not_finite_stops_the_training_before_the_weights_move(digits: data.DataSplits) -> None:
    pixels, labels = digits.train[:]
    broken = pixels.clone()
    broken[:] = torch.nan
    network = build()
    before = network.classifier.weight.detach().clone()
    with pytest.raises(SearchError, match=r"training loss is nan at step 0 \(epoch 1\)"):
        retrain(network, TensorDataset(broken, labels), digits.validation, digits.test, SHORT, 0, CPU)
    assert torch.equal(network.classifier.weight, before)


def test_learning_rate_far_too_high_is_told_with_its_step(digits: data.DataSplits) -> None:
    with pytest.raises(
        SearchError, match=r"training loss is (nan|inf) at step [1-9]\d* \(epoch 1\); .* Lower the learning"
    ):
        train(digits, recipe=Recipe(epochs=2, learning_rate=1e30, warmup_fraction=0.0))


def test_network_without_rows_of_logits_is_told(digits: data.DataSplits) -> None:
    with pytest.raises(SearchError, match=r"shape \(1, 1, 8, 8\) for one image; expected logits"):
        train(digits, network=nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("seed", [-1, 2**32, "one"])
def test_seed_out_of_range_is_told(digits: data.DataSplits, seed: Any) -> None:
    with pytest.raises(ConfigError, match=f"seed is {seed!r}; expected"):
        train(digits, seed=seed)


def test_last_image_alone_does_not_break_batchnorm(digits: data.DataSplits) -> None:
    # 65 images in batches of 64 would leave one image for BatchNorm on 1x1 pixels, which PyTorch refuses.
    few = TensorDataset(*digits.train[:65])
    network = nn.Sequential(nn.Conv2d(1, 8, 8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))
    retrain(network, few, digits.validation, digits.test, replace(SHORT, epochs=1, batch_size=64), 0, CPU)


def test_fewer_images_than_a_batch_are_still_trained_on(digits: data.DataSplits) -> None:
    few = TensorDataset(*digits.train[:20])
    network = build()
    before = network.classifier.weight.detach().clone()
    retrain(network, few, digits.validation, digits.test, replace(SHORT, epochs=1, batch_size=64), 0, CPU)
    assert not torch.equal(network.classifier.weight, before)


@pytest.mark.parametrize("batch_size", [1, 100, 360, 1000])
def test_accuracy_is_the_share_of_all_images_whatever_the_batch(digits: data.DataSplits, batch_size: int) -> None:
    network = build().eval()
    pixels, labels = digits.validation[:]
    with torch.no_grad():
        expected = (network(pixels).argmax(1) == labels).double().mean().item()
    assert evaluate(network, digits.validation, batch_size) == expected


def test_evaluation_leaves_modes_and_buffers_as_they_were(digits: data.DataSplits) -> None:
    network = build().train()
    network.stem.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    evaluate(network, digits.validation)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modes_come_back_after_a_failure_in_the_network(digits: data.DataSplits) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 10))
    with pytest.raises(RuntimeError):
        evaluate(network, digits.validation)
    assert network.training


def test_measuring_no_image_is_told(digits: data.DataSplits) -> None:
    with pytest.raises(DataError, match="holds no image"):
        evaluate(build(), TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0)))


def test_loader_goes_through_all_images_in_order_unless_shuffled(digits: data.DataSplits) -> None:
    labels = torch.cat([batch[1] for batch in make_loader(digits.validation, 100)])
    assert torch.equal(labels, digits.validation[:][1])
    shuffled = list(make_loader(digits.validation, 100, shuffle=True))
    assert [len(batch[1]) for batch in shuffled] == [100, 100, 100]


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1).item()])
def test_seeded_block_repeats_and_leaves_no_trace(draw: Callable[[], float]) -> None:
    with seeded(3):
        first = draw()
    outside = draw()
    with seeded(3):
        assert draw() == first
    with pytest.raises(ZeroDivisionError), seeded(3):
        1 / 0  # noqa: B018
    with seeded(4):
        assert draw() != first
    assert draw() != outside
