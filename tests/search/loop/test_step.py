from __future__ import annotations

import json
import math
import random
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Classification, LightningModule, Regression
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import RandomOneShot
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from nni_cream import CreamStrategy
from nni_cream.errors import ConfigError, SearchError, SpaceError
from nni_cream.search import PathScorer, PrioritizedBoard, RandomPaths
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.scoring.validation_subset import batch_like
from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.search.teaching.meta_gradient import match_weight_gradient
from tests.search.small import AS_PUBLISHED, LayerSpace, cream, custom_evaluator, digits, evaluator, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are


class Watch(Callback):
    """Keeps what a test wants to see of every step."""

    def __init__(self, look) -> None:
        self.look = look
        self.seen: list = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.seen.append(self.look(module, outputs))


def weights_of(strategy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in strategy.supernet.state_dict().items()}


def search(seed: int = 0, **arguments) -> CreamStrategy:
    pl.seed_everything(seed)
    trainer = arguments.pop("trainer", {})
    return run(LayerSpace(), cream(seed=seed, **{"warmup": 0, **arguments}), evaluator(**trainer))


# The loop ---------------------------------------------------------------------------------------------------------


def test_without_matching_the_weights_equal_those_of_nnis_random_oneshot_fed_the_same_paths():
    pl.seed_everything(3)
    strategy = cream(matching="none", seed=3, board_size=4, warmup=0, score_interval=2)
    run(LayerSpace(), strategy, evaluator(max_steps=20, max_epochs=-1))
    ours = weights_of(strategy)

    pl.seed_everything(3)
    space = LayerSpace()
    sampler = RandomPaths(space, seed=3)

    class Fed(RandomOneShot):
        def configure_oneshot_module(self, training_module):
            module = super().configure_oneshot_module(training_module)

            def resample():
                path = sampler.draw() if module.trainer.training else sampler.first()
                for choice in module.supernet_modules():
                    choice.resample(memo=dict(path))
                return path

            module.resample = resample
            return module

    random_oneshot = Fed()
    use = evaluator(max_steps=20, max_epochs=-1)
    random_oneshot(RawFormatModelSpace(space, use), SequentialExecutionEngine())
    theirs = random_oneshot.supernet.state_dict()
    learned = [name for name, _ in strategy.supernet.named_parameters()]
    assert all(torch.equal(ours[name], theirs[name]) for name in learned)
    assert len(strategy.board) == 4


def test_the_joint_loss_is_the_papers():
    watch = Watch(lambda module, outputs: (float(outputs["loss"]), module._match, module._path))
    losses: list = []

    class Spied(LightningModuleOfDigits):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append((float(loss.detach()), batch[0].clone(), self.last.detach().clone()))
            return loss

    teachers: list = []

    def spying(student, teacher):
        loss = soft_cross_entropy(student, teacher)
        teachers.append(float(loss.detach()))
        return loss

    pl.seed_everything(0)
    strategy = cream(**AS_PUBLISHED, matching="best", board_size=3, warmup=0, distillation=spying)
    run(LayerSpace(), strategy, custom_evaluator(Spied(), callbacks=[watch], max_epochs=1))
    distilled = [
        (total, match, task) for (total, match, _), (task, *_) in zip(watch.seen, losses, strict=True) if match
    ]
    assert len(distilled) == len(teachers) > 0
    for (total, match, task), kd in zip(distilled, teachers, strict=True):
        assert total == pytest.approx((match.weight * kd + (2 - match.weight) * task) / 2, rel=1e-5)
    undistilled = [(total, task) for (total, match, _), (task, *_) in zip(watch.seen, losses, strict=True) if not match]
    assert undistilled
    assert all(total == task for total, task in undistilled)


