from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn

from nni_cream import CreamStrategy
from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.teaching.weight_average import WeightAverage
from tests.search.small import AS_PUBLISHED, LayerSpace, cream, evaluator, run

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SETTINGS = {**AS_PUBLISHED, "board_size": 4, "meta_interval": 3, "score_interval": 2, "warmup": 0, "seed": 2}


def averages(strategy: CreamStrategy) -> dict[str, torch.Tensor]:
    return strategy.oneshot_module.average.averages()


def searched(
    callbacks: tuple[Callback, ...] = (), decay: float | None = 0.8, teacher: str = "current", **trainer
) -> CreamStrategy:
    pl.seed_everything(2)
    use = evaluator(**{"callbacks": list(callbacks), **trainer})
    settings = {**SETTINGS, "teacher_weights": teacher}
    return run(LayerSpace(), cream(**{**settings, "ema_decay": decay}), use)


class Weights(Callback):
    """All weights before the first step and after each optimizer step, in float64."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.steps = 0

    def on_train_start(self, trainer, module) -> None:
        self._note(module)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self._note(module)

    def _note(self, module) -> None:
        named = module.training_module.named_parameters()
        self.seen.append({name: parameter.detach().double().clone() for name, parameter in named})


def weighted_sum(seen: list[torch.Tensor], decay: float) -> torch.Tensor:
    """The average written out: each step's weights times their share, which all decays since then have made smaller."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(len(seen) - 1)]
    shares = [1.0] + [1 - d for d in decays]
    for index in range(len(seen)):
        for later in decays[index:]:
            shares[index] *= later
    assert sum(shares) == pytest.approx(1)
    return sum(share * weights for share, weights in zip(shares, seen, strict=True))


@pytest.mark.parametrize("teacher", ["current", "average"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_average_is_that_of_the_weights_after_every_optimizer_step(accumulated, teacher):
    weights = Weights()
    strategy = searched((weights,), teacher=teacher, accumulate_grad_batches=accumulated)
    assert len(weights.seen) == 1 + (16 if accumulated == 1 else 6)
    for name, average in averages(strategy).items():
        expected = weighted_sum([step[name] for step in weights.seen], 0.8)
        torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=1e-5)


def test_the_average_has_no_effect_on_the_search():
    with_average, without = searched(), searched(decay=None)
    theirs = without.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in with_average.supernet.state_dict().items())
    assert with_average.board.to_json() == without.board.to_json()
    assert without.oneshot_module.average is None


def test_a_search_resumed_within_an_epoch_has_the_average_of_the_uninterrupted_one(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=5, filename="{step}", save_top_k=-1)
    whole = searched((saving,), max_epochs=3, enable_checkpointing=True)
    pl.seed_everything(9)
    use = evaluator(max_epochs=3)
    use.fit_kwargs.update(ckpt_path=str(tmp_path / "step=5.ckpt"), weights_only=True)
    resumed = run(LayerSpace(), cream(**{**SETTINGS, "ema_decay": 0.8}), use)
    assert all(torch.equal(value, averages(whole)[name]) for name, value in averages(resumed).items())
    assert resumed.oneshot_module.average.updates == whole.oneshot_module.average.updates == 24


def test_a_step_brings_the_averages_of_the_weights_with_gradients_up_to_date_and_no_others():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    average = WeightAverage(module, 0.9)
    written = {name: value._version for name, value in average._averages.items()}
    with torch.no_grad():
        module[1].weight.fill_(1)
    for _ in range(3):
        average.update()
    module[0].weight.grad = torch.zeros_like(module[0].weight)
    average.before_step()
    moved = {name for name, value in average._averages.items() if value._version != written[name]}
    assert moved == {"0.weight"}
    torch.testing.assert_close(average._averages["0.weight"], module[0].weight.detach())
    kept = 0.1 * (2 / 11) * (3 / 12)  # the decays of the first three steps
    before = average.state_dict()["averages"]["1.weight"].clone()
    torch.testing.assert_close(average.averages()["1.weight"], kept * before + (1 - kept))


def test_averages_of_a_checkpoint_that_does_not_say_how_far_they_go_are_up_to_date():
    module = nn.Linear(3, 2)
    average = WeightAverage(module, 0.9)
    state = {"updates": 7, "averages": {name: value + 1 for name, value in average.averages().items()}}
    average.load_state_dict(state)
    torch.testing.assert_close(average.averages()["weight"], module.weight.detach() + 1)
    average.update()
    torch.testing.assert_close(average.averages()["weight"], module.weight.detach() + 8 / 17)


def test_inside_the_module_has_the_averages_and_afterwards_its_own_bits():
    module = nn.Linear(3, 2)
    average = WeightAverage(module, 0.5)
    first = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    own = module.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.weight, first)
    assert torch.equal(module.weight, own)
    assert isinstance(module.weight, nn.Parameter)


def test_only_the_parameters_that_are_named_are_exchanged():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    own = [parameter.detach().clone() for parameter in module.parameters()]
    places = [parameter.data_ptr() for parameter in module.parameters()]
    stranger = nn.Parameter(torch.ones(1))
    with average.applied([module[0].weight, module[0].weight, stranger]):
        torch.testing.assert_close(module[0].weight, own[0] - 1)
        assert all(map(torch.equal, list(module.parameters())[1:], own[1:]))
        assert float(stranger) == 1
    assert all(map(torch.equal, module.parameters(), own))
    assert [parameter.data_ptr() for parameter in module.parameters()] == places


def test_own_weights_are_back_when_what_runs_inside_fails():
    module = nn.Linear(3, 2)
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        module.weight.add_(1)
    own = module.weight.detach().clone()
    with pytest.raises(RuntimeError, match="boom"), average.applied([module.weight]):
        raise RuntimeError("boom")
    assert torch.equal(module.weight, own)


def test_a_backward_pass_from_before_the_exchange_has_the_weights_of_then():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    expected = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    average = WeightAverage(module, 0.5)
    for value in average._averages.values():
        value.zero_()
    loss = module(x).square().sum()
    with average.applied(module.parameters()):
        assert float(module(x).abs().sum()) == 0
    assert all(map(torch.equal, torch.autograd.grad(loss, list(module.parameters())), expected))


def test_weights_of_sixteen_bits_are_averaged_in_thirty_two():
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = WeightAverage(module, 0.9998)
    average.updates = 10**6
    with torch.no_grad():
        module.weight.fill_(2.0)
    average.update()
    assert float(average.averages()["weight"]) == pytest.approx(1.0002, abs=1e-6)
    with average.applied():
        assert module.weight.dtype is torch.bfloat16


def test_averages_of_another_module_are_refused():
    state = WeightAverage(nn.Linear(3, 2), 0.5).state_dict()
    with pytest.raises(SearchError, match="do not fit: weight; expected those of this space"):
        WeightAverage(nn.Linear(4, 2), 0.5).load_state_dict(state)


@pytest.mark.parametrize("decay", [0, 1, 1.5, True, "0.9"])
def test_a_decay_out_of_its_range_is_refused(decay):
    with pytest.raises(ConfigError, match=r"ema_decay is .*; expected a number above 0 and below 1"):
        cream(ema_decay=decay)
