from __future__ import annotations

import json
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.mutable import Categorical, CategoricalMultiple, ExpressionConstraint, MutableList
from scipy.stats import binomtest, chisquare

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search import BoardEntry, PrioritizedBoard, RandomPaths
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.sampling.samplers import BoardSampler, FairSampler, make_sampler
from tests.search.paths.test_cost_table import DeepSpace
from tests.search.small import SPACES, LayerSpace

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**32)


def space_of(sizes) -> MutableList:
    return MutableList([Categorical(list(range(size)), label=f"choice_{index}") for index, size in enumerate(sizes)])


def sums(sizes) -> CostTable:
    """The costs of ``total`` as a table."""
    return CostTable(
        0.0, {f"choice_{index}": {value: float(value) for value in range(size)} for index, size in enumerate(sizes)}
    )


def total(path) -> float:
    return float(sum(path.values()))


# Strict fairness ------------------------------------------------------------------------------------------------------


@given(SIZES, SEEDS, st.integers(1, 4))
def test_after_each_round_every_value_of_the_largest_choice_was_drawn_equally_often(sizes, seed, rounds):
    sampler = FairSampler(space_of(sizes), seed)
    largest = max(sizes)
    counts: list[Counter[int]] = [Counter() for _ in sizes]
    for done in range(1, rounds + 1):
        for path in [sampler.draw() for _ in range(largest)]:
            for count, value in zip(counts, path.values(), strict=True):
                count[value] += 1
        for size, count in zip(sizes, counts, strict=True):
            if size == largest:
                assert count == dict.fromkeys(range(size), done)


@given(SIZES, SEEDS, st.integers(1, 40))
def test_at_any_moment_no_value_is_more_than_one_draw_ahead_of_another(sizes, seed, draws):
    sampler = FairSampler(space_of(sizes), seed)
    paths = [sampler.draw() for _ in range(draws)]
    for index, size in enumerate(sizes):
        count = Counter(path[f"choice_{index}"] for path in paths)
        times = [count[value] for value in range(size)]
        assert max(times) - min(times) <= 1


def test_which_values_come_together_is_left_to_chance():
    sampler = FairSampler(space_of([3, 3]), seed=1)
    counts = Counter(path_key(sampler.draw()) for _ in range(9000))
    assert len(counts) == 9
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_paths_name_their_choices_in_the_order_of_the_space():
    space = space_of([2, 4, 3])
    assert list(FairSampler(space).draw()) == list(RandomPaths(space).draw())


def test_a_choice_of_one_of_several_is_drawn_as_the_uniform_sampler_draws_it():
    space = MutableList([CategoricalMultiple(["x", "y"], n_chosen=1, label="inputs")])
    known = {tuple(RandomPaths(space, seed).draw()["inputs"]) for seed in range(20)}
    sampler = FairSampler(space)
    assert {tuple(sampler.draw()["inputs"]) for _ in range(2)} == known == {("x",), ("y",)}


@pytest.mark.parametrize("kind", [FairSampler, BoardSampler])
def test_same_seed_same_sequence_and_another_seed_another(kind):
    def sequence(seed: int) -> list[str]:
        sampler = kind(space_of([4, 3, 4]), seed)
        return [path_key(sampler.draw()) for _ in range(20)]

    assert sequence(1) == sequence(1) != sequence(2)


@given(SIZES, SEEDS, st.integers(0, 15))
def test_a_restored_fair_sampler_goes_on_within_the_saved_ones_round(sizes, seed, draws):
    saved, restored = FairSampler(space_of(sizes), seed), FairSampler(space_of(sizes), seed + 1)
    for _ in range(draws):
        saved.draw()
    state = saved.state_dict()
    plain = json.loads(json.dumps(state))
    expected = [saved.draw() for _ in range(12)]
    assert json.loads(json.dumps(state)) == plain  # later draws do not reach into what was saved
    restored.load_state_dict(plain)
    assert [restored.draw() for _ in range(12)] == expected


