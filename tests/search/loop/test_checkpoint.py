"""A search that is resumed from any checkpoint that Lightning writes equals the uninterrupted one, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, LightningModule
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch.nn import functional

from nni_cream import CreamStrategy
from nni_cream.errors import SearchError
from nni_cream.search.loop.checkpoint import read_state
from tests.examples.own_sampler import MutatingSampler
from tests.search.small import AS_PUBLISHED, TRAINER, LayerSpace, cream, custom_evaluator, digits, evaluator, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SETTINGS: dict[str, Any] = {
    **AS_PUBLISHED,
    "board_size": 4,
    "meta_interval": 3,
    "score_interval": 2,
    "warmup": 0,
    "seed": 2,
}


def small_space() -> LayerSpace:
    return LayerSpace(layers=2)


class Trace(Callback):
    """What happened at every step: the images, the path, the loss, the random numbers behind it."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple] = {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.labels = batch[1].tolist()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        path, loss = tuple(module._path.values()), float(outputs["loss"])
        self.seen[trainer.global_step] = (trainer.current_epoch, batch_idx, self.labels, path, loss)


class Saves(Callback):
    """A callback that is no ModelCheckpoint, and so runs before the module's own hooks."""

    def __init__(self, folder: Path, hook: str) -> None:
        def save(trainer, *args) -> None:
            trainer.save_checkpoint(folder / f"step={trainer.global_step}.ckpt")

        setattr(self, hook, save)


def searched(trace: Trace, callbacks=(), checkpoint: Path | None = None, **arguments) -> CreamStrategy:
    pl.seed_everything(2)
    if checkpoint is not None:
        torch.rand(7)  # a fresh process need not have the same random numbers behind it
    settings = {**SETTINGS, **arguments.pop("settings", {})}
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    use = evaluator(**{"max_epochs": 3, "callbacks": [trace, *callbacks], "enable_checkpointing": saving, **arguments})
    if checkpoint is not None:
        use.fit_kwargs.update(ckpt_path=str(checkpoint), weights_only=True)
    return run(small_space(), cream(**settings), use)


def assert_equal(resumed: CreamStrategy, whole: CreamStrategy, after: Trace, before: Trace) -> None:
    assert after.seen == {step: before.seen[step] for step in after.seen}
    assert resumed.board.to_json() == whole.board.to_json()
    theirs = whole.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.supernet.state_dict().items())
    assert resumed.oneshot_module._step == whole.oneshot_module._step
    assert str(resumed.oneshot_module.matcher.state_dict()) == str(whole.oneshot_module.matcher.state_dict())
    predicted = whole.oneshot_module.predictor.state_dict()
    assert predicted["steps"] == whole.oneshot_module._step
    assert all(
        torch.as_tensor(value).equal(torch.as_tensor(predicted[name]))
        for name, value in resumed.oneshot_module.predictor.state_dict().items()
    )


STEPS = {"filename": "{step}", "save_top_k": -1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "in the middle of an epoch": ({"every_n_train_steps": 5}, {}),
    "at the last step of an epoch": ({"every_n_train_steps": 8}, {}),
    "at a step before a validation": ({"every_n_train_steps": 4}, {"val_check_interval": 0.5}),
    "at the end of each validation": ({"save_on_train_epoch_end": False}, {"val_check_interval": 0.5}),
    "at the end of the epoch's validation": ({"monitor": "val_acc", "save_on_train_epoch_end": False}, {}),
    "at every step, with accumulated gradients": ({"every_n_train_steps": 1}, {"accumulate_grad_batches": 2}),
    "in a training counted in steps": ({"every_n_train_steps": 6}, {"max_epochs": -1, "max_steps": 30}),
    "at the end of an epoch": ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}),
    "at the end of an epoch counted in steps": (
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        {"max_epochs": -1, "max_steps": 30},
    ),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Callable[[str], tuple[CreamStrategy, Trace, Path]]:
    """Return the uninterrupted search of a case, and the folder of its checkpoints; cases of one trainer share it."""

    @cache
    def search(trainer: str) -> tuple[CreamStrategy, Trace, Path]:
        folder, trace = tmp_path_factory.mktemp("uninterrupted"), Trace()
        alike = {case: saves for case, (saves, settings) in CASES.items() if str(settings) == trainer}
        saving = [ModelCheckpoint(folder / case, **STEPS, **saves) for case, saves in alike.items()]
        settings = CASES[next(iter(alike))][1]
        return searched(trace, saving, **settings), trace, folder

    return lambda case: search(str(CASES[case][1]))