class LightningModuleOfDigits(LightningModule):
    """A user's own module: own loss, optimizer, scheduler, hooks and logs."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.mean = MeanMetric()

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.last = self(x)
        loss = functional.cross_entropy(self.last, y, label_smoothing=0.1)
        self.mean.update(loss.detach())
        self.log("my_loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "epoch"}]


@pytest.mark.parametrize("matching", ["meta", "random", "best", "none"])
def test_every_matching_ends_with_a_full_board_of_distinct_paths_in_order(matching):
    strategy = search(matching=matching, board_size=5, meta_interval=3)
    accuracies = [entry.accuracy for entry in strategy.board.entries]
    assert len({entry.key for entry in strategy.board.entries}) == 5
    assert accuracies == sorted(accuracies, reverse=True)
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_the_meta_network_is_updated_at_its_interval_and_nothing_else_changes():
    def look(module, outputs):
        return {name: value.clone() for name, value in module.training_module.state_dict().items()}

    runs = []
    for interval in (4, 10_000):
        watch = Watch(look)
        strategy = search(
            matching="meta",
            board_size=3,
            meta_interval=interval,
            meta_learning_rate=1e-30,
            trainer={"callbacks": [watch]},
        )
        assert bool(strategy.oneshot_module.matcher._optimizer.state) == (interval == 4)
        runs.append(watch.seen)
    # A learning rate of nearly nothing: an update may leave no trace in weights, buffers or random numbers.
    for first, second in zip(*runs, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_meta_update_leaves_the_users_logs_and_metrics_alone():
    counts = []
    for interval in (2, 10_000):
        pl.seed_everything(0)
        module = LightningModuleOfDigits()
        strategy = cream(board_size=3, warmup=0, meta_interval=interval, meta_learning_rate=1e-30)
        run(LayerSpace(), strategy, custom_evaluator(module, max_epochs=1))
        counts.append((module.mean._update_count, float(module.mean.compute())))
    assert counts[0] == counts[1]


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


class ModuleWithRecords(LightningModuleOfDigits):
    """As Lightning's guide from 1.x to 2 has it: what an epoch collects is a list of the module."""

    def __init__(self):
        super().__init__()
        self.losses, self.running, self.counts = {"train": []}, 0.0, torch.zeros(10)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return Pair(*batch)

    def training_step(self, batch, batch_idx):
        loss = super().training_step((batch.image, batch.label), batch_idx)
        self.losses["train"].append(loss.detach())
        self.running = 0.9 * self.running + 0.1 * float(loss.detach())
        self.counts += torch.bincount(batch.label, minlength=10)
        return loss


def test_the_meta_update_leaves_the_users_records_alone_and_keeps_the_type_of_a_batch():
    records = []
    for interval in (2, 10_000):
        pl.seed_everything(0)
        module = ModuleWithRecords()
        settings = {"distillation_start": None, "distillation_gate": False, "meta_learning_rate": 1e-30}
        strategy = cream(board_size=3, warmup=0, meta_interval=interval, **settings)
        run(LayerSpace(), strategy, custom_evaluator(module, max_epochs=1))
        assert (strategy.statistics["meta_updates"] > 0) == (interval == 2)
        records.append((len(module.losses["train"]), sum(module.losses["train"]), module.running, *module.counts))
    assert records[0] == records[1]
    assert records[0][0] == 8


def test_each_meta_update_looks_at_other_validation_images_as_many_as_a_step_has(monkeypatch):
    seen: list[Tensor] = []

    def noted(batch, inputs, targets):
        assert len(inputs) == len(targets) == len(batch[1])
        seen.append(inputs)
        return batch_like(batch, inputs, targets)

    monkeypatch.setattr("nni_cream.search.loop.step.batch_like", noted)
    strategy = search(**AS_PUBLISHED, board_size=3, meta_interval=2, score_images=64, trainer={"max_epochs": 1})
    subset = torch.cat([images for images, _ in strategy.oneshot_module.scorer.subset.chunks])
    first, second, *again = [_places(images, subset) for images in seen]
    assert len(first | second) == 64  # the whole subset, then again from its beginning
    assert again == [first, second]


def _places(images: Tensor, subset: Tensor) -> set[int]:
    return {int(torch.nonzero((subset == image).flatten(1).all(1))[0]) for image in images}


def test_warm_up_trains_without_board_and_teacher():
    watch = Watch(lambda module, outputs: (module.trainer.current_epoch, module._match, len(module.board)))
    search(warmup=1, board_size=3, trainer={"callbacks": [watch], "max_epochs": 2})
    first = [item[1:] for item in watch.seen if item[0] == 0]
    assert set(first) == {(None, 0)}
    assert watch.seen[-1][2] == 3


def test_warm_up_as_a_fraction_counts_training_steps():
    watch = Watch(lambda module, outputs: (module.trainer.global_step, len(module.board)))
    search(warmup=0.5, board_size=30, trainer={"callbacks": [watch], "max_epochs": 2})
    assert [step for step, size in watch.seen if size == 0] == list(range(1, 9))


def test_a_full_board_scores_at_its_interval():
    events: list = []
    search(board_size=2, score_interval=5, listeners=[events.append], trainer={"max_epochs": 3})
    scored = [event.step for event in events if event.kind == "scored"]
    assert scored[:2] == [1, 2]
    assert all(step % 5 == 0 for step in scored[2:])
    assert sum(event.kind == "rescored" for event in events) == 3


