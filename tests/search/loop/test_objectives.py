"""Searches whose outputs are not logits of classes: one logit, many labels, pixels, sequences of any length."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset, default_collate
from torchmetrics.functional.classification import multiclass_jaccard_index
from torchvision.transforms import v2

from nni_cream import CreamStrategy
from nni_cream.errors import ConfigError, SearchError
from tests.search.small import TRAINER, LayerSpace, conv, cream, digits, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

LOSSES = {
    "mixed": functional.cross_entropy,
    "binary": lambda output, target: functional.binary_cross_entropy_with_logits(output.flatten(), target.float()),
    "multilabel": functional.binary_cross_entropy_with_logits,
    "classes": lambda output, target: functional.cross_entropy(output, target, ignore_index=255),
}


class Task(LightningModule):
    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def training_step(self, batch, batch_idx):
        output = self(batch[0])
        return self.loss(output["out"] if isinstance(output, dict) else output, batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def searched(
    space: ModelSpace, loss: str, training: Any, validation: Any, epochs: int = 2, **arguments: Any
) -> CreamStrategy:
    pl.seed_everything(0)
    trainer = Trainer(**{**TRAINER, "max_epochs": epochs, "num_sanity_val_steps": 0})
    settings = {"board_size": 3, "warmup": 0, "distillation_start": 1, "distillation_gate": False, "meta_interval": 4}
    return run(space, cream(**{**settings, **arguments}), Lightning(Task(LOSSES[loss]), trainer, training, validation))


def loaders_of(make: Any) -> tuple[DataLoader, DataLoader]:
    parts = (digits(64), digits(64, start=1000))
    data = [TensorDataset(images, make(images, labels)) for images, labels in (part[:] for part in parts)]
    return DataLoader(data[0], batch_size=16, shuffle=True), DataLoader(data[1], batch_size=16)


class OneLogit(LayerSpace):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)


def rare(images: Tensor, labels: Tensor) -> Tensor:
    return (labels == 3).long()


def figures_of(strategy: CreamStrategy, validation: Any, figure: Any) -> list[float]:
    """A figure of each board entry on all validation images, with the statistics that the network holds."""
    inputs, targets = validation.dataset.tensors
    found = strategy.finalise(DataLoader(digits(64), batch_size=64), validation)
    with torch.no_grad():
        return [float(figure(targets, finalist.network.eval()(inputs))) for finalist in found]


def test_a_binary_task_of_one_logit_is_taught_and_scored_by_balanced_accuracy():
    training, validation = loaders_of(rare)
    strategy = searched(
        OneLogit(), "binary", training, validation, score="balanced_accuracy", distillation="binary_cross_entropy"
    )
    assert strategy.statistics["distilled"] > 0
    assert strategy.statistics["meta_updates"] > 0
    expected = figures_of(strategy, validation, lambda target, output: balanced_accuracy_score(target, output > 0))
    assert [entry.validated for entry in strategy.board.entries] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "score is 'top1' for outputs .* Take 'binary'"),
        ({"score": "binary"}, "distillation is 'soft_cross_entropy' for outputs .* Take 'binary_cross_entropy'"),
    ],
)
def test_the_defaults_do_not_fit_one_logit_and_say_so_before_the_first_step(arguments, words, monkeypatch):
    monkeypatch.setattr(Task, "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(SearchError, match=words):
        searched(OneLogit(), "binary", *loaders_of(rare), **arguments)


def test_many_labels_an_image_are_taught_and_scored():
    bits = 2 ** torch.arange(4)
    training, validation = loaders_of(lambda images, labels: ((labels[:, None] & bits) > 0).float())
    space = LayerSpace()
    space.head = nn.Linear(8, 4)
    arguments = {"score": "multilabel", "distillation": "binary_cross_entropy"}
    strategy = searched(space, "multilabel", training, validation, **arguments)
    assert strategy.statistics["distilled"] > 0
    expected = figures_of(strategy, validation, lambda target, output: ((output > 0) == target.bool()).float().mean())
    assert [entry.validated for entry in strategy.board.entries] == pytest.approx(expected)


def mixed(loader: DataLoader) -> DataLoader:
    """A loader whose batches Mixup mixes, as torchvision's guide does."""
    mix = v2.MixUp(num_classes=10)
    return DataLoader(loader.dataset, batch_size=16, collate_fn=lambda samples: mix(*default_collate(samples)))


