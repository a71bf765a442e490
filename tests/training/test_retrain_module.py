"""Each part of the full recipe: that it is timm's, that it is used, and that it does what it says."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm.optim
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchvision.transforms import ColorJitter, InterpolationMode, RandomHorizontalFlip

from nni_cream.config import RETRAIN
from nni_cream.errors import ConfigError
from nni_cream.training import seeded
from nni_cream.training.retrain_module import FullClassificationModule
from nni_cream.training.retrain_recipe import FullRecipe, split_batch_size
from nni_cream.training.timm_parts import (
    check_timm,
    make_average,
    make_erasing,
    make_mixup,
    make_optimizer,
    make_schedule,
    make_transform,
    set_dropout,
)

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

PLAIN = FullRecipe(epochs=2, batch_size=8, weight_decay=0.0, learning_rate=0.05)
CLASSES = 6
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def images(count: int = 32) -> TensorDataset:
    with seeded(4):
        return TensorDataset(torch.randn(count, 1, 4, 4), torch.arange(count) % CLASSES)


def linear() -> nn.Module:
    with seeded(1):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


class Watching(pl.Callback):
    def __init__(self, look: Callable[[FullClassificationModule], Any]) -> None:
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(self.look(pl_module))


def fit(
    recipe: FullRecipe, network: nn.Module, *callbacks: pl.Callback, batch: int = 8, accumulate: int = 1, **more: Any
) -> FullClassificationModule:
    module = FullClassificationModule(recipe, CLASSES, **more)
    module.set_model(network)
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
    )
    with seeded(0):
        trainer.fit(module, DataLoader(images(), batch_size=batch), DataLoader(images(), batch_size=32))
    return module


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rmsproptf", timm.optim.RMSpropTF), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)],
)
def test_optimizer_is_the_one_of_that_name_and_decays_weights_alone(name: str, kind: type) -> None:
    arguments = {"eps": 1e-3} if name != "sgd" else {}
    recipe = replace(PLAIN, optimizer=name, weight_decay=0.01, optimizer_arguments=arguments)
    optimizer = make_optimizer(linear(), recipe)
    assert type(optimizer) is kind
    decays = {
        parameter.ndim: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decays == {1: 0.0, 2: 0.01}
    assert {group["lr"] for group in optimizer.param_groups} == {0.05}
    if arguments:
        assert optimizer.param_groups[0]["eps"] == 1e-3


def test_optimizer_that_timm_does_not_know_is_told_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.optimizer is 'rmsproptff'.*Did you mean 'rmsproptf'"):
        make_optimizer(linear(), replace(PLAIN, optimizer="rmsproptff"))


def test_argument_that_the_optimizer_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match=r"optimizer_arguments is \{'epsilon': 1\}.*epsilon"):
        make_optimizer(linear(), replace(PLAIN, optimizer_arguments={"epsilon": 1}))


def rates(recipe: FullRecipe) -> list[float]:
    used = Watching(lambda module: None)
    before: list[float] = []

    class Before(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            before.append(optimizer.param_groups[0]["lr"])

    fit(recipe, linear(), used, Before())
    return before


def test_cosine_falls_from_step_to_step_after_a_straight_rise() -> None:
    found = rates(replace(PLAIN, epochs=4, warmup_fraction=0.25, warmup_learning_rate=0.01, min_learning_rate=0.002))
    steps = 16  # 32 images, 8 a step, 4 epochs
    rise = [0.01 + (0.05 - 0.01) * step / 4 for step in range(4)]
    fall = [0.002 + 0.5 * (0.05 - 0.002) * (1 + math.cos(math.pi * step / steps)) for step in range(4, steps)]
    assert found == pytest.approx(rise + fall)


@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "warmup_epochs"),
    # ImageNet without the 10,000 images of the validation has 1,241 batches of 1,024.
    [("digits", 33, 1), ("fashion", 78, 1), ("cream_287", 1241, 3), ("cream_14", 1241, 3)],
)
def test_file_that_ships_has_timms_schedule_with_a_warmup_of_whole_epochs(
    name: str, steps_per_epoch: int, warmup_epochs: int
) -> None:
    recipe = FullRecipe(**RETRAIN.load(EXPERIMENTS / f"retrain_{name}.yml")["recipe"])
    ours, timms = (SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate) for _ in range(2))
    schedule = make_schedule(ours, recipe, steps_per_epoch)
    expected, _ = create_scheduler_v2(
        timms,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        decay_epochs=recipe.decay_epochs,
        decay_rate=recipe.decay_rate,
        min_lr=recipe.min_learning_rate,
        warmup_lr=recipe.warmup_learning_rate,
        warmup_epochs=warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    warmup, steps = warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    assert ours.param_groups[0]["lr"] == timms.param_groups[0]["lr"]
    for step in (1, warmup - 1, warmup, warmup + 1, steps // 2, steps - 1):
        schedule.step_update(step)
        expected.step_update(step)
        assert ours.param_groups[0]["lr"] == timms.param_groups[0]["lr"], step


def test_step_schedule_decays_after_a_fraction_of_epochs() -> None:
    found = rates(replace(PLAIN, epochs=5, schedule="step", decay_epochs=1.5, decay_rate=0.5))
    assert found == pytest.approx([0.05 * 0.5 ** (step // 6) for step in range(20)])


def test_accumulated_batches_train_as_one_big_batch() -> None:
    recipe = replace(PLAIN, label_smoothing=0.1, warmup_fraction=0.5, ema_decay=0.8)
    whole, parts = fit(recipe, linear(), batch=16), fit(recipe, linear(), batch=4, accumulate=4)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_average_follows_the_weights_of_each_optimizer_step(accumulate: int) -> None:
    network = linear()
    weights = Watching(lambda module: module.model[1].weight.detach().clone())
    module = fit(replace(PLAIN, ema_decay=0.7), network, weights, batch=4, accumulate=accumulate)
    stepped = weights.seen[accumulate - 1 :: accumulate]
    expected = stepped[0]
    for value in stepped[1:]:
        expected = 0.7 * expected + 0.3 * value
    torch.testing.assert_close(module.average.module[1].weight, expected)
    assert module.result is module.average.module


def test_figures_of_validation_are_those_of_the_network_and_of_its_average() -> None:
    module = fit(replace(PLAIN, ema_decay=0.9), linear())
    found = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    pixels, labels = images()[:]
    for stage, network in (("val", module.model), ("ema", module.average.module)):
        logits = network(pixels.double()).detach().numpy()
        order = np.argsort(-logits, axis=1)
        top5 = [label in row[:5] for label, row in zip(labels.tolist(), order, strict=True)]
        log_sums = np.log(np.exp(logits).sum(axis=1))
        assert found[f"{stage}_acc"] == pytest.approx(np.mean(order[:, 0] == labels.numpy()))
        assert found[f"{stage}_top5"] == pytest.approx(np.mean(top5))
        assert found[f"{stage}_loss"] == pytest.approx(np.mean(log_sums - logits[np.arange(32), labels]))
    assert found["val_loss"] != found["ema_loss"]


def test_image_that_two_processes_validate_counts_once() -> None:
    count, batch, processes = 21, 4, 4  # each has 6 images, in batches of 4 and 2; three of them are there twice
    pixels, labels = images(count)[:]
    figures: dict[str, list[Tensor]] = {"loss": [], "acc": [], "top5": []}
    network = linear().float()
    seen = 0.0
    for rank in range(processes):
        sampler = DistributedSampler(images(count), processes, rank, shuffle=False)
        loader = DataLoader(images(count), batch_size=batch, sampler=sampler)
        module = FullClassificationModule(PLAIN, CLASSES)
        module.set_model(network)
        module.trainer = SimpleNamespace(val_dataloaders=loader, world_size=processes, global_rank=rank)  # type: ignore[assignment]
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        for index, of_batch in enumerate(loader):
            module.validation_step(of_batch, index)
        metrics: Any = module._metrics["val"]
        weight = float(metrics["loss"].weight)
        seen += weight
        for name, parts in figures.items():
            parts.append(metrics[name].compute() * weight)
    logits = network(pixels)
    assert seen == count
    assert sum(figures["loss"]).item() / count == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert sum(figures["acc"]).item() == pytest.approx((logits.argmax(1) == labels).sum().item())
    among = (logits.topk(5).indices == labels[:, None]).any(1)
    assert sum(figures["top5"]).item() == pytest.approx(among.sum().item())


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_the_five_best_are_counted_of_more_classes_alone(classes: int) -> None:
    module = FullClassificationModule(replace(PLAIN, epochs=1), classes)
    module.set_model(nn.Sequential(nn.Flatten(), nn.Linear(16, classes)))
    pixels = torch.randn(9, 1, 4, 4)
    loader = DataLoader(TensorDataset(pixels, torch.arange(9) % classes), batch_size=9)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.validate(module, loader, verbose=False)
    assert set(found) == {"val_loss", "val_acc", *(["val_top5"] if classes == 6 else [])}


def test_images_are_erased_and_mixed_by_timm_as_it_does_alone() -> None:
    recipe = replace(PLAIN, erasing=0.8, erasing_mode="pixel", mixup=0.4, cutmix=1.0, label_smoothing=0.1)
    module = FullClassificationModule(recipe, CLASSES)
    pixels, labels = images()[:8]
    before = pixels.clone()
    with seeded(3):
        changed, targets = module.change_batch(pixels, labels)
    with seeded(3):
        erased = RandomErasing(probability=0.8, mode="pixel", device="cpu")(before.clone())
        mixup = Mixup(mixup_alpha=0.4, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)
        expected, soft = mixup(erased, labels)
    assert torch.equal(pixels, before)
    assert torch.equal(changed, expected)
    assert torch.equal(targets, soft)
    assert not torch.equal(changed, before)
    logits = torch.randn(8, CLASSES)
    by_hand = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(module.task_loss(changed, logits, targets), by_hand)


def test_teacher_is_part_of_the_loss_and_neither_trained_nor_saved() -> None:
    recipe = replace(PLAIN, distillation_weight=0.3, distillation_temperature=2.0, label_smoothing=0.1)
    with seeded(9):
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.Dropout(0.5))
    before = copy.deepcopy(teacher.state_dict())
    module = FullClassificationModule(recipe, CLASSES, teacher=teacher)
    pixels, labels = images()[:8]
    logits = torch.randn(8, CLASSES, requires_grad=True)
    loss = module.task_loss(pixels, logits, labels)
    with torch.no_grad():
        soft = (teacher.eval()(pixels) / 2).softmax(dim=1)
    distilled = nn.functional.cross_entropy(logits / 2, soft) * 4
    hard = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, 0.7 * hard + 0.3 * distilled)
    trained = fit(recipe, linear(), teacher=teacher.double())
    assert all(torch.equal(before[name], value.float()) for name, value in teacher.state_dict().items())
    assert {name.split(".")[0] for name in trained.state_dict()} == {"_model"}


def test_compiled_network_keeps_the_names_of_its_weights() -> None:
    module = FullClassificationModule(replace(PLAIN, ema_decay=0.9), CLASSES, compile_network=True)
    network = linear()
    names = list(network.state_dict())
    module.set_model(network)
    assert module.model._compiled_call_impl is not None
    assert list(module.model.state_dict()) == names == list(module.result.state_dict())


def test_channels_last_lays_out_weights_and_images() -> None:
    module = FullClassificationModule(replace(PLAIN, ema_decay=0.9), CLASSES, channels_last=True)
    module.set_model(nn.Sequential(nn.Conv2d(3, 4, 3)))
    pixels, _ = module.on_before_batch_transfer((torch.zeros(2, 3, 8, 8), torch.zeros(2)), 0)
    for tensor in (pixels, module.model[0].weight, module.average.module[0].weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_dropout_layers_drop_as_the_recipe_wants() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(16, CLASSES))
    set_dropout(network, replace(PLAIN, dropout=0.2))
    assert network[1].p == 0.2
    set_dropout(network, PLAIN)
    assert network[1].p == 0.2


@pytest.mark.parametrize("key", ["dropout", "drop_path"])
def test_network_without_such_a_layer_is_told(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"recipe\.{key} is 0\.2; expected null, since the network has no layer"):
        set_dropout(linear(), replace(PLAIN, **{key: 0.2}))


def test_random_augment_is_timms() -> None:
    transform = make_transform(replace(PLAIN, auto_augment="rand-m9-mstd0.5"), (3, 8, 8), (0.5,) * 3, (0.25,) * 3)
    assert any(isinstance(step, RandAugment) for step in transform.transforms)
    picture = Image.fromarray(np.full((20, 30, 3), 255, dtype=np.uint8))
    plain = make_transform(replace(PLAIN, color_jitter=0.0), (3, 8, 8), (0.5,) * 3, (0.25,) * 3)
    changed: Tensor = plain(picture)
    assert changed.shape == (3, 8, 8)
    assert torch.equal(changed, torch.full((3, 8, 8), 255, dtype=torch.uint8))


def test_grey_images_are_changed_as_colours_and_made_grey_at_the_end() -> None:
    recipe = replace(PLAIN, auto_augment="rand-m9-mstd0.5", color_jitter=0.0)
    transform = make_transform(recipe, (1, 8, 16), (0.5,), (0.25,))
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert transform(Image.fromarray(noise)).shape == (1, 8, 16)
    plain = make_transform(replace(PLAIN, color_jitter=0.0), (1, 8, 16), (0.5,), (0.25,))
    red: Tensor = plain(Image.new("RGB", (30, 20), (255, 0, 0)))
    torch.testing.assert_close(red, torch.full((1, 8, 16), (0.299 - 0.5) / 0.25), atol=0.01, rtol=0)


def test_every_setting_of_mixing_erasing_and_averaging_reaches_timm() -> None:
    recipe = replace(PLAIN, mixup=0.3, cutmix=0.6, mix_probability=0.7, mix_switch=0.2, mix_mode="elem")
    mixing = make_mixup(recipe, CLASSES)
    found = (mixing.mixup_alpha, mixing.cutmix_alpha, mixing.mix_prob, mixing.switch_prob, mixing.mode)
    assert found == (0.3, 0.6, 0.7, 0.2, "elem")
    erasing = make_erasing(replace(PLAIN, erasing=0.4, erasing_mode="rand", erasing_count=3))
    assert (erasing.probability, erasing.mode, erasing.max_count) == (0.4, "rand", 3)
    average = make_average(linear(), replace(PLAIN, ema_decay=0.99, ema_warmup=True))
    assert average.get_decay(9) == pytest.approx(1 - 9 ** (-2 / 3))  # (1 + steps before this one) ** -2/3
    assert average.get_decay(10**6) == 0.99


def test_every_setting_of_the_crop_reaches_timm() -> None:
    recipe = replace(PLAIN, crop_scale=(0.3, 0.4), flip=0.0, interpolation="bicubic", color_jitter=0.0)
    crop, *others = make_transform(recipe, (3, 8, 8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)).transforms
    assert crop.scale == (0.3, 0.4)
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert not any(isinstance(step, RandomHorizontalFlip | ColorJitter) for step in others)
    flipping = make_transform(replace(recipe, flip=0.7), (3, 8, 8), (0.5,) * 3, (0.5,) * 3).transforms
    assert [step.p for step in flipping if isinstance(step, RandomHorizontalFlip)] == [0.7]


def test_words_that_timm_does_not_understand_are_told() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.auto_augment is 'rand-q3'"):
        make_transform(replace(PLAIN, auto_augment="rand-q3"), (3, 8, 8), (0.5,) * 3, (0.25,) * 3)


def test_missing_timm_is_told_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ConfigError, match=r"pip install 'nni_cream\[recipes\]'"):
        check_timm()


@pytest.mark.parametrize(
    ("devices", "at_once", "expected"),
    [(1, None, (1024, 1)), (8, None, (128, 1)), (1, 128, (128, 8)), (2, 64, (64, 8))],
)
def test_global_batch_is_the_same_on_any_number_of_devices(
    devices: int, at_once: int | None, expected: tuple[int, int]
) -> None:
    assert split_batch_size(1024, devices, at_once) == expected


def test_global_batch_that_cannot_be_shared_is_told() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 1024; expected a multiple of 3"):
        split_batch_size(1024, 3, None)
    with pytest.raises(ConfigError, match=r"device_batch_size is 100; expected a divisor of 1024 .*such as 128"):
        split_batch_size(1024, 1, 100)
    with pytest.raises(ConfigError, match=r"device_batch_size is 2048"):
        split_batch_size(1024, 1, 2048)
