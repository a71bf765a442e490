"""ClassificationModule in NNI's evaluator: loss, schedule, weight decay, logs, in a search and alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from nni.common.serializer import is_traceable
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import RandomOneShot
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nni_cream import spaces
from nni_cream.data import ImagePart, Preprocessing
from nni_cream.data.folders.image_parts import ImageArrays
from nni_cream.errors import ConfigError, SearchError
from nni_cream.training import ClassificationModule, make_loader
from nni_cream.training.classification import cosine_with_warmup

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
}


class Watch(pl.Callback):
    """Learning rate at each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def images(count: int = 48) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 10)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def fit(module: ClassificationModule, network: nn.Module, **trainer: Any) -> pl.Trainer:
    module.set_model(network)
    arguments = {**QUIET, "max_epochs": 2, **trainer}
    evaluator = Lightning(
        module, Trainer(**arguments), make_loader(images(), 8, shuffle=True), make_loader(images(), 20)
    )
    evaluator.evaluate(network)
    return evaluator.trainer


def test_is_traceable_by_nni() -> None:
    module = ClassificationModule(num_classes=10, learning_rate=0.2)
    assert is_traceable(module)
    assert module.trace_kwargs == {"num_classes": 10, "learning_rate": 0.2}


def test_can_be_subclassed() -> None:
    class Own(ClassificationModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("mine", 1.0)

    assert fit(Own(num_classes=10), linear()).callback_metrics["mine"] == 1.0


def test_learning_rate_rises_in_a_line_then_follows_a_cosine_every_step() -> None:
    watch = Watch()
    # 48 images in batches of 8 for two epochs: 12 steps, a quarter of them warm-up.
    fit(ClassificationModule(num_classes=10, learning_rate=0.8, warmup_fraction=0.25), linear(), callbacks=[watch])
    warmup = [0.2, 0.4, 0.6]
    cosine = [0.4 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert watch.rates == pytest.approx(warmup + cosine)


def test_schedule_ends_at_zero_and_stays_there() -> None:
    assert cosine_with_warmup(10, steps=10, warmup=2) == 0.0
    assert cosine_with_warmup(11, steps=10, warmup=2) == 0.0
    assert cosine_with_warmup(0, steps=10, warmup=0) == 1.0


def test_weights_are_decayed_and_biases_and_batchnorm_are_not() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    module = ClassificationModule(num_classes=10, weight_decay=0.01, momentum=0.8, nesterov=False)
    optimizer = fit(module, network).optimizers[0]
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.01 if name in ("0.weight", "4.weight") else 0.0)
    assert len(decay) == len(list(network.parameters()))
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}
    assert not any(group["nesterov"] for group in optimizer.param_groups)


def test_network_without_a_bias_trains() -> None:
    fit(ClassificationModule(num_classes=10), nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)))


def test_frozen_parameters_stay_out_of_the_optimizer() -> None:
    network = linear()
    network[1].bias.requires_grad_(False)
    optimizer = fit(ClassificationModule(num_classes=10), network).optimizers[0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


def test_logs_means_over_all_images_of_the_epoch() -> None:
    network = linear()
    module = ClassificationModule(num_classes=10)
    metrics = fit(module, network, max_epochs=1).callback_metrics
    pixels, labels = images()[:]
    with torch.no_grad():
        logits = network(pixels)
    # The last of the validation batches of 20 holds 8 images: a mean of the batches' means would be another number.
    assert metrics["val_acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert {"train_loss", "train_acc"} <= set(metrics)
    assert 0 <= metrics["train_acc"] <= 1


def test_label_smoothing_is_in_the_training_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ClassificationModule(num_classes=10, label_smoothing=0.2)
    module.set_model(linear())
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value.item()}))
    pixels, labels = batch = images()[:]
    logits = module(pixels)
    loss = module.training_step(batch, 0)
    module.validation_step(batch, 0)
    log_probabilities = logits.log_softmax(1)
    target = 0.8 * nn.functional.one_hot(labels, 10) + 0.02
    assert loss.item() == pytest.approx(-(target * log_probabilities).sum(1).mean().item(), rel=1e-5)
    assert logged["val_loss"] == pytest.approx(-log_probabilities[torch.arange(48), labels].mean().item(), rel=1e-5)