@pytest.mark.parametrize("kind", [FairSampler, BoardSampler])
def test_the_state_of_a_sampler_of_a_real_space_is_read_where_only_plain_values_are_trusted(tmp_path, kind):
    sampler = kind(LayerSpace())
    sampler.draw()
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    other = kind(LayerSpace(), seed=1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [sampler.draw() for _ in range(10)] == [other.draw() for _ in range(10)]


def test_a_fair_round_keeps_a_range_to_both_sides_of_the_mean_cost():
    sampler = FairSampler(space_of([3, 3]), seed=2, cost_range=(1, 3))  # the mean is 2; 0 and 4 are left out
    sampler.constrain(total)
    paths = [sampler.draw() for _ in range(300)]
    assert all(1 <= total(path) <= 3 for path in paths)
    assert Counter(path["choice_0"] for path in paths) == Counter(path["choice_1"] for path in paths)
    assert Counter(path["choice_0"] for path in paths) == dict.fromkeys(range(3), 100)


def test_the_draws_that_a_fair_round_threw_away_are_counted_once():
    space = space_of([2, 2])
    sampler = FairSampler(space, seed=3, cost_range=(1, 1))  # (0, 1) and (1, 0): half of the rounds
    sampler.constrain(total)
    thrown_away = []
    for _ in range(500):
        first = (sampler.draw(), sampler.rejected)[1]
        second = (sampler.draw(), sampler.rejected)[1]
        assert second == 0
        assert first % 2 == 0
        thrown_away.append(first // 2)
    # Of a geometric distribution with p = 1/2: none are thrown away half of the time.
    assert binomtest(thrown_away.count(0), 500, 0.5).pvalue > 0.001


def test_a_range_on_one_side_of_the_mean_cost_cannot_be_fair():
    sampler = FairSampler(space_of([3, 3]), cost_range=(None, 1))
    sampler.constrain(total)
    sampler.attempts = 50
    with pytest.raises(SpaceError, match=r"'fair', but none of 50 rounds of 3 paths .* cost_range \(None, 1\)"):
        sampler.draw()


def test_a_range_that_was_kept_once_is_kept_however_many_rounds_it_takes():
    sampler = FairSampler(space_of([4, 4, 4]), seed=3, cost_range=(3, 6))
    sampler.constrain(total)
    sampler.attempts = 1_000
    sampler.draw()
    sampler.attempts = 1
    restored = FairSampler(space_of([4, 4, 4]), seed=9, cost_range=(3, 6))
    restored.constrain(total)
    restored.attempts = 1
    restored.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    for fair in (sampler, restored):
        assert all(3 <= total(fair.draw()) <= 6 for _ in range(200))


def constrained() -> MutableList:
    a, b = Categorical([1, 2, 3], label="a"), Categorical([1, 2, 3], label="b")
    return MutableList([a, b, ExpressionConstraint(a + b == 4, label="rule")])


UNFAIR = {
    "it has constraints between its choices": constrained,
    "not every path uses": DeepSpace,
    "'inputs' chooses several of its values at once": lambda: MutableList(
        [CategoricalMultiple([0, 1, 2], n_chosen=2, label="inputs")]
    ),
    "probabilities of their own": lambda: MutableList([Categorical([1, 2], weights=[0.9, 0.1], label="a")]),
}


@pytest.mark.parametrize("problem", UNFAIR)
def test_a_space_that_cannot_use_each_value_equally_often_is_refused(problem):
    with pytest.raises(SpaceError, match=f"sampling is 'fair', but .*{problem}.*; use 'uniform'"):
        FairSampler(UNFAIR[problem]())


# Near the board -------------------------------------------------------------------------------------------------------


def board_of(*paths: dict[str, Any]) -> PrioritizedBoard:
    board = PrioritizedBoard(len(paths))
    for step, path in enumerate(paths):
        board.offer(BoardEntry(path, 0.5, 1.0, step))
    return board


WIDE = [10] * 6
NEAR = {f"choice_{index}": 7 for index in range(6)}


def differences(path, entry) -> int:
    return sum(path[label] != entry[label] for label in entry)


def test_with_an_empty_board_paths_are_those_of_the_uniform_sampler():
    board, uniform = BoardSampler(space_of(WIDE), 5, board=PrioritizedBoard(3)), RandomPaths(space_of(WIDE), 5)
    assert [board.draw() for _ in range(30)] == [uniform.draw() for _ in range(30)]


def test_half_of_the_draws_are_mutations_of_an_entry():
    sampler = BoardSampler(space_of(WIDE), seed=1, board=board_of(NEAR))
    draws = [differences(sampler.draw(), NEAR) for _ in range(2000)]
    # Uniform paths differ from it in 5.4 choices of 6 on average, and in less than 3 once in 800; mutations in 1 or so.
    assert binomtest(sum(count < 3 for count in draws), 2000, 0.5 * (1 + 0.00127) * 0.94).pvalue > 0.0001


def test_mutations_redraw_each_choice_alike_and_at_least_one():
    sampler = BoardSampler(space_of([1000] * 4), seed=2, board=board_of({f"choice_{index}": 0 for index in range(4)}))
    sampler.share = 1.0
    counts: Counter[str] = Counter()
    numbers: Counter[int] = Counter()
    for _ in range(4000):
        changed = [label for label, value in sampler.draw().items() if value != 0]
        counts.update(changed)
        numbers[len(changed)] += 1
    assert chisquare([counts[f"choice_{index}"] for index in range(4)]).pvalue > 0.001
    # Binomial(4, 1/4) with the case of none counted as one; a redrawn value is the old one in a thousandth of cases.
    expected = [(81 + 108) / 256, 54 / 256, 12 / 256, 1 / 256]
    observed = [numbers[number] for number in (1, 2, 3, 4)]
    assert chisquare(observed, [share * sum(observed) for share in expected]).pvalue > 0.001


def test_every_entry_is_mutated_equally_often():
    entries = [{f"choice_{index}": value for index in range(6)} for value in (1, 4, 8)]
    sampler = BoardSampler(space_of(WIDE), seed=3, board=board_of(*entries))
    sampler.share = 1.0
    paths = [sampler.draw() for _ in range(1500)]
    nearest = Counter(min(range(3), key=lambda index: differences(path, entries[index])) for path in paths)
    assert chisquare([nearest[index] for index in range(3)]).pvalue > 0.001


def test_the_sampler_sees_who_is_on_the_board_now():
    board = board_of(NEAR)
    sampler = BoardSampler(space_of(WIDE), seed=4, board=board)
    sampler.share = 1.0
    sampler.draw()
    other = dict.fromkeys(NEAR, 2)
    board.offer(BoardEntry(other, 0.9, 1.0, 9))
    assert board.best.path == other
    assert all(differences(sampler.draw(), other) < differences(NEAR, other) for _ in range(50))


@pytest.mark.parametrize("table", [sums(WIDE), None])
def test_mutations_and_other_paths_keep_the_range(table):
    sampler = BoardSampler(space_of(WIDE), seed=5, cost_range=(38, 43), board=board_of(NEAR))  # which costs 42
    sampler.constrain(total, table=table)
    paths = [sampler.draw() for _ in range(300)]
    assert all(38 <= total(path) <= 43 for path in paths)
    assert sum(differences(path, NEAR) < 3 for path in paths) > 100


def test_entries_far_from_the_range_are_given_up_for_a_uniform_path_and_counted():
    sampler = BoardSampler(space_of([10, 10]), cost_range=(None, 0), board=board_of({"choice_0": 9, "choice_1": 9}))
    sampler.constrain(total, table=sums([10, 10]))
    sampler.mutations = 3
    for _ in range(20):
        assert sampler.draw() == {"choice_0": 0, "choice_1": 0}
        assert sampler.rejected in (0, 1, 2, 3)
    sampler.share, sampler.mutations = 1.0, 0
    assert sampler.draw() == {"choice_0": 0, "choice_1": 0}


def test_mutations_keep_the_constraints_of_the_space():
    sampler = BoardSampler(constrained(), seed=6, board=board_of({"a": 2, "b": 2}))
    assert {(path["a"], path["b"]) for path in (sampler.draw() for _ in range(200))} == {(1, 3), (2, 2), (3, 1)}


@pytest.mark.parametrize("kind", [*SPACES.values(), DeepSpace])
def test_mutations_are_paths_that_the_uniform_sampler_could_have_drawn(kind):
    space = kind()
    uniform = RandomPaths(space, seed=7)
    sampler = BoardSampler(space, seed=7, board=board_of(*[uniform.draw() for _ in range(4)]))
    sampler.share = 1.0
    for path in (sampler.draw() for _ in range(100)):
        assert list(path) == list(uniform.first())
        assert path == uniform._usage.canonical(path)
        assert all(mutable.check_contains(path) is None for mutable in space.simplify().values())


def test_a_deeper_mutation_draws_the_choices_that_come_into_use():
    space = DeepSpace()
    uniform = RandomPaths(space, seed=8)
    shallow = next(path for path in iter(uniform.draw, None) if path["depth"] == 1)
    sampler = BoardSampler(space, seed=8, board=board_of(shallow))
    sampler.share = 1.0
    assert {sampler.draw()["depth"] for _ in range(200)} == {1, 2, 3}


def test_a_restored_board_sampler_goes_on_where_the_saved_one_stood():
    saved, restored = (BoardSampler(space_of(WIDE), seed, board=board_of(NEAR)) for seed in (1, 2))
    for _ in range(7):
        saved.draw()
    restored.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    assert [saved.draw() for _ in range(20)] == [restored.draw() for _ in range(20)]


# By name --------------------------------------------------------------------------------------------------------------


def test_samplers_are_made_by_their_names():
    kinds = {name: type(make_sampler(name, space_of([2]))) for name in ("uniform", "fair", "board")}
    assert kinds == {"uniform": RandomPaths, "fair": FairSampler, "board": BoardSampler}
    with pytest.raises(ConfigError, match="sampling is 'evolution'; expected one of uniform, fair, board"):
        make_sampler("evolution", space_of([2]))


@given(SIZES, SEEDS)
def test_both_samplers_draw_every_choice_from_its_values(sizes, seed):
    every = set(product(*map(range, sizes)))
    near = board_of(RandomPaths(space_of(sizes)).first())
    for sampler in (FairSampler(space_of(sizes), seed), BoardSampler(space_of(sizes), seed, board=near)):
        assert all(tuple(sampler.draw().values()) in every for _ in range(10))