@pytest.mark.parametrize("case", CASES)
def test_a_search_resumed_from_a_model_checkpoint_equals_the_uninterrupted_one(uninterrupted, case):
    whole, before, folder = uninterrupted(case)
    files = sorted((folder / case).glob("*.ckpt"), key=lambda file: int(file.stem.split("=")[1]))
    steps = [int(file.stem.split("=")[1]) for file in files]
    # NNI's evaluator fails at its end if there was no validation since the resume, so a whole epoch is left.
    unfinished = [(file, step) for file, step in zip(files, steps, strict=True) if step <= max(before.seen) - 8]
    assert unfinished
    for file, step in {unfinished[0], unfinished[-1]}:
        after = Trace()
        resumed = searched(after, checkpoint=file, **CASES[case][1])
        assert_equal(resumed, whole, after, before)
        assert set(after.seen) == {later for later in before.seen if later > step} | (set(after.seen) & {step})


HOOKS = ["on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_start"]


@pytest.fixture(scope="module")
def saved_at_hooks(tmp_path_factory) -> tuple[CreamStrategy, Trace, Path]:
    """Return an uninterrupted search, and the folder of the checkpoints that callbacks have saved at each hook."""
    folder, trace = tmp_path_factory.mktemp("saved_at_hooks"), Trace()
    whole = searched(trace, [Saves(folder / hook, hook) for hook in HOOKS], num_sanity_val_steps=0)
    return whole, trace, folder


@pytest.mark.parametrize("hook", HOOKS)
def test_a_search_resumed_from_the_checkpoint_of_another_callback_equals_the_uninterrupted_one(saved_at_hooks, hook):
    whole, before, folder = saved_at_hooks
    files = [file for file in sorted((folder / hook).glob("*.ckpt")) if file.stem != "step=24"]
    assert files
    for file in files[:: 11 if hook == "on_train_batch_end" else 1]:
        after = Trace()
        assert_equal(searched(after, checkpoint=file), whole, after, before)


def negative_loss(output, target):
    """A score that is no round number, so that a gate opens on some batches and closes on others."""
    return -functional.cross_entropy(output, target, reduction="none")


