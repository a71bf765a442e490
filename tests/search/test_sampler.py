from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from nni.mutable import Categorical, CategoricalMultiple, ExpressionConstraint, MutableList
from scipy.stats import chisquare

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.paths import path_key
from nni_cream.search.sampler import PathSampler, check_cost_range

SPACE = MutableList([Categorical([1, 2, 3], label="a"), Categorical([10, 20, 30], label="b")])


def cost(path) -> float:
    return float(path["a"] + path["b"])


def frequencies(sampler: PathSampler, draws: int) -> Counter[str]:
    return Counter(path_key(sampler.draw()) for _ in range(draws))


def test_sampling_is_uniform_over_the_space():
    counts = frequencies(PathSampler(SPACE, seed=3), 9000)
    assert len(counts) == 9
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_sampling_is_uniform_within_the_cost_range():
    sampler = PathSampler(SPACE, seed=4, cost_range=(12, 22))
    sampler.constrain(cost)
    counts = frequencies(sampler, 8000)
    inside = [path_key({"a": a, "b": b}) for a, b in product([1, 2, 3], [10, 20, 30]) if 12 <= a + b <= 22]
    assert set(counts) == set(inside)
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_sampling_follows_the_given_probabilities():
    sampler = PathSampler(SPACE, seed=5, probabilities={"a": [0.7, 0.3, 0.0]})
    counts = Counter(sampler.draw()["a"] for _ in range(5000))
    assert 3 not in counts
    assert chisquare([counts[1], counts[2]], [3500, 1500]).pvalue > 0.001


def test_several_of_a_choice_are_drawn_uniformly_in_order():
    space = MutableList([CategoricalMultiple([0, 1, 2, 3], n_chosen=2, label="inputs")])
    sampler = PathSampler(space, seed=6)
    counts = Counter(tuple(sampler.draw()["inputs"]) for _ in range(6000))
    assert set(counts) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_any_number_of_a_choice_gives_every_subset():
    space = MutableList([CategoricalMultiple([0, 1, 2], label="inputs")])
    sampler = PathSampler(space, seed=7)
    counts = Counter(tuple(sampler.draw()["inputs"]) for _ in range(8000))
    assert len(counts) == 8
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_constraints_of_the_space_are_kept():
    a, b = Categorical([1, 2, 3], label="a"), Categorical([1, 2, 3], label="b")
    sampler = PathSampler(MutableList([a, b, ExpressionConstraint(a + b == 4, label="rule")]))
    assert {tuple(sampler.draw().values()) for _ in range(100)} == {(1, 3), (2, 2), (3, 1)}


def test_constraints_that_nothing_keeps_are_an_error():
    a = Categorical([1, 2], label="a")
    sampler = PathSampler(MutableList([a, ExpressionConstraint(a == 5, label="rule")]))
    with pytest.raises(SpaceError, match="constraints"):
        sampler.draw()


def test_same_seed_same_sequence_and_another_seed_another():
    first, second, third = PathSampler(SPACE, 1), PathSampler(SPACE, 1), PathSampler(SPACE, 2)
    sequence = [first.draw() for _ in range(20)]
    assert sequence == [second.draw() for _ in range(20)]
    assert sequence != [third.draw() for _ in range(20)]


def test_a_restored_sampler_goes_on_where_the_saved_one_stood():
    sampler = PathSampler(SPACE, 1)
    sampler.draw()
    other = PathSampler(SPACE, 99)
    other.load_state_dict(sampler.state_dict())
    assert [sampler.draw() for _ in range(10)] == [other.draw() for _ in range(10)]


def test_asking_for_the_first_path_draws_nothing():
    asked, other = PathSampler(SPACE, 1), PathSampler(SPACE, 1)
    assert asked.first() == {"a": 1, "b": 10}
    assert [asked.draw() for _ in range(5)] == [other.draw() for _ in range(5)]


@pytest.mark.parametrize("cost_range", [(100, 200), (None, 5)])
def test_a_range_outside_of_the_reachable_one_is_refused_before_the_first_draw(cost_range):
    sampler = PathSampler(SPACE, cost_range=cost_range)
    with pytest.raises(SpaceError, match=r"reachable range of this space is 11 to 33"):
        sampler.constrain(cost, reachable=(11, 33))


def test_a_range_between_two_costs_is_refused_with_what_was_seen():
    sampler = PathSampler(SPACE, cost_range=(14, 20))
    sampler.constrain(cost, reachable=(11, 33))
    with pytest.raises(SpaceError, match=r"\(14, 20\) holds no path .* 11 to 33"):
        sampler.draw()


@pytest.mark.parametrize("cost_range", [(3,), 5, "ab", (1, "x"), (True, 2)])
def test_a_range_that_is_not_a_pair_of_numbers_is_refused(cost_range):
    with pytest.raises(ConfigError, match="cost_range"):
        check_cost_range(cost_range)


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match="low end is above"):
        check_cost_range((3, 2))


@pytest.mark.parametrize("probabilities", [{"a": [0.5, 0.5]}, {"a": [2, -1, 0]}, {"a": [0.1, 0.1, 0.1]}, {"c": [1.0]}])
def test_probabilities_that_make_no_sense_are_refused(probabilities):
    with pytest.raises(ConfigError, match="probabilities"):
        PathSampler(SPACE, probabilities=probabilities)
