"""What the module hands to its parts: the right path, the right images, the right step size (B1 of the review)."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import TensorDataset

from nni_cream import CreamStrategy
from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.search.teaching.matchers import MetaMatcher
from tests.search.small import AS_PUBLISHED, TRAINER, LayerSpace, cream, digits, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

BOARD: dict[str, Any] = {**AS_PUBLISHED, "board_size": 3, "warmup": 0}
LEARNING_RATE = 0.05


class Plain(LightningModule):
    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


def doubles(count: int, start: int) -> TensorDataset:
    images, labels = digits(count, start=start)[:]
    return TensorDataset(images.double(), labels)


def parted_evaluator(**trainer: Any) -> Lightning:
    """Training and validation images that have nothing in common, in float64."""
    return Lightning(
        Plain(),
        Trainer(**{"max_epochs": 2, "num_sanity_val_steps": 0, **TRAINER, **trainer}),
        train_dataloaders=DataLoader(doubles(128, start=0), batch_size=32, shuffle=True),
        val_dataloaders=DataLoader(doubles(96, start=1000), batch_size=48),
    )


class WithoutDropout(LayerSpace):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Identity()
        self.double()


def search(strategy: CreamStrategy, *callbacks: Callback, **trainer: Any) -> CreamStrategy:
    pl.seed_everything(4)
    return run(WithoutDropout(), strategy, parted_evaluator(callbacks=list(callbacks), **trainer))


class Before(Callback):
    """Keeps the weights and the batch that a step starts with."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.batch = batch
        self.weights = {name: value.clone() for name, value in module.supernet.space.state_dict().items()}


def frozen_with(module, path, weights: dict[str, Tensor]) -> nn.Module:
    """The network of a path with given supernet weights, as NNI freezes it: batch statistics, as in scoring."""
    space = module.supernet.space
    now = {name: value.clone() for name, value in space.state_dict().items()}
    space.load_state_dict(weights)
    network = module.supernet.freeze(path).train()
    space.load_state_dict(now)
    return network


def test_the_teacher_is_the_frozen_network_of_the_matched_entry_on_the_same_images():
    taught: list[tuple[Tensor, Tensor]] = []
    differences: list[float] = []

    def spying(student: Tensor, teacher: Tensor) -> Tensor:
        taught.append((student.detach(), teacher))
        return soft_cross_entropy(student, teacher)

    class Compare(Before):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            if module._match is None:
                return
            student, teacher = taught[-1]
            expected = frozen_with(module, module._match.entry.path, self.weights)(batch[0])
            torch.testing.assert_close(teacher, expected, atol=1e-12, rtol=1e-10)
            assert not teacher.requires_grad
            differences.append(float((student - teacher).abs().max()))

    search(cream(**BOARD, matching="random", distillation=spying, score_interval=1), Compare())
    assert len(differences) > 4
    assert max(differences) > 0.01


@pytest.mark.parametrize("confidence", [-3.0, 3.0])
def test_the_joint_loss_weighs_with_the_rho_of_the_meta_network(confidence):
    compared: list[float] = []

    class Confident(Before):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            if isinstance(module.matcher, MetaMatcher) and module.matcher._network is not None:
                nn.init.constant_(module.matcher._network.bias, confidence)
                nn.init.zeros_(module.matcher._network.weight)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            match = module._match
            if match is None or abs(match.weight - 0.5) < 0.4:
                return
            rho = float(torch.sigmoid(torch.tensor(confidence)))
            assert match.weight == pytest.approx(rho)
            teacher = frozen_with(module, match.entry.path, self.weights)(batch[0])
            student = frozen_with(module, module._path, self.weights)(batch[0])
            ce = functional.cross_entropy(student, batch[1])
            kd = functional.cross_entropy(student, teacher.softmax(1))
            assert float(outputs["loss"]) == pytest.approx(float((rho * kd + (2 - rho) * ce) / 2), rel=1e-6)
            compared.append(rho)

    search(cream(**BOARD, matching="meta", meta_interval=1000), Confident())
    assert len(compared) > 3


