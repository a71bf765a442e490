from __future__ import annotations

from collections import Counter

import nni
import pytest
from nni.mutable import Categorical
from nni.nas.hub.pytorch import ProxylessNAS
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from nni.nas.space import model_context
from nni.nas.strategy import RandomOneShot
from scipy.stats import chisquare
from torch import nn

from nni_cream import CreamStrategy
from nni_cream.errors import ConfigError
from nni_cream.search import RandomPaths, Scoring
from nni_cream.search.paths.active_choices import Usage, count_architectures
from nni_cream.search.paths.encoded_path import path_key
from tests.search.small import SPACES, CellSpace, LayerSpace, conv, run, supernet


class DeepSpace(ModelSpace):
    """A Repeat of LayerChoices: 2 + 4 + 8 architectures, in 24 combinations of labels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 3, 4)
        self.blocks = Repeat(self._block, (1, 3), label="depth")
        self.head = nn.Linear(4, 10)

    @staticmethod
    def _block(index: int) -> nn.Module:
        return LayerChoice({"point": conv(4, 1, 4), "wide": conv(4, 3, 4)}, label=f"block_{index}")

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class NestedSpace(ModelSpace):
    """A choice inside a candidate, whose own depth has choices of its own, and one label used in two places."""

    def __init__(self) -> None:
        super().__init__()
        inner = Repeat(
            lambda index: LayerChoice([nn.Identity(), nn.ReLU()], label=f"inner_{index}"), (0, 2), label="deep"
        )
        self.outer = LayerChoice({"plain": nn.SiLU(), "nested": inner, "shared": self._twice("twice")}, label="outer")
        self.again = self._twice("twice")
        self.other = LayerChoice([nn.Identity(), nn.Sequential(self._twice("late"))], label="other")

    @staticmethod
    def _twice(label: str) -> nn.Module:
        return LayerChoice([nn.Identity(), nn.Tanh()], label=label)

    def forward(self, x):
        return self.other(self.again(self.outer(x)))


class DoubledDepth(ModelSpace):
    """A depth that is computed from a choice: 0, 2 or 4 blocks."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [LayerChoice([nn.Identity(), nn.ReLU()], label=f"block_{index}") for index in range(4)]
        self.blocks = Repeat(blocks, nni.choice("half", [0, 1, 2]) * 2)

    def forward(self, x):
        return self.blocks(x)


def frozen(space: type[ModelSpace], path) -> str:
    """What NNI itself builds of a path: the oracle for which labels matter."""
    with model_context(path):
        return str(space())


@pytest.mark.parametrize("space", [DeepSpace, NestedSpace, DoubledDepth])
def test_two_paths_are_equal_exactly_if_nni_builds_the_same_network_of_them(space):
    usage = Usage(space())
    networks: dict[str, str] = {}
    for path in _all_samples(space()):
        network, key = frozen(space, path), path_key(usage.canonical(path))
        assert networks.setdefault(key, network) == network
        assert frozen(space, usage.canonical(path)) == network
    assert len(set(networks.values())) == len(networks)


@pytest.mark.parametrize("space", [DeepSpace, NestedSpace, DoubledDepth, LayerSpace])
def test_the_number_of_architectures_is_that_of_the_networks_that_nni_builds(space):
    networks = {frozen(space, path) for path in _all_samples(space())}
    assert count_architectures(space()) == len(networks)


def _all_samples(space: ModelSpace) -> list[dict]:
    from itertools import product

    mutables = {str(label): item for label, item in space.simplify().items()}
    return [
        dict(zip(mutables, values, strict=True)) for values in product(*(item.values for item in mutables.values()))
    ]


@pytest.mark.parametrize("space", [DeepSpace, NestedSpace, DoubledDepth])
@pytest.mark.parametrize("mutated", [False, True])
def test_sampling_is_uniform_over_architectures(space, mutated):
    # By NNI alone: ours refuses a depth of 0, which could be drawn but not run.
    sampler = RandomPaths(RandomOneShot().mutate_model(space()) if mutated else space(), seed=8)
    counts = Counter(path_key(sampler.draw()) for _ in range(6000))
    assert len(counts) == count_architectures(space())
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_a_space_with_too_many_cases_is_sampled_label_by_label_and_still_canonical(monkeypatch):
    monkeypatch.setattr(Usage, "limit", 2)
    sampler, usage = RandomPaths(DeepSpace(), seed=1), Usage(DeepSpace())
    counts = Counter()
    for _ in range(3000):
        path = sampler.draw()
        assert path == usage.canonical(path)
        counts[path["depth"]] += 1
    assert chisquare(list(counts.values())).pvalue > 0.001
    assert usage.count() == 24


def test_probabilities_of_a_depth_are_kept():
    sampler = RandomPaths(DeepSpace(), seed=2, probabilities={"depth": [0.5, 0.5, 0.0]})
    counts = Counter(sampler.draw()["depth"] for _ in range(4000))
    assert chisquare([counts[1], counts[2]]).pvalue > 0.001
    assert 3 not in counts


@pytest.mark.parametrize("space", SPACES.values())
def test_a_space_without_conditions_uses_every_label(space):
    net = supernet(space())
    sampler = RandomPaths(net.space)
    usage = Usage(net.space)
    path = sampler.draw()
    assert not usage.conditional
    assert usage.canonical(path) == path
    assert usage.labels(path) == set(path)


def test_a_large_space_of_nnis_hub_is_counted_by_stage():
    # Six stages of 1 to 4 blocks of 7 operations each, and a first stage and a last block of its own kind.
    space = ProxylessNAS(num_labels=10, base_widths=(8, 8, 8, 16, 16, 16, 16, 16, 32))
    depths = [label for label in space.simplify() if str(label).endswith("depth")]
    others = [label for label in space.simplify() if "_i" in str(label)]
    alone = len(others) - 4 * len(depths)
    operations = len(space.simplify()[others[0]].values)
    per_stage = sum(operations**depth for depth in (1, 2, 3, 4))
    assert count_architectures(space) == per_stage ** len(depths) * operations**alone


def test_a_plain_mutable_has_no_unused_labels():
    assert not Usage(Categorical([1, 2], label="a")).conditional
    assert count_architectures(Categorical([1, 2], label="a")) == 2


def test_choices_inside_the_operations_of_a_cell_count_as_used():
    assert not Usage(CellSpace()).conditional


def test_no_architecture_is_on_the_board_twice():
    strategy = run(DeepSpace(), CreamStrategy(board_size=12, warmup=0, scoring=Scoring(interval=1), seed=1))
    networks = {frozen(DeepSpace, entry.path) for entry in strategy.board.entries}
    assert len(networks) == len(strategy.board) == 12


def test_a_board_larger_than_the_number_of_architectures_is_refused():
    with pytest.raises(ConfigError, match="expected at most 14"):
        CreamStrategy(board_size=15).mutate_model(DeepSpace())


def test_a_path_from_a_file_becomes_canonical():
    net = supernet(DeepSpace())
    written = {"depth": 1, "block_0": "wide", "block_1": "wide", "block_2": "wide"}
    assert net.decode(written) == {"depth": 1, "block_0": "wide", "block_1": "point", "block_2": "point"}
    assert net.freeze(net.decode(written)) is not None