@pytest.mark.parametrize(
    "trainer",
    [
        {"max_epochs": 10},
        {"max_epochs": -1, "max_steps": 80},
        {"max_epochs": 99, "callbacks": [EarlyStopping("val_acc", mode="max", min_delta=1.0, patience=9)]},
    ],
)
def test_in_the_end_the_predictors_best_paths_compete_for_half_of_the_board(trainer):
    events: list = []
    modules: list = []

    class Watched(Callback):
        def on_fit_start(self, trainer, module):
            modules.append(module)

    strategy = search(
        board_size=4, margin=1.0, score_interval=1000, proposals="predicted", listeners=[events.append],
        score_images=20, trainer={**trainer, "callbacks": [*trainer.get("callbacks", []), Watched()]},
    )  # fmt: skip
    ends = [event for event in events if event.step == 80 and event.kind == "scored"]
    first, second = ends[-2:]
    assert [event.step for event in events if event.kind == "scored"][-3] < 80
    assert events[-1] is second
    tried = [dict(event.candidate["path"]) for event in (first, second)]
    means = modules[0].predictor.means([*tried, *(entry.path for entry in strategy.board.entries)])
    assert means[0] == pytest.approx(max(means), rel=1e-12)  # rows of a product round differently on some processors
    assert means[0] >= means[1]
    assert first.admitted or second.admitted
    for event in (first, second):
        if event.admitted:  # by any lead, though the board's margin is wide
            assert event.candidate["accuracy"] > event.evicted.accuracy


def test_listeners_can_follow_the_board():
    events: list = []
    strategy = search(board_size=3, score_interval=1, listeners=[events.append])
    board: dict[str, float] = {}
    for event in events:
        if event.admitted:
            board[json.dumps(event.candidate["path"], sort_keys=True, separators=(",", ":"))] = event.candidate["cost"]
        if event.evicted is not None:
            del board[event.evicted.key]
    assert board == {entry.key: entry.cost for entry in strategy.board.entries}


def test_entries_are_rescored_with_the_weights_of_the_moment(monkeypatch):
    monkeypatch.setattr("nni_cream.search.loop.step.rescored_entries", lambda images, trained: 3)
    strategy = search(board_size=3, score_interval=1)
    module = strategy.oneshot_module
    for entry in strategy.board.entries:
        assert entry.accuracy == module.scorer.score(entry.path)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_the_entries_of_a_board_too_large_for_one_rescoring_take_turns_at_any_interval(monkeypatch, interval):
    rescored: list[str] = []

    def score(self, path, above=None):
        if above is None:  # a candidate has a bar
            rescored.append(path_key(path))
        return PathScorer.SCORE(self, path, -math.inf if above is None else above)

    monkeypatch.setattr("nni_cream.search.loop.step.rescored_entries", lambda images, trained: 2)
    monkeypatch.setattr(PathScorer, "SCORE", PathScorer.score, raising=False)
    monkeypatch.setattr(PathScorer, "score", score)
    trainer = {"max_epochs": 3 * interval}
    strategy = search(
        board_size=6,
        score_interval=10**6,
        rescore_interval=interval,
        proposals="trained",
        matching="none",
        trainer=trainer,
    )
    assert sorted(rescored) == sorted(entry.key for entry in strategy.board.entries)


@pytest.mark.parametrize("score_images", [200, 60, 50, 20])
def test_by_default_rescoring_an_epoch_of_any_length_costs_a_fixed_share_of_it(monkeypatch, score_images):
    asked: list[float] = []

    def rescore(self, score, share=None, turn=0):
        asked.append(share)
        return PrioritizedBoard.RESCORE(self, score, share, turn)

    monkeypatch.setattr(PrioritizedBoard, "RESCORE", PrioritizedBoard.rescore, raising=False)
    monkeypatch.setattr(PrioritizedBoard, "rescore", rescore)
    search(board_size=3, matching="none", score_images=score_images, trainer={"max_epochs": 2})
    assert asked == pytest.approx([0.05 * 256 / score_images] * 2)  # 0.05 images for each of the 256 of an epoch


def test_cost_range_holds_for_every_sampled_path():
    watch = Watch(lambda module, outputs: module.cost(module._path))
    strategy = search(board_size=3, cost_range=(60_000, 90_000), trainer={"callbacks": [watch]})
    assert all(60_000 <= cost <= 90_000 for cost in watch.seen)
    assert all(60_000 <= entry.cost <= 90_000 for entry in strategy.board.entries)


def test_an_unreachable_cost_range_is_refused_with_the_reachable_one():
    with pytest.raises(SpaceError, match=r"no path was found; expected a range within"):
        search(cost_range=(1e9, None))


