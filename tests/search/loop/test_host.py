"""Callbacks get the search's module in the place of the user's: they must not notice."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    Callback,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn
from torch.nn import functional

from nni_cream import CreamStrategy
from nni_cream.errors import SearchError
from tests.search.small import LayerSpace, cream, custom_evaluator, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are


class Own(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"width": 3, "optimizer": torch.optim.SGD})
        self.learning_rate = 0.01
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
        self.scale = 1.0

    def enlarge(self, by: float) -> float:
        self.scale *= by
        return self.scale

    def forward(self, x):
        return self.model(self.backbone(x)) * self.scale

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1], weight=getattr(self, "class_weights", None))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(filter(lambda item: item.requires_grad, self.parameters()), lr=self.learning_rate)


def search(
    module: pl.LightningModule, *callbacks: Callback, epochs: int = 2, root: Any = None, **settings: Any
) -> CreamStrategy:
    use = custom_evaluator(module, callbacks=[*callbacks], max_epochs=epochs, default_root_dir=root)
    pl.seed_everything(0)
    module.backbone[0].reset_parameters()
    return run(LayerSpace(), cream(**{"board_size": 3, "warmup": 0, "seed": 1, **settings}), use)


class Curious(Callback):
    """Reads, writes and calls whatever the user's module has."""

    def on_train_start(self, trainer, pl_module):
        self.read = pl_module.scale, pl_module.hparams.width, pl_module.backbone
        self.has = hasattr(pl_module, "scale"), hasattr(pl_module, "missing"), hasattr(pl_module, "class_weights")
        self.called = pl_module.enlarge(2.0)
        pl_module.scale = 3.0
        trainer.lightning_module.class_weights = torch.ones(10)
        pl_module.hparams.width = 4
        pl_module.backbone = nn.Sequential(*pl_module.backbone, nn.Identity())

    def on_train_epoch_end(self, trainer, pl_module):
        self.late = trainer.lightning_module.scale


def test_attributes_pass_through_to_the_users_module_in_both_directions():
    module, callback = Own(), Curious()
    backbone = module.backbone
    strategy = search(module, callback)
    assert callback.read == (1.0, 3, backbone)
    assert callback.has == (True, False, False)
    assert callback.called == 2.0
    assert module.scale == callback.late == 3.0
    assert torch.equal(module.class_weights, torch.ones(10))
    assert module.hparams.width == 4
    assert len(module.backbone) == 3
    with pytest.raises(AttributeError, match="missing"):
        _ = strategy.oneshot_module.missing


def test_a_name_that_hides_an_attribute_from_the_users_callbacks_is_told(caplog):
    module = Own()
    module.warmup = 5
    search(module, BackboneFinetuning(1))
    assert "has the attribute" not in caplog.text
    search(module, Curious())
    assert "Own has the attribute warmup, which the search has, too" in caplog.text


def test_the_parts_of_the_search_stay_its_own():
    module = Own()
    module.predictor = layer = nn.Linear(1, 1)  # the search has a part of this name
    strategy = search(module)
    own = {"costs", "scorer", "distiller", "paths", "proposals", "supernet", "average", "statistics", "board"}
    assert not own & (vars(module).keys() | module._modules.keys())
    # The final validation copies the user's module for each entry of the board, with all that it holds.
    assert not [name for name, value in vars(module).items() if type(value).__module__.startswith("nni_cream")]
    assert module.predictor is layer
    assert all(name in vars(strategy.oneshot_module) for name in {*own, "predictor"})


def test_backbone_finetuning_freezes_and_frees_the_users_backbone():
    module = Own()
    first: list[torch.Tensor] = []

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            first.append(module.backbone[0].weight.detach().clone())

    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, initial_denom_lr=1.0)
    strategy = search(module, finetuning, Watch(), epochs=3, ema_decay=0.9)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    averages = strategy.oneshot_module.average.averages()
    moved = [name for name, value in module.named_parameters() if name.startswith("backbone") and name in averages]
    assert moved == ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]
    average = averages["backbone.0.weight"]
    assert not any(torch.equal(average, weight) for weight in (first[0], module.backbone[0].weight))


class Steps(Callback):
    """The weights before the first step, the path and the size of the board of every step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.weights = [weight.clone() for weight in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((pl_module._path, len(pl_module.board)))


@pytest.mark.parametrize("apply", [False, True])
def test_the_learning_rate_finder_leaves_a_fresh_search_but_for_the_rate(tmp_path, apply):
    module, plain, after = Own(), Steps(), Steps()
    search(Own(), plain)
    finder = LearningRateFinder(num_training_steps=15, update_attr=apply, early_stop_threshold=None)
    found = search(module, finder, after, root=str(tmp_path))
    assert found.oneshot_module.steps == 16
    assert (module.learning_rate != 0.01) is apply
    # Lightning draws other images, but nothing else is left of the trial.
    assert after.seen == plain.seen
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after.weights, plain.weights, strict=True))


def test_stochastic_weight_averaging_is_refused_beside_the_searchs_own_average():
    with pytest.raises(SearchError, match=r"ema_decay is 0\.99, but .* StochasticWeightAveraging"):
        search(Own(), StochasticWeightAveraging(0.01))


def test_stochastic_weight_averaging_gives_the_supernet_its_mean_weights():
    module, weights = Own(), []

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            weights.append(pl_module.head_weight().clone())

    module.head_weight = lambda: module.model.head.weight.detach()
    settings = {"ema_decay": None, "teacher_weights": "current"}
    strategy = search(module, Watch(), StochasticWeightAveraging(0.01, swa_epoch_start=1), epochs=3, **settings)
    # Lightning averages the weights with which the epochs begin, then estimates BatchNorm's statistics in one more.
    torch.testing.assert_close(strategy.supernet.head.weight.detach(), torch.stack(weights[:3]).mean(0))
    assert strategy.board.full


def test_a_checkpoint_holds_no_classes_of_the_users_hyperparameters(tmp_path):
    callbacks = [ModelCheckpoint(tmp_path, filename="last")]
    run(LayerSpace(), cream(board_size=3), custom_evaluator(Own(), callbacks=callbacks, enable_checkpointing=True))
    assert "nni_cream" in torch.load(tmp_path / "last.ckpt", weights_only=True)