def unrolled(module, path, teacher: Tensor, rho: Tensor, train, validation, step_size: float) -> Tensor:
    """Differentiate through the virtual step itself: torch's own double back-propagation."""
    net = module.supernet
    parameters = dict(net.space.named_parameters())
    net.activate(path)
    with net.detached(grad=True):
        logits = functional_call(net.space, parameters, (train[0],))
        loss = rho * soft_cross_entropy(logits, teacher) + (2 - rho) * functional.cross_entropy(logits, train[1])
        gradients = torch.autograd.grad(loss / 2, list(parameters.values()), create_graph=True, allow_unused=True)
        moved = {
            name: value if gradient is None else value - step_size * gradient
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }
        outer = functional.cross_entropy(functional_call(net.space, moved, (validation[0],)), validation[1])
        return torch.autograd.grad(outer, rho)[0]


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_meta_network_learns_from_the_unrolled_gradient_on_unseen_images(monkeypatch):
    updates: list[tuple[float, float]] = []
    validated: list[Tensor] = []
    trained: set[bytes] = set()

    class Check(Before):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            trained.update(rows(batch[0]))
            self.module = module

    check = Check()
    update = MetaMatcher.update

    def checked(matcher: MetaMatcher, match, gradient: float) -> None:
        module = check.module
        validation = validation_of(module)
        with module.supernet.detached():
            module.supernet.activate(match.entry.path)
            teacher = module.supernet.space(check.batch[0])
        rho = torch.tensor(match.weight, dtype=torch.float64, requires_grad=True)
        oracle = unrolled(module, module._path, teacher, rho, check.batch, validation, LEARNING_RATE)
        updates.append((gradient, float(oracle)))
        validated.append(validation[0])
        update(matcher, match, gradient)

    monkeypatch.setattr(MetaMatcher, "update", checked)
    monkeypatch.setattr("nni_cream.search.loop.setup._MOST_SCORED", 32)
    strategy = cream(**BOARD, meta_interval=2, score_images=96)
    search(strategy, check)
    assert len(updates) >= 3
    for ours, theirs in updates:
        assert ours == pytest.approx(theirs, rel=1e-10)
        assert abs(theirs) > 1e-12
    held_out = rows(doubles(96, start=1000)[:][0])
    for images in validated:
        assert rows(images) <= held_out
        assert not rows(images) & trained
    assert len({images.numpy().tobytes() for images in validated}) > 1, "every chunk has its turn"


def validation_of(module) -> list[Tensor]:
    """The chunk of this update, by the rule that is documented: the chunks in turn."""
    chunks = module.scorer.subset.chunks
    return list(chunks[(module._step // module.matcher.interval) % len(chunks)])


def test_picks_after_a_rescore_use_the_weights_of_that_moment():
    compared: list[int] = []

    class Fresh(Callback):
        def on_train_epoch_start(self, trainer, module) -> None:
            if not len(module.board):
                return
            probe = module.scorer.subset.probe(module.matcher.probe_images)
            student = module.board.entries[-1].path
            match = module.matcher.pick(student, module.board.entries)
            with torch.no_grad():
                outputs = [
                    module.supernet.freeze(path).train()(probe).softmax(1).float()
                    for path in (student, match.entry.path)
                ]
            torch.testing.assert_close(match.evidence, (outputs[0] - outputs[1]).flatten(), atol=1e-6, rtol=1e-4)
            compared.append(len(module.matcher._known))
            module.matcher.forget()  # a look must not change what the search does next

    class Moving(Plain):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    pl.seed_everything(4)
    use = parted_evaluator(callbacks=[Fresh()], max_epochs=4)
    use.module = Moving()
    strategy = cream(board_size=3, warmup=0, meta_interval=1000, score_interval=1000)
    run(WithoutDropout(), strategy, use)
    assert len(compared) == 3