# Several options at once, where none hides the state of another.
OPTIONS: dict[str, dict[str, Any]] = {
    "the defaults": {
        "joint_loss": "add",
        "distillation_start": 0.5,
        "distillation_gate": True,
        "score": negative_loss,
        "teacher_weights": "average",
        "ema_decay": 0.99,
    },
    "temperature, fast meta network, a candidate at every step": {
        "temperature": 4.0,
        "meta_learning_rate": 0.01,
        "score_interval": 1,
    },
    "later start in epochs, rescoring now and then": {"distillation_start": 1, "rescore_interval": 2},
    "later start as a part, averaged teacher": {
        "warmup": 0.1,
        "distillation_start": 0.4,
        "teacher_weights": "average",
        "ema_decay": 0.8,
    },
    "gate, sampler of one's own": {
        "distillation_gate": True,
        "score": negative_loss,
        "sampling": MutatingSampler(),
    },
    "added loss, match weight and random teachers, no rescoring": {
        "joint_loss": "add",
        "match_weight": 0.8,
        "matching": "random",
        "rescore_interval": None,
    },
    "sampler of one's own in a range": {"sampling": MutatingSampler(), "cost_range": (8_000, 50_000)},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_search_with_each_option_is_resumed_as_if_it_had_not_been_interrupted(tmp_path, option):
    before, use = Trace(), {"settings": OPTIONS[option], "max_epochs": 2}
    whole = searched(before, [ModelCheckpoint(tmp_path, every_n_train_steps=1, **STEPS)], **use)
    for step in (5, 8, 13):  # within the first epoch, at its end, within the second
        after = Trace()
        resumed = searched(after, checkpoint=tmp_path / f"step={step}.ckpt", **use)
        assert_equal(resumed, whole, after, before)
        assert len(after.seen) >= 16 - step
        assert str(resumed.oneshot_module.sampler.state_dict()) == str(whole.oneshot_module.sampler.state_dict())
        assert resumed.statistics == whole.statistics


def test_what_the_predictor_learns_within_the_warm_up_outlives_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("nni_cream.search.loop.step._COMPARED", 3)  # of the 8 steps of the warm-up
    before, use = Trace(), {"settings": {"warmup": 1, "proposals": "predicted"}, "max_epochs": 2}
    whole = searched(before, [ModelCheckpoint(tmp_path, every_n_train_steps=1, **STEPS)], **use)
    for number in (3, 5):  # just learned, and two more in the window
        after = Trace()
        assert_equal(searched(after, checkpoint=tmp_path / f"step={number}.ckpt", **use), whole, after, before)
        assert len(after.seen) >= 16 - number


class FollowingAMetric(LightningModule):
    """A user's own module, whose learning rate follows what is validated."""

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "strict": False}}


def followed(trace: Trace, checkpoint: Path | None, *callbacks, **trainer) -> CreamStrategy:
    pl.seed_everything(2)
    settings = {"callbacks": [trace, *callbacks], "enable_checkpointing": bool(callbacks), "max_epochs": 3, **trainer}
    use = custom_evaluator(FollowingAMetric(), **settings)
    if checkpoint is not None:
        torch.rand(7)
        use.fit_kwargs.update(ckpt_path=str(checkpoint), weights_only=True)
    return run(small_space(), cream(**SETTINGS), use)


@pytest.mark.parametrize("trainer", [{}, {"check_val_every_n_epoch": 2}, {"limit_val_batches": 0}])
def test_a_resumed_epoch_ends_like_any_other(tmp_path, trainer):
    before = Trace()
    whole = followed(before, None, ModelCheckpoint(tmp_path, every_n_train_steps=4, **STEPS), **trainer)
    for step in (4, 8):
        after = Trace()
        resumed = followed(after, tmp_path / f"step={step}.ckpt", **trainer)
        assert_equal(resumed, whole, after, before)
        assert len(after.seen) == 24 - step
        rates = [s.oneshot_module.trainer.optimizers[0].param_groups[0]["lr"] for s in (resumed, whole)]
        assert rates[0] == rates[1]


def test_a_schedule_that_lacks_its_metric_after_a_resume_says_so(tmp_path, caplog):
    saving = ModelCheckpoint(tmp_path, save_on_train_epoch_end=False, **STEPS)
    followed(Trace(), None, saving, max_epochs=2)
    followed(Trace(), tmp_path / "step=8.ckpt", max_epochs=2)
    assert "follows val_loss, which was measured before the checkpoint" in caplog.text


def test_loaders_with_a_generator_of_their_own_are_put_back(tmp_path):
    def use(name: str, trace: Trace, checkpoint: Path | None) -> CreamStrategy:
        pl.seed_everything(2)
        shuffled = DataLoader(digits(256), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(3))
        saving = ModelCheckpoint(tmp_path / name, every_n_train_steps=5, **STEPS)
        settings = {**TRAINER, "enable_checkpointing": True, "callbacks": [trace, saving], "max_epochs": 3}
        use = Classification(
            num_classes=10,
            learning_rate=0.01,
            train_dataloaders=shuffled,
            val_dataloaders=DataLoader(digits(200, start=1000), batch_size=100),
            **settings,
        )
        if checkpoint is not None:
            use.fit_kwargs.update(ckpt_path=str(checkpoint), weights_only=True)
        return run(small_space(), cream(**SETTINGS), use)

    before, after = Trace(), Trace()
    whole = use("whole", before, None)
    for step in (5, 10):
        after = Trace()
        resumed = use(f"resumed_{step}", after, tmp_path / "whole" / f"step={step}.ckpt")
        assert_equal(resumed, whole, after, before)