def test_training_images_are_augmented_and_validation_images_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels)
            return pixels.flatten(1)[:, :10]

    module = ClassificationModule(num_classes=10, augment="shift+flip")
    module.set_model(Spy())
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = images()[:]
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    augmented, plain = seen
    assert not torch.equal(augmented, batch[0])
    assert plain is batch[0]


def test_network_with_another_number_of_classes_is_told() -> None:
    module = ClassificationModule(num_classes=12)
    module.set_model(linear())
    with pytest.raises(SearchError, match=r"\(48, 10\) for 48 images; expected logits of shape \(48, 12\)"):
        module(images()[:][0])


def test_training_without_an_end_is_told() -> None:
    with pytest.raises(SearchError, match="max_epochs and max_steps of the trainer give no end"):
        fit(ClassificationModule(num_classes=10), linear(), max_epochs=-1)


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("learning_rate", 0.0, ["above 0", "0.0"]),
        ("learning_rate", math.nan, ["learning_rate", "nan"]),
        ("learning_rate", math.inf, ["learning_rate", "inf"]),
        ("learning_rate", "0.1", ["learning_rate", "'0.1'"]),
        ("weight_decay", True, ["weight_decay", "True"]),
        ("momentum", 1.0, ["below 1", "1.0"]),
        ("momentum", 0.0, ["momentum is 0", "nesterov"]),
        ("weight_decay", -1e-4, ["at least 0", "-0.0001"]),
        ("label_smoothing", 1.0, ["below 1"]),
        ("warmup_fraction", -0.1, ["at least 0", "-0.1"]),
        ("augment", "shfit", ["none, shift, shift+flip", "'shfit'"]),
    ],
)
def test_argument_out_of_range_is_told_with_its_value(argument: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ClassificationModule(**{"num_classes": 10, argument: value})
    for word in words:
        assert word in str(caught.value)


def test_trains_the_supernet_of_nnis_own_random_one_shot() -> None:
    space = spaces.create("digits", channels=[4, 6])
    before = {name: value.clone() for name, value in space.state_dict().items()}
    watch = Watch()
    trainer = Trainer(**{**QUIET, "max_epochs": 2, "callbacks": [watch]})
    module = ClassificationModule(num_classes=10, warmup_fraction=0.0)
    evaluator = Lightning(module, trainer, make_loader(images(), 8, shuffle=True), make_loader(images(), 24))
    strategy = RandomOneShot()
    strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    assert len(watch.rates) == 12
    assert watch.rates[0] == pytest.approx(0.1)
    assert watch.rates[-1] < 0.01
    assert not torch.equal(space.state_dict()["classifier.weight"], before["classifier.weight"])
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= set(trainer.callback_metrics)


def pictures(preprocessing: Preprocessing) -> ImagePart:
    generator = np.random.default_rng(0)
    source = ImageArrays(generator.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    return ImagePart(source, np.arange(12), np.arange(12) % 10, preprocessing.evaluation(), preprocessing)


def inputs_of_a_training(precision: str, floats: bool) -> tuple[list[torch.dtype], list[Tensor]]:
    """Return the types of the batches that the loaders give, and the images that the network sees."""
    loaded: list[torch.dtype] = []
    seen: list[Tensor] = []

    class Look(ClassificationModule):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            loaded.append(batch[0].dtype)
            return batch

        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return super().forward(images)

    module = Look(num_classes=10)
    module.set_model(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    # Two normalisations, as timm and torchvision have.
    train, validation = (pictures(Preprocessing(8, mean=(mean,) * 3)) for mean in (0.2, 0.6))
    parts = (train, validation) if floats else module.load_bytes(train, validation)
    trainer = pl.Trainer(**{**QUIET, "num_sanity_val_steps": 1}, precision=precision, max_epochs=1)  # type: ignore[arg-type]
    trainer.fit(module, *(make_loader(part, 4) for part in parts))
    return loaded, seen


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_bytes_are_normalised_once_in_training_validation_and_sanity_check(precision: str) -> None:
    _, expected = inputs_of_a_training(precision, floats=True)
    loaded, seen = inputs_of_a_training(precision, floats=False)
    assert loaded == [torch.uint8] * 7  # one before the training, three in it and three after it
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
    assert {images.dtype for images in seen} == {torch.float32 if precision == "32-true" else torch.bfloat16}