# What a user's module may rely on ---------------------------------------------------------------------------------


def test_hooks_logs_optimizer_and_scheduler_of_a_users_module_are_honoured():
    class Full(LightningModuleOfDigits):
        def __getattribute__(self, name):
            return super().__getattribute__(name)

        def validation_step(self, batch):
            self.events.append("validation_step")
            self.log("my_val", functional.cross_entropy(self(batch[0]), batch[1]))

        def on_validation_epoch_end(self):
            self.events.append("on_validation_epoch_end")

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.events.append("configure_gradient_clipping")
            self.clip_gradients(optimizer, 1.0, "norm")

        def on_before_optimizer_step(self, optimizer):
            self.events.append("on_before_optimizer_step")

        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.events.append("on_after_batch_transfer")
            return batch

        def on_save_checkpoint(self, checkpoint):
            checkpoint["mine"] = 42

        def on_train_epoch_end(self):
            self.events.append("on_train_epoch_end")

    module = Full()
    use = custom_evaluator(module, max_epochs=2)
    strategy = run(LayerSpace(), cream(board_size=3, warmup=0), use)
    trainer = strategy.oneshot_module.trainer
    assert {"my_loss", "my_val", "board_best"} <= set(trainer.callback_metrics)
    assert {
        "validation_step",
        "on_validation_epoch_end",
        "configure_gradient_clipping",
        "on_before_optimizer_step",
        "on_after_batch_transfer",
        "on_train_epoch_end",
    } <= set(module.events)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.05 * 0.25
    checkpoint: dict = {}
    strategy.oneshot_module.on_save_checkpoint(checkpoint)
    assert checkpoint["mine"] == 42


def test_a_training_step_may_return_a_dict_and_take_the_batch_alone():
    class Plain(LightningModuleOfDigits):
        def training_step(self, batch):
            loss = super().training_step(batch, 0)
            return {"loss": loss, "extra": 1}

        def validation_step(self, *args):
            self.events.append(str(len(args)))

    module = Plain()
    strategy = run(LayerSpace(), cream(board_size=3, warmup=0, meta_interval=2), custom_evaluator(module))
    assert len(strategy.board) == 3
    assert set(module.events) == {"2"}


def test_a_training_step_may_skip_a_batch():
    class Skipping(LightningModuleOfDigits):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    strategy = run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Skipping()))
    assert len(strategy.board) == 3


def test_a_module_without_forward_is_scored_by_its_model():
    class Bare(LightningModuleOfDigits):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self.model(batch[0]), batch[1])

    strategy = run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Bare()))
    assert len(strategy.board) == 3


def test_accumulated_gradients_and_clipping_of_the_trainer_work():
    strategy = search(board_size=3, meta_interval=2, trainer={"accumulate_grad_batches": 2, "gradient_clip_val": 0.5})
    assert strategy.oneshot_module.trainer.global_step == 8
    assert len(strategy.board) == 3


def test_half_precision_on_a_cpu_works():
    strategy = search(board_size=3, meta_interval=3, trainer={"precision": "bf16-mixed"})
    assert len(strategy.board) == 3
    assert all(value.grad_fn is None and value.dtype == torch.float32 for value in strategy.supernet.parameters())


class Scaled(MixedPrecision):
    """Floats of 16 bits with a scale for the losses, which Lightning has on GPUs alone."""

    def __init__(self, scale: float) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_the_meta_network_learns_from_scaled_losses_where_the_weights_do(monkeypatch):
    scales: list[float] = []

    def noted(*arguments, loss_scale, **more):
        scales.append(loss_scale)
        return match_weight_gradient(*arguments, loss_scale=loss_scale, **more)

    monkeypatch.setattr("nni_cream.search.loop.step.match_weight_gradient", noted)
    settings = {**AS_PUBLISHED, "board_size": 3, "meta_interval": 5, "ema_decay": 0.9}
    strategy = search(**settings, trainer={"plugins": [Scaled(1024.0)]})
    assert scales == [64.0] * 3
    assert len(strategy.board) == 3
    assert all(value.dtype == torch.float32 for value in strategy.supernet.parameters())


def test_a_meta_gradient_that_overflows_its_scale_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr("nni_cream.search.loop.step.match_weight_gradient", lambda *_, **__: math.inf)
    strategy = search(**AS_PUBLISHED, board_size=3, meta_interval=5, trainer={"plugins": [Scaled(1024.0)]})
    assert "the meta network is not updated" in caplog.text
    assert strategy.statistics["meta_updates"] == 0


