from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nni.mutable import Categorical, CategoricalMultiple, ExpressionConstraint, MutableList
from scipy.stats import chisquare

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.paths.cost_limits import check_cost_range
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.paths.path_counts import PathCounts
from nni_cream.search.paths.random_paths import RandomPaths

SPACE = MutableList([Categorical([1, 2, 3], label="a"), Categorical([10, 20, 30], label="b")])


def cost(path) -> float:
    return float(path["a"] + path["b"])


def frequencies(sampler: RandomPaths, draws: int) -> Counter[str]:
    return Counter(path_key(sampler.draw()) for _ in range(draws))


def test_sampling_is_uniform_over_the_space():
    counts = frequencies(RandomPaths(SPACE, seed=3), 9000)
    assert len(counts) == 9
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_sampling_is_uniform_within_the_cost_range():
    sampler = RandomPaths(SPACE, seed=4, cost_range=(12, 22))
    sampler.constrain(cost)
    counts = frequencies(sampler, 8000)
    inside = [path_key({"a": a, "b": b}) for a, b in product([1, 2, 3], [10, 20, 30]) if 12 <= a + b <= 22]
    assert set(counts) == set(inside)
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_sampling_follows_the_given_probabilities():
    sampler = RandomPaths(SPACE, seed=5, probabilities={"a": [0.7, 0.3, 0.0]})
    counts = Counter(sampler.draw()["a"] for _ in range(5000))
    assert 3 not in counts
    assert chisquare([counts[1], counts[2]], [3500, 1500]).pvalue > 0.001


def test_several_of_a_choice_are_drawn_uniformly_in_order():
    space = MutableList([CategoricalMultiple([0, 1, 2, 3], n_chosen=2, label="inputs")])
    sampler = RandomPaths(space, seed=6)
    counts = Counter(tuple(sampler.draw()["inputs"]) for _ in range(6000))
    assert set(counts) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_any_number_of_a_choice_gives_every_subset():
    space = MutableList([CategoricalMultiple([0, 1, 2], label="inputs")])
    sampler = RandomPaths(space, seed=7)
    counts = Counter(tuple(sampler.draw()["inputs"]) for _ in range(8000))
    assert len(counts) == 8
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_constraints_of_the_space_are_kept():
    a, b = Categorical([1, 2, 3], label="a"), Categorical([1, 2, 3], label="b")
    sampler = RandomPaths(MutableList([a, b, ExpressionConstraint(a + b == 4, label="rule")]))
    assert {tuple(sampler.draw().values()) for _ in range(100)} == {(1, 3), (2, 2), (3, 1)}


def test_constraints_that_nothing_keeps_are_an_error():
    a = Categorical([1, 2], label="a")
    sampler = RandomPaths(MutableList([a, ExpressionConstraint(a == 5, label="rule")]))
    with pytest.raises(SpaceError, match="constraints"):
        sampler.draw()


def test_same_seed_same_sequence_and_another_seed_another():
    first, second, third = RandomPaths(SPACE, 1), RandomPaths(SPACE, 1), RandomPaths(SPACE, 2)
    sequence = [first.draw() for _ in range(20)]
    assert sequence == [second.draw() for _ in range(20)]
    assert sequence != [third.draw() for _ in range(20)]


def test_a_restored_sampler_goes_on_where_the_saved_one_stood():
    sampler = RandomPaths(SPACE, 1)
    sampler.draw()
    other = RandomPaths(SPACE, 99)
    other.load_state_dict(sampler.state_dict())
    assert [sampler.draw() for _ in range(10)] == [other.draw() for _ in range(10)]


def test_asking_for_the_first_path_draws_nothing():
    asked, other = RandomPaths(SPACE, 1), RandomPaths(SPACE, 1)
    assert asked.first() == {"a": 1, "b": 10}
    assert [asked.draw() for _ in range(5)] == [other.draw() for _ in range(5)]


TABLE = CostTable(0.0, {"a": {1: 1.0, 2: 2.0, 3: 3.0}, "b": {10: 10.0, 20: 20.0, 30: 30.0}})


@pytest.mark.parametrize("table", [TABLE, None])
@pytest.mark.parametrize("cost_range", [(100, 200), (None, 5), (14, 20)])
def test_a_range_without_a_path_is_refused_before_the_first_draw(table, cost_range):
    sampler = RandomPaths(SPACE, cost_range=cost_range)
    with pytest.raises(SpaceError, match=r"no path was found; expected a range within 11 to 33"):
        sampler.constrain(cost, table=table)


@pytest.mark.parametrize("table", [TABLE, None])
@pytest.mark.parametrize("cost_range", [(33, None), (None, 11), (21, 21)])
def test_a_range_that_holds_a_single_path_gives_that_path(table, cost_range):
    sampler = RandomPaths(SPACE, cost_range=cost_range)
    sampler.constrain(cost, table=table)
    paths = {path_key(sampler.draw()) for _ in range(20)}
    assert len(paths) == 1
    assert all(low is None or low <= cost(sampler.draw()) for low in cost_range[:1])