def test_labels_that_mixup_mixes_are_taught_behind_the_gate():
    torch.manual_seed(1)  # with some weights no teacher is better in the last epoch
    training, validation = loaders_of(lambda images, labels: labels)
    strategy = searched(LayerSpace(), "mixed", mixed(training), validation, distillation_gate=True)
    assert strategy.statistics["distilled"] > 0
    expected = figures_of(strategy, validation, lambda target, output: (output.argmax(1) == target).float().mean())
    assert [entry.validated for entry in strategy.board.entries] == pytest.approx(expected)


def test_training_labels_that_do_not_fit_the_gate_are_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr(Task, "training_step", lambda *_: pytest.fail("a step was taken"))
    training, validation = loaders_of(rare)
    data = training.dataset.tensors
    training = DataLoader(TensorDataset(data[0], data[1].float() * 0.9), batch_size=16)
    arguments = {"score": "binary", "distillation": "binary_cross_entropy", "distillation_gate": True}
    with pytest.raises(SearchError, match=r"teaching.gate is True, but the score .* labels 0 and 1"):
        searched(OneLogit(), "binary", training, validation, **arguments)


class Converted(Task):
    """A module whose forward makes something else of the model's output."""

    def __init__(self, loss: Any, convert: Any) -> None:
        super().__init__(loss)
        self.convert = convert

    def forward(self, x: Tensor) -> Any:
        return self.convert(self.model(x))


def converted(monkeypatch: Any, space: ModelSpace, convert: Any, loss: str, make: Any, **arguments: Any) -> None:
    """Search with such a module; stop at the first step, since only the checks before it matter."""

    class FirstStep(Exception):
        pass

    def stop(*_: Any) -> None:
        raise FirstStep

    monkeypatch.setattr(Converted, "training_step", stop)
    monkeypatch.setitem(globals(), "Task", lambda loss: Converted(loss, convert))
    with pytest.raises(FirstStep):
        searched(space, loss, *loaders_of(make), distillation_gate=True, **arguments)


@pytest.mark.parametrize(
    ("convert", "matching", "told"),
    [
        (lambda output: 45 * output, "meta", True),
        (lambda output: 45 * output, "none", False),
        (lambda output: output.flatten(), "meta", False),
    ],
)
def test_a_forward_that_changes_what_the_gate_compares_is_told_before_the_first_step(
    convert, matching, told, monkeypatch, caplog
):
    arguments = {"score": "negative_squared_error", "distillation": "mean_squared_error", "matching": matching}
    converted(monkeypatch, OneLogit(), convert, "mixed", lambda images, labels: labels[:, None] - 4.5, **arguments)
    assert ("teaching.gate compares outputs of the model with the targets, but forward changes" in caplog.text) is told
    assert ("score 'negative_squared_error' of the first batch is -" in caplog.text) is told


def test_a_softmax_after_the_model_changes_nothing_for_the_gate(monkeypatch, caplog):
    converted(monkeypatch, LayerSpace(), lambda output: output.softmax(1), "classes", lambda images, labels: labels)
    assert "forward changes" not in caplog.text


def test_model_outputs_that_the_gate_cannot_score_are_refused_before_the_first_step(monkeypatch):
    class Inside(LayerSpace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :, None]

    with pytest.raises(SearchError, match=r"teaching.gate is True, but the score .* 'top1' for outputs \(16, 10, 1\)"):
        converted(monkeypatch, Inside(), lambda output: output[..., 0], "classes", lambda images, labels: labels)