def test_regression_is_distilled_and_scored_with_squared_errors():
    from nni.nas.evaluator.pytorch import DataLoader
    from torch.utils.data import TensorDataset

    from tests.search.small import TRAINER, conv

    class Wave(LayerSpace):
        def __init__(self):
            super().__init__(layers=2)
            self.head = nn.Linear(8, 1)

    assert conv is not None
    x = torch.randn(128, 1, 8, 8)
    data = TensorDataset(x, x.mean((1, 2, 3))[:, None])
    use = Regression(
        train_dataloaders=DataLoader(data, batch_size=32),
        val_dataloaders=DataLoader(data, batch_size=64),
        max_epochs=2,
        **TRAINER,
    )
    strategy = cream(
        board_size=3, warmup=0, meta_interval=2, distillation="mean_squared_error", score="negative_squared_error"
    )
    run(Wave(), strategy, use)
    assert all(entry.accuracy <= 0 for entry in strategy.board.entries)


def test_validation_runs_the_boards_best_path_as_it_is_scored():
    pl.seed_everything(1)
    strategy = cream(board_size=3, warmup=0)
    use = evaluator(max_epochs=3)
    seen: list = []

    class Look(Callback):
        def on_validation_end(self, trainer, module):
            if module.board.best and trainer.current_epoch == 2:
                seen.append((float(trainer.callback_metrics["val_acc"]), module.scorer.score(module.board.best.path)))

    use.trainer.callbacks.append(Look())
    run(LayerSpace(), strategy, use)
    assert seen
    for validated, scored in seen:
        assert validated == pytest.approx(scored, abs=0.05)