def test_what_a_noisy_cost_function_measured_is_not_measured_again(tmp_path):
    calls: list[int] = []

    def noisy(network, inputs) -> float:
        calls.append(1)
        return float(torch.rand(())) + len(calls)

    before, after = Trace(), Trace()
    settings = {"cost": noisy}
    whole = searched(before, [ModelCheckpoint(tmp_path, every_n_train_steps=8, **STEPS)], settings=settings)
    at_checkpoint = torch.load(tmp_path / "step=16.ckpt", weights_only=True)["nni_cream"]["cost"]["known"]
    assert len(at_checkpoint) > 3
    calls[:] = [1] * len(at_checkpoint)
    resumed = searched(after, checkpoint=tmp_path / "step=16.ckpt", settings=settings)
    assert resumed.oneshot_module.cost.state_dict()["known"].items() >= at_checkpoint.items()
    assert after.seen == {step: before.seen[step] for step in after.seen}
    assert len(whole.board) == len(resumed.board)


class Failing(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == 6:
            raise RuntimeError("power failure")


def test_a_checkpoint_from_within_a_step_is_resumed_with_a_warning(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="power failure"):
        searched(Trace(), [Failing(), ModelCheckpoint(tmp_path, save_on_exception=True, **STEPS)])
    (file,) = tmp_path.glob("*.ckpt")
    searched(Trace(), checkpoint=file)
    assert "within an optimizer step, after 6 batches" in caplog.text


def test_a_checkpoint_between_accumulated_gradients_is_resumed_with_a_warning(tmp_path, caplog):
    trainer = {"accumulate_grad_batches": 3, "max_epochs": 2}
    searched(Trace(), [Saves(tmp_path, "on_train_batch_end")], **trainer)
    searched(Trace(), checkpoint=tmp_path / "step=1.ckpt", **trainer)
    assert "lacks the gradients of that step" in caplog.text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    searched(Trace(), [ModelCheckpoint(folder, filename="search")], max_epochs=1)
    return folder / "search.ckpt"


OTHER: dict[str, dict[str, Any]] = {
    "matching": {"matching": "random"},
    "cost": {"cost": "params"},
    "seed": {"seed": 7},
    "cost_range": {"cost_range": (None, 50_000)},
    "warmup": {"warmup": 0.25},
    "distillation": {"distillation": "mean_squared_error"},
    "score": {"score": lambda output, target: (output.argmax(1) == target).float()},
    "sampling": {"sampling": MutatingSampler()},
    "matching.learning_rate": {"meta_learning_rate": 0.5},
    "matching.weight": {"match_weight": 0.3},
    "scoring.interval": {"score_interval": 3},
    "scoring.rescore_interval": {"rescore_interval": None},
    "teaching.joint_loss": {"joint_loss": "add"},
    "teaching.temperature": {"temperature": 2.0},
    "teaching.start": {"distillation_start": 0.5},
    "teaching.gate": {"distillation_gate": True},
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_a_search_with_another_setting_is_refused_by_name(checkpoint, name):
    with pytest.raises(SearchError, match=f"other settings: .*{name.partition('.')[0]} was .* and is"):
        searched(Trace(), checkpoint=checkpoint, settings=OTHER[name])


def test_a_checkpoint_of_a_newer_format_is_refused_with_its_number() -> None:
    with pytest.raises(SearchError, match=r"format is 2; expected 1\. Resume with the version of nni_cream that wrote"):
        read_state({"nni_cream": {"format": 2}})


def test_all_settings_that_differ_are_named_at_once(checkpoint):
    with pytest.raises(SearchError, match=r"matching was .*Meta.* and is .*Best.*; .*seed was 2 and is 3"):
        searched(Trace(), checkpoint=checkpoint, settings={"matching": "best", "seed": 3})