def test_without_a_table_costs_that_happened_to_be_seen_are_no_limits():
    sampler = RandomPaths(SPACE, cost_range=(None, 11))
    sampler.constrain(cost, reachable=(12, 33))
    assert sampler.draw() == {"a": 1, "b": 10}


def test_a_range_that_is_hit_once_in_a_while_never_ends_the_search_in_the_middle(monkeypatch):
    space = MutableList([Categorical(list(range(100)), label=name) for name in "ab"])
    sampler = RandomPaths(space, seed=1, cost_range=(None, 0))
    sampler.constrain(lambda path: float(path["a"] + path["b"]))
    monkeypatch.setattr(sampler, "attempts", 10)
    assert [sampler.draw() for _ in range(3)] == [{"a": 0, "b": 0}] * 3


@pytest.mark.parametrize("table", [TABLE, None])
def test_checking_the_range_uses_up_nothing_of_the_sequence(table):
    def sequence(checks: int) -> list:
        sampler = RandomPaths(SPACE, seed=3, cost_range=(12, 22))
        for _ in range(checks):
            sampler.constrain(cost, table=table)
        return [sampler.draw() for _ in range(10)]

    assert sequence(1) == sequence(2)


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(-1, 20),
    st.integers(0, 12),
)
def test_the_paths_of_a_range_are_counted_and_drawn_as_listing_them_says(columns, low, width):
    table = CostTable(2.0, {str(i): dict(enumerate(map(float, column))) for i, column in enumerate(columns)})
    every = [dict(zip(table.columns, values, strict=True)) for values in product(*table.columns.values())]
    inside = [path for path in every if low <= table(path) <= low + width]
    counts = PathCounts(table, low, low + width)
    assert counts.total == len(inside)
    generator = np.random.default_rng(1)
    assert all(counts.draw(generator) in inside for _ in range(5 if inside else 0))


def test_counting_gives_the_same_uniform_distribution_as_trying():
    columns = {name: {value: float(value**2) for value in range(5)} for name in "abc"}
    table = CostTable(0.0, columns)
    sampler = RandomPaths(MutableList([Categorical(list(range(5)), label=name) for name in "abc"]), 5, (10, 14))
    sampler.constrain(table, table=table)
    counts = frequencies(sampler, 5000)
    inside = [path for path in product(range(5), repeat=3) if 10 <= sum(value**2 for value in path) <= 14]
    assert len(counts) == len(inside)
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_more_paths_than_fit_into_64_bits_are_counted_exactly():
    table = CostTable(0.0, {f"l{index}": dict.fromkeys(range(10), 1.0) | {10: 2.0} for index in range(30)})
    counts = PathCounts(table, 31, 31)
    assert counts.total == 30 * 10**29
    generator = np.random.default_rng(0)
    assert Counter(sum(value == 10 for value in counts.draw(generator).values()) for _ in range(50)) == {1: 50}
    assert PathCounts(table, -math.inf, math.inf).total == 11**30


def test_with_too_many_different_sums_paths_are_tried_instead(monkeypatch):
    monkeypatch.setattr(PathCounts, "limit", 2)
    sampler = RandomPaths(SPACE, seed=4, cost_range=(12, 22))
    sampler.constrain(cost, table=TABLE)
    counts = frequencies(sampler, 4000)
    assert len(counts) == sum(12 <= a + b <= 22 for a, b in product([1, 2, 3], [10, 20, 30]))
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_probabilities_are_kept_within_a_range_too():
    sampler = RandomPaths(SPACE, seed=5, cost_range=(None, 15), probabilities={"a": [0.7, 0.3, 0.0]})
    sampler.constrain(cost, table=TABLE)
    counts = Counter(sampler.draw()["a"] for _ in range(4000))
    assert chisquare([counts[1], counts[2]], [2800, 1200]).pvalue > 0.001


@pytest.mark.parametrize("cost_range", [(3,), 5, "ab", (1, "x"), (True, 2), (math.nan, None), (1, math.nan)])
def test_a_range_that_is_not_a_pair_of_numbers_is_refused(cost_range):
    with pytest.raises(ConfigError, match="cost_range"):
        check_cost_range(cost_range)


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match="low end that is not above"):
        check_cost_range((3, 2))


@pytest.mark.parametrize("probabilities", [{"a": [0.5, 0.5]}, {"a": [2, -1, 0]}, {"a": [0.1, 0.1, 0.1]}, {"c": [1.0]}])
def test_probabilities_that_make_no_sense_are_refused(probabilities):
    with pytest.raises(ConfigError, match="probabilities"):
        RandomPaths(SPACE, probabilities=probabilities)