class Surrounded(LightningModuleOfDigits):
    """A user's module with layers of its own around the model, and augmentation in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(10), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.dropout(self.norm(self.model(x)))

    def validation_step(self, batch, batch_idx):
        self(batch[0])


def test_scoring_leaves_the_whole_of_a_users_module_as_it_was_and_gives_the_same_each_time():
    module = Surrounded()
    run(LayerSpace(), strategy := cream(board_size=3, warmup=0, meta_interval=3), custom_evaluator(module))
    scorer, path = strategy.oneshot_module.scorer, strategy.board.best.path
    module = strategy.oneshot_module.training_module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    scores = []
    for _ in range(3):
        state = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
        scores.append(scorer.score(path))
        assert torch.equal(state[0], torch.get_rng_state())
        assert (state[1] == np.random.get_state()[1]).all()  # noqa: NPY002
        assert state[2] == random.getstate()
        torch.rand(3)
    assert scores[0] == scores[1] == scores[2]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training
    assert module.dropout.training


def test_scoring_does_not_change_what_is_trained_around_the_model():
    states = []
    for interval in (1, 1000):
        pl.seed_everything(0)
        strategy = cream(board_size=2, warmup=0, matching="none", score_interval=interval, rescore_interval=9)
        run(LayerSpace(), strategy, custom_evaluator(Surrounded(), max_epochs=1, limit_val_batches=0))
        states.append(strategy.oneshot_module.training_module.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert float(states[0]["calls"]) == 8


def test_a_users_buffers_may_change_in_validation():
    module = Surrounded()
    run(LayerSpace(), cream(board_size=2, warmup=0), custom_evaluator(module, max_epochs=1))
    assert float(module.calls) == 8 + 2 + 2  # training, sanity check, validation


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_validation_images_are_in_the_precision_of_the_trainer(precision):
    strategy = search(board_size=3, meta_interval=3, trainer={"precision": precision})
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert len(strategy.board) == 3
    assert strategy.oneshot_module.scorer.subset.probe(1).dtype is dtype
    assert all(value.dtype is dtype for value in strategy.supernet.parameters())


def test_validation_images_pass_all_transfer_hooks_of_a_users_module():
    class Shifting(LightningModuleOfDigits):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch if self.trainer.training else [batch[0] + 100, batch[1]]

    strategy = cream(board_size=3, warmup=0)
    run(LayerSpace(), strategy, custom_evaluator(Shifting()))
    assert float(strategy.oneshot_module.scorer.subset.probe(4).min()) > 90


def test_progress_bar_shows_the_board():
    strategy = search(board_size=3)
    assert {"board_best", "board_worst", "board_size"} <= set(strategy.oneshot_module.trainer.progress_bar_metrics)
    assert strategy.statistics["board_best"] == strategy.board.best.accuracy


# Repeating and resuming ---------------------------------------------------------------------------------------------


class _Paths(Callback):
    def __init__(self) -> None:
        self.paths: list[dict] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.paths.append(module._path)


def paths_and_board(seed: int) -> list:
    trace = _Paths()
    pl.seed_everything(seed)
    strategy = run(LayerSpace(), cream(seed=seed, board_size=4, meta_interval=3), evaluator(callbacks=[trace]))
    return json.loads(json.dumps([trace.paths, strategy.board.to_json()]))


@pytest.mark.integration
def test_same_seed_same_paths_board_and_best_in_a_fresh_process_and_another_seed_others(python):
    code = "import json; from tests.search.loop.test_step import *; print('RESULT', json.dumps(paths_and_board(5)))"
    done = subprocess.run([*python, "-c", code], capture_output=True, text=True, check=True)
    first, other = paths_and_board(5), paths_and_board(6)
    assert json.loads(done.stdout.split("RESULT")[1]) == first
    assert first[0] != other[0]
    assert first[1] != other[1]


@pytest.mark.parametrize("matching", ["meta", "random"])
def test_a_resumed_search_equals_the_uninterrupted_one_bit_for_bit(tmp_path, matching):
    def checkpoints(name):
        return ModelCheckpoint(tmp_path / name, "epoch{epoch}", save_top_k=-1, auto_insert_metric_name=False)

    arguments = {"matching": matching, "board_size": 4, "meta_interval": 3, "score_interval": 2, "warmup": 1}

    def start(name, **trainer):
        pl.seed_everything(2)
        use = evaluator(callbacks=[checkpoints(name)], enable_checkpointing=True, **trainer)
        return cream(seed=2, **arguments), use

    whole, use = start("whole", max_epochs=4)
    run(LayerSpace(), whole, use)

    broken, use = start("broken", max_epochs=4)
    use.trainer.callbacks.append(_StopAfter(epoch=1))
    with pytest.raises(RuntimeError, match="power failure"):
        run(LayerSpace(), broken, use)

    resumed, use = start("resumed", max_epochs=4)
    torch.rand(7)  # a fresh process need not have the same random numbers behind it
    use.fit_kwargs["ckpt_path"] = str(tmp_path / "broken" / "epoch1.ckpt")
    run(LayerSpace(), resumed, use)

    assert resumed.board.to_json() == whole.board.to_json()
    ours, theirs = weights_of(resumed), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.oneshot_module._step == whole.oneshot_module._step


class _StopAfter(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.current_epoch > self.epoch and batch_idx == 3:
            raise RuntimeError("power failure")


def checkpoint_of_a_search(tmp_path) -> str:
    callback = ModelCheckpoint(tmp_path, "search")
    search(board_size=3, trainer={"callbacks": [callback], "enable_checkpointing": True, "max_epochs": 1})
    return str(tmp_path / "search.ckpt")


def test_a_checkpoint_of_another_space_is_refused(tmp_path):
    use = evaluator(max_epochs=3)
    use.fit_kwargs["ckpt_path"] = checkpoint_of_a_search(tmp_path)

    class Renamed(LayerSpace):
        def simplify(self, is_leaf=None):
            return {name.replace("layer", "stage"): item for name, item in super().simplify(is_leaf).items()}

    with pytest.raises(SearchError, match="another search space"):
        run(Renamed(), cream(board_size=3, warmup=0), use)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = checkpoint_of_a_search(tmp_path)
    content = torch.load(path, weights_only=True)
    del content["nni_cream"]
    torch.save(content, path)
    use = evaluator(max_epochs=3)
    use.fit_kwargs["ckpt_path"] = path
    with pytest.raises(SearchError, match="expected a checkpoint of a Cream search"):
        run(LayerSpace(), cream(board_size=3, warmup=0), use)


# What is refused ------------------------------------------------------------------------------------------------------


class Exploding(LightningModuleOfDigits):
    def __init__(self, value: float, at: int) -> None:
        super().__init__()
        self.value, self.at, self.count = value, at, 0

    def training_step(self, batch, batch_idx):
        self.count += 1
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if self.count == self.at else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_search_and_keeps_the_last_checkpoint(tmp_path, value):
    callback = ModelCheckpoint(tmp_path, "last")
    use = custom_evaluator(Exploding(value, at=12), callbacks=[callback], enable_checkpointing=True, max_epochs=3)
    with pytest.raises(SearchError, match="at step 12"):
        run(LayerSpace(), cream(board_size=3, warmup=0), use)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 0
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_weights_that_are_not_finite_stop_the_search_before_a_checkpoint(tmp_path):
    class Broken(LightningModuleOfDigits):
        def on_before_optimizer_step(self, optimizer):
            if self.trainer.global_step == 7:
                with torch.no_grad():
                    self.model.layers[0].conv_3x3[0].weight.fill_(math.inf)

    with pytest.raises(SearchError, match="not finite at step 8"):
        run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Broken(), max_epochs=1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_never_reaches_the_weights_nor_a_checkpoint_of_every_step(tmp_path, value):
    callback = ModelCheckpoint(tmp_path, "step", every_n_train_steps=1, enable_version_counter=False)
    use = custom_evaluator(Exploding(value, at=12), callbacks=[callback], enable_checkpointing=True, max_epochs=3)
    strategy = cream(board_size=3, warmup=0, matching="none")
    with pytest.raises(SearchError, match="at step 12"):
        run(LayerSpace(), strategy, use)
    assert all(bool(torch.isfinite(value).all()) for value in strategy.supernet.state_dict().values())
    saved = torch.load(tmp_path / "step.ckpt", weights_only=True)
    assert saved["global_step"] == 11
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_a_checkpoint_with_weights_that_are_not_finite_is_never_written(tmp_path):
    class Broken(LightningModuleOfDigits):
        def on_before_optimizer_step(self, optimizer):
            if self.trainer.global_step == 5:
                self.model.head.weight.grad.fill_(math.nan)

    callback = ModelCheckpoint(tmp_path, "step", every_n_train_steps=1, enable_version_counter=False)
    use = custom_evaluator(Broken(), callbacks=[callback], enable_checkpointing=True, max_epochs=1)
    with pytest.raises(SearchError, match="not finite at step"):
        run(LayerSpace(), cream(board_size=3, warmup=0, matching="none"), use)
    saved = torch.load(tmp_path / "step.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_an_error_of_a_users_distillation_names_the_function():
    def broken_distillation(student, teacher):
        raise ZeroDivisionError("no")

    with pytest.raises(SearchError, match=r"distillation function .*broken_distillation' raised ZeroDivisionError: no"):
        search(distillation=broken_distillation, board_size=3)


class Normalised(LayerSpace):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10))


@pytest.mark.parametrize(
    ("settings", "name"), [({"probe_images": 1}, "matching.probe_images"), ({"score_images": 1}, "scoring.images")]
)
def test_single_images_for_batch_normalisation_are_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=f"{name} is 1; expected a whole number of at least 2"):
        cream(board_size=3, warmup=0, **settings)


def test_a_single_image_left_over_for_validation_is_refused_with_what_to_do():
    from nni.nas.evaluator.pytorch import DataLoader

    use = evaluator(num_sanity_val_steps=0)
    use.val_dataloaders = DataLoader(digits(101, start=1000), batch_size=100)
    with pytest.raises(ConfigError, match="validation loader yields a batch of a single image"):
        run(Normalised(), cream(board_size=3, warmup=0), use)


def test_manual_optimization_is_refused():
    class Manual(LightningModuleOfDigits):
        automatic_optimization = False

    with pytest.raises(SearchError, match="automatic_optimization"):
        run(LayerSpace(), cream(), custom_evaluator(Manual()))


def test_a_training_step_that_does_not_run_the_model_is_refused():
    class Elsewhere(LightningModuleOfDigits):
        def training_step(self, batch, batch_idx):
            return self.model.head.weight.square().sum()

    with pytest.raises(SearchError, match="did not run the model with gradients"):
        run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Elsewhere()))


def test_a_forward_that_does_not_run_the_model_is_refused():
    class Detour(LightningModuleOfDigits):
        def forward(self, x):
            return x.flatten(1)[:, :10]

    with pytest.raises(SearchError, match="does not run the model"):
        run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Detour()))


class Divided(LightningModuleOfDigits):
    """Prepares its inputs in training_step, where a score does not see it."""

    def __init__(self, divisor):
        super().__init__()
        self.divisor = divisor

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0] / self.divisor, batch[1]), batch_idx)


@pytest.mark.parametrize(("divisor", "told"), [(255, True), (4, False)])
def test_inputs_that_forward_does_not_prepare_as_the_training_does_are_told(divisor, told, caplog):
    run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Divided(divisor), max_epochs=1))
    assert ("training_step gives the model inputs of size 0.00" in caplog.text) == told


class Prepared(LightningModuleOfDigits):
    """Normalises where ``places`` says; plain Lightning is right wherever both steps do."""

    def __init__(self, *places):
        super().__init__()
        self.places = places

    def _changed(self, place, x):
        return (x - 0.3) / 0.4 if place in self.places else x

    def forward(self, x):
        return super().forward(self._changed("forward", x))

    def training_step(self, batch, batch_idx):
        return super().training_step((self._changed("steps", batch[0]), batch[1]), batch_idx)

    def validation_step(self, batch, batch_idx):
        x, y = self._changed("steps", batch[0]), batch[1]
        self.log("both", (self(x) + self(x.flip(-1))).argmax(1).eq(y).float().mean())  # at test time two views


def test_inputs_that_the_steps_prepare_and_forward_does_not_are_refused():
    with pytest.raises(SearchError, match="validation_step gives the model other inputs than forward"):
        run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Prepared("steps")))


def test_inputs_that_forward_prepares_are_scored():
    use = custom_evaluator(Prepared("forward"), max_epochs=1)
    assert len(run(LayerSpace(), cream(board_size=3, warmup=0), use).board) == 3


def test_inputs_that_forward_cannot_take_are_refused():
    class Bytes(Divided):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0].to(torch.uint8), batch[1]

    with pytest.raises(SearchError, match=r"forward fails on the inputs of the first batch .* do so in forward"):
        run(LayerSpace(), cream(board_size=3, warmup=0), custom_evaluator(Bytes(255)))


def test_a_training_without_a_batch_is_refused():
    with pytest.raises(SearchError, match=r"the training had no batch; .* drop_last"):
        run(LayerSpace(), cream(board_size=3, warmup=0), evaluator(limit_train_batches=0))


def test_a_trainer_that_logs_nothing_trains():
    assert len(search(board_size=3, trainer={"log_every_n_steps": 0, "max_epochs": 1}).board) == 3


def test_batches_that_are_not_pairs_are_refused():
    from nni.nas.evaluator.pytorch import DataLoader
    from torch.utils.data import TensorDataset

    from tests.search.small import TRAINER

    triples = DataLoader(TensorDataset(*[torch.zeros(8, 1, 8, 8)] * 3), batch_size=4)
    use = Classification(num_classes=10, train_dataloaders=triples, val_dataloaders=triples, **TRAINER)
    use.trainer.num_sanity_val_steps = 0
    with pytest.raises(SearchError, match=r"expected a pair \(x, y\)"):
        run(LayerSpace(), cream(), use)


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(ConfigError, match="warmup is 2 epochs; expected fewer than the 2 of the trainer"):
        search(warmup=2, trainer={"max_epochs": 2})


@pytest.mark.parametrize("steps", [6, 8])
def test_a_warm_up_that_is_longer_than_the_steps_is_refused(steps):
    with pytest.raises(
        ConfigError, match=f"warmup is 1 epochs of 8 steps; expected less than the {steps} steps of the trainer"
    ):
        search(warmup=1, trainer={"max_epochs": -1, "max_steps": steps})


def test_a_training_that_is_stopped_within_its_warm_up_does_not_end_as_if_it_had_a_result():
    class Stop(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            trainer.should_stop = True

    with pytest.raises(SearchError, match=r"board is empty after \d+ steps; .* the training ended within its warm-up"):
        search(warmup=1, trainer={"callbacks": [Stop()], "max_epochs": 3})


def test_a_fraction_of_an_endless_training_is_refused():
    with pytest.raises(ConfigError, match="no end"):
        search(warmup=0.5, trainer={"max_epochs": -1})


def test_an_empty_board_has_nothing_to_export():
    strategy = cream()
    with pytest.raises(SearchError, match="board is empty"):
        next(strategy.list_models())


def test_a_score_that_is_not_finite_is_an_error():
    with pytest.raises(SearchError, match="score of a path is nan"):
        search(score=lambda output, target: torch.full((len(target),), math.nan))


def test_a_score_that_stops_being_finite_when_the_board_is_rescored_is_an_error():
    calls: list[int] = []

    def failing(output, target):
        calls.append(1)
        # Two before the first step, then three candidates.
        return torch.full((len(target),), 0.5 if len(calls) <= 5 else math.nan)

    with pytest.raises(SearchError, match="score of a path is nan at step 8"):
        search(score=failing, score_images=20, board_size=3, score_interval=1000, matching="best")


def test_a_meta_update_sees_validation_images_in_a_part_no_larger_than_a_training_batch():
    sizes: list[int] = []

    class Sizes(LightningModule):
        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, batch_idx):
            sizes.append(len(batch[1]))
            return functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    settings = {"board_size": 3, "warmup": 0, "meta_interval": 8, "score_images": 150}
    run(LayerSpace(), cream(**AS_PUBLISHED, **settings), custom_evaluator(Sizes(), max_epochs=1))
    # Eight training steps, then the last batch again, and half of the 50 images of one of three chunks.
    assert sizes == [32] * 9 + [25]
