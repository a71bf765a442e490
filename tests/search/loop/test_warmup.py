"""Parts of a training of unknown length, and trainings that end too early for teachers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch.utils.data import IterableDataset

from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.loop.warmup import Warmup
from nni_cream.training import ClassificationModule
from tests.search.loop.test_host import Own
from tests.search.small import TRAINER, LayerSpace, cream, custom_evaluator, digits, evaluator, run


def begun(length: float, epochs: int, steps: float = -1) -> tuple[Warmup, Any]:
    trainer = SimpleNamespace(max_epochs=epochs, estimated_stepping_batches=steps, current_epoch=0, global_step=0)
    warmup = Warmup(length)
    warmup.check(trainer)
    warmup.begin(trainer)
    return warmup, trainer


@pytest.mark.parametrize(
    ("length", "epochs", "expected"),
    [(1 / 6, 120, 20), (1 / 6, 6, 1), (1 / 6, 3, 1), (0.5, 3, 2), (0.5, 10, 5), (0.9, 2, 1), (0.0, 3, 0), (0.5, 1, 0)],
)
def test_a_fraction_of_a_training_of_unknown_length_is_a_number_of_epochs_that_leaves_one(length, epochs, expected):
    warmup, trainer = begun(length, epochs)
    lasting = []
    for trainer.current_epoch in range(epochs):
        lasting.append(warmup.lasts(trainer))
    assert lasting == [True] * expected + [False] * (epochs - expected)


def test_one_epoch_of_unknown_length_is_told(caplog):
    begun(0.5, 1)
    assert "warmup is 0.5 of one epoch of unknown length" in caplog.text


def test_with_a_last_step_a_fraction_counts_steps():
    warmup, trainer = begun(0.5, 3, steps=10)
    trainer.global_step = 4
    assert warmup.lasts(trainer)
    trainer.global_step = 5
    assert not warmup.lasts(trainer)


def test_without_any_end_a_fraction_is_refused():
    with pytest.raises(ConfigError, match="the training has no end"):
        begun(0.5, -1)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(digits(96))


class Parts(Callback):
    """Whether each epoch had a board and teachers."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append((len(pl_module.board) > 0, pl_module.tally.matched > 0))


@pytest.mark.integration
def test_a_stream_of_images_warms_up_and_starts_teaching_by_epochs():
    parts = Parts()
    trainer = Trainer(**{**TRAINER, "max_epochs": 4, "callbacks": [parts]})
    streams = [DataLoader(Stream(), batch_size=32) for _ in range(2)]
    run(LayerSpace(), cream(board_size=3, warmup=0.25), Lightning(Own(), trainer, *streams))
    assert parts.seen == [(False, False), (True, False), (True, True), (True, True)]


@pytest.mark.integration
def test_the_cosine_schedule_of_a_stream_is_refused():
    trainer = Trainer(**{**TRAINER, "max_epochs": 2})
    streams = [DataLoader(Stream(), batch_size=32) for _ in range(2)]
    with pytest.raises(SearchError, match="max_steps for a loader without a length"):
        run(LayerSpace(), cream(board_size=3), Lightning(ClassificationModule(num_classes=10), trainer, *streams))


class _StopAtOnce(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = True


@pytest.mark.integration
@pytest.mark.parametrize("callback", [_StopAtOnce(), EarlyStopping("val_loss", patience=1, stopping_threshold=100.0)])
def test_a_training_that_ends_before_its_teachers_start_says_so_once(callback, caplog):
    run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Own(), max_epochs=4, callbacks=[callback]))
    told = [record.getMessage() for record in caplog.records if "training ended before it" in record.msg]
    assert len(told) == 1
    assert "teaching.start is 0.5" in told[0]


@pytest.mark.integration
@pytest.mark.parametrize("settings", [{"matching": "none"}, {"distillation_start": 0}, {}])
def test_a_training_with_teachers_or_without_a_matcher_has_nothing_to_tell(settings, caplog):
    run(LayerSpace(), cream(board_size=3, warmup=0, **settings), evaluator(max_epochs=1))
    assert "training ended before it" not in caplog.text
