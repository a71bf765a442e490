from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, LightningModule
from sklearn.metrics import accuracy_score
from torch import nn

from nni_cream import CreamStrategy
from nni_cream.errors import SearchError
from nni_cream.search.board import PrioritizedBoard
from nni_cream.search.scoring.joined import joined
from tests.search.small import CellSpace, LayerSpace, ValueSpace, cream, custom_evaluator, digits, evaluator, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

TRAINING, VALIDATION = digits(256), digits(300, start=1000)


def searched(space: Any = LayerSpace, use: Any = None, **arguments: Any) -> CreamStrategy:
    pl.seed_everything(0)
    # A score counts 40 images, the final validation all 300.
    settings = {"board_size": 4, "warmup": 0, "score_images": 40, "seed": 1, **arguments}
    return run(space(), cream(**settings), use or evaluator())


def finalised(strategy: CreamStrategy, images: int = 256) -> Any:
    # One batch holds all training images, so that BatchNorm's statistics are those of this batch.
    training = DataLoader(TRAINING, batch_size=256, shuffle=True)
    return strategy.finalise(training, DataLoader(VALIDATION, batch_size=128), images)


@pytest.fixture(scope="module")
def strategy() -> CreamStrategy:
    return searched()


def test_the_validated_accuracy_is_that_of_the_frozen_network_on_all_validation_images(strategy):
    inputs, labels = VALIDATION.tensors
    for finalist in finalised(strategy):
        assert not finalist.network.training
        with torch.no_grad():
            predicted = finalist.network(inputs).argmax(1)
        assert finalist.entry.validated == pytest.approx(accuracy_score(labels, predicted))


def test_the_statistics_of_batch_norm_are_those_of_the_path_on_the_training_images(strategy):
    best = finalised(strategy)[0]
    convolution, norm = best.network.stem[0], best.network.stem[1]
    with torch.no_grad():
        values = convolution(TRAINING.tensors[0]).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), values.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var.double(), values.var(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("images", [101, 120, 150])
def test_no_more_training_images_are_used_than_asked_for_in_whole_batches(strategy, images):
    seen: list[int] = []

    def batches() -> Any:
        for images, labels in zip(*(tensor.split(50) for tensor in TRAINING.tensors), strict=True):
            seen.append(len(labels))
            yield images, labels

    strategy.finalise(batches(), DataLoader(VALIDATION, batch_size=128), images=images)
    assert seen == [50, 50, 50]


@pytest.mark.parametrize("space", [LayerSpace, ValueSpace, CellSpace])
def test_the_supernet_and_the_random_numbers_are_left_as_they_were(space):
    searched_in = searched(space)
    before = {name: value.clone() for name, value in searched_in.supernet.state_dict().items()}
    modes = [module.training for module in searched_in.oneshot_module.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    finalised(searched_in)
    assert torch.equal(torch.rand(2), expected)
    after = searched_in.supernet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [module.training for module in searched_in.oneshot_module.modules()] == modes


def test_the_outcome_can_be_repeated_and_orders_the_board(strategy):
    first, second = finalised(strategy), finalised(strategy)
    assert [finalist.entry for finalist in first] == [finalist.entry for finalist in second]
    states = [[finalist.network.state_dict() for finalist in found] for found in (first, second)]
    for ours, theirs in zip(*states, strict=True):
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    accuracies = [entry.validated for entry in strategy.board.entries]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [finalist.entry for finalist in first] == list(strategy.board.entries)


def test_validated_accuracy_and_prediction_are_joined_into_the_order_of_the_board():
    strategy = searched(use=evaluator(max_epochs=10), proposals="predicted")
    finalised(strategy)
    entries, module = strategy.board.entries, strategy.oneshot_module
    assert sum(module.predictor.sizes) == sum(sum(own.values()) for own in module.cost.table.columns.values()) > 0
    shares = np.array([entry.validated for entry in entries])
    noise = float(np.mean(shares * (1 - shares))) / len(VALIDATION)
    expected = joined(shares, noise, module.predictor.predict([entry.path for entry in entries]))
    assert [entry.estimate for entry in entries] == pytest.approx(expected)
    assert [*expected] == sorted(expected, reverse=True)
    again = PrioritizedBoard.from_json(json.loads(json.dumps(strategy.board.to_json())))
    assert [entry.estimate for entry in again.entries] == [entry.estimate for entry in entries]


@pytest.mark.parametrize("settings", [{"proposals": "trained"}, {"score": "balanced_accuracy"}])
def test_without_a_second_measurement_or_its_noise_the_validated_accuracy_decides(settings):
    strategy = searched(use=evaluator(max_epochs=10), **{"proposals": "predicted", **settings})
    finalised(strategy)
    entries = strategy.board.entries
    assert {entry.estimate for entry in entries} == {None}
    validated = [entry.validated for entry in entries]
    assert validated == sorted(validated, reverse=True)


def test_the_finalists_have_the_averaged_weights():
    strategy = searched(ema_decay=0.9)
    averages = strategy.oneshot_module.average.averages()
    network = finalised(strategy)[0].network
    (average,) = (value for name, value in averages.items() if name.endswith("head.weight"))
    assert torch.equal(network.head.weight, average)
    assert not torch.equal(network.head.weight, strategy.supernet.head.weight)


class Wrapped(LightningModule):
    """A user's module with a layer of its own, without which the logits are in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.model(images)).flip(1)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_what_the_users_module_has_around_the_model_takes_part():
    module = Wrapped()
    strategy = searched(use=custom_evaluator(module))
    before = {name: value.clone() for name, value in module.norm.state_dict().items()}
    strategy.supernet.dropout.p = 0.0  # so that the statistics can be computed again
    finalist = finalised(strategy)[0]
    assert all(torch.equal(value, before[name]) for name, value in module.norm.state_dict().items())
    with torch.no_grad():
        outputs = finalist.network.train()(
            TRAINING.tensors[0]
        )  # of the batch's statistics, as while they were estimated
        logits = finalist.network.eval()(VALIDATION.tensors[0])
        scaled = (logits - outputs.mean(0)) / (outputs.var(0) + 1e-5).sqrt() * before["weight"] + before["bias"]
    expected = accuracy_score(VALIDATION.tensors[1], scaled.flip(1).argmax(1))
    assert finalist.entry.validated == pytest.approx(expected, abs=0.01)  # the scaling magnifies rounding


def test_a_training_that_goes_on_drops_the_validated_accuracies():
    strategy = searched()
    finalised(strategy)
    module = strategy.oneshot_module
    module.on_fit_start()
    assert [entry.validated for entry in strategy.board.entries] == [None] * 4


def test_before_the_search_there_is_nothing_to_finalise():
    with pytest.raises(SearchError, match="the search has not run"):
        finalised(cream())


def test_a_loader_without_images_is_refused(strategy):
    with pytest.raises(SearchError, match="the validation loader yields no images"):
        strategy.finalise(DataLoader(TRAINING, batch_size=256), [])