class Segmentation(ModelSpace):
    """As torchvision's networks for segmentation, which return a dictionary."""

    def __init__(self, names: tuple[str, str] = ("out", "aux")) -> None:
        super().__init__()
        self.stem = conv(1, 3, 6)
        self.body = LayerChoice({"1": conv(6, 1, 6), "3": conv(6, 3, 6), "5": conv(6, 5, 6)}, label="body")
        self.head, self.aside = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 1)
        self.names = names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return dict(zip(self.names, (self.head(self.body(x)), self.aside(x)), strict=True))


def brightness(images: Tensor, labels: Tensor) -> Tensor:
    """Dark, grey and bright pixels; the border counts nowhere."""
    levels = torch.bucketize(images[:, 0], torch.tensor([-0.5, 1.0]))
    levels[:, 0] = 255
    return levels


def test_segmentation_with_a_dictionary_of_outputs_is_scored_by_the_miou_of_the_whole_set():
    training, validation = loaders_of(brightness)
    strategy = searched(Segmentation(), "classes", training, validation, score="miou", score_images=64)
    assert strategy.statistics["distilled"] > 0

    def miou(target: Tensor, output: dict[str, Tensor]) -> Tensor:
        return multiclass_jaccard_index(output["out"], target, num_classes=3, ignore_index=255)

    expected = figures_of(strategy, validation, miou)
    assert [entry.validated for entry in strategy.board.entries] == pytest.approx(expected, abs=1e-6)


def test_a_dictionary_without_a_known_name_is_refused_with_its_names():
    with pytest.raises(SearchError, match=r"returned a dict with \['masks', 'aux'\]"):
        searched(Segmentation(("masks", "aux")), "classes", *loaders_of(brightness), score="miou")


class Sequences(ModelSpace):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.body = LayerChoice([nn.Conv1d(8, 8, size, padding="same") for size in (1, 3, 5)], label="body")
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.embedding(x).transpose(1, 2)).mean(2)))


def padded(*lengths: int, batch: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Batches that are each padded to their own length."""
    return [(torch.randint(10, (batch, length)), torch.arange(batch) % 3) for length in lengths]


def as_loader(batches: list[Any]) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def test_validation_batches_padded_to_their_own_lengths_are_scored():
    validation = padded(5, 9, 7, 5)
    strategy = searched(
        Sequences(True), "classes", as_loader(padded(6, 4, 8)), as_loader(validation), matching="none", score_images=32
    )
    entry = strategy.board.best
    module = strategy.oneshot_module
    # Without training since, a score is the accuracy over chunks of one length each.
    network = strategy.oneshot_module.supernet.freeze(entry.path).train()
    groups = {5: [0, 3], 7: [2], 9: [1]}
    right = 0
    for members in groups.values():
        tokens = torch.cat([validation[member][0] for member in members])
        labels = torch.cat([validation[member][1] for member in members])
        right += int((network(tokens).argmax(1) == labels).sum())
    assert module.scorer.score(entry.path) == pytest.approx(right / 32)


def test_a_shape_with_a_single_image_is_refused_where_batch_normalisation_needs_two():
    with pytest.raises(ConfigError, match="at least 2 validation images of each shape"):
        searched(Sequences(True), "classes", as_loader(padded(6)), as_loader([*padded(5), *padded(9, batch=1)]))


def constant(output: Tensor, target: Tensor) -> Tensor:
    return torch.full((len(target),), 0.25)


def test_scores_that_never_differ_are_told(caplog):
    data = loaders_of(lambda images, labels: labels)
    searched(LayerSpace(), "classes", *data, epochs=4, score=constant, board_size=12)
    told = [record.getMessage() for record in caplog.records if "the same value" in record.msg]
    assert told == [told[0]]
    assert "score is 'constant' and gave the first 10 paths the same value, 0.25" in told[0]
