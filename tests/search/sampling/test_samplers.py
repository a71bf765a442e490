"""Samplers by name or of one's own, and what RandomPaths gives a sampler: mutations, tests, labels and choices."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nni.mutable import Categorical, ExpressionConstraint, MutableList
from scipy.stats import chisquare

from nni_cream.errors import ConfigError
from nni_cream.search import PathSampler, PrioritizedBoard, RandomPaths
from nni_cream.search.sampling.samplers import UniformSampler, resolve_sampler
from tests.search.paths.test_cost_table import DeepSpace
from tests.search.small import SPACES

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**32)


def space_of(sizes) -> MutableList:
    return MutableList([Categorical(list(range(size)), label=f"choice_{index}") for index, size in enumerate(sizes)])


def total(path) -> float:
    return float(sum(path.values()))


@given(SIZES, SEEDS)
def test_the_uniform_sampler_draws_what_the_random_paths_draw(sizes, seed):
    sampler, paths = UniformSampler(), RandomPaths(space_of(sizes), seed)
    sampler.begin(RandomPaths(space_of(sizes), seed), PrioritizedBoard(1))
    assert [sampler.draw() for _ in range(10)] == [paths.draw() for _ in range(10)]


def test_samplers_are_made_by_their_names_or_taken_as_they_are():
    class Own(PathSampler):
        def draw(self):
            return self.paths.first()

    own = Own()
    assert resolve_sampler(own) is own
    assert isinstance(resolve_sampler("uniform"), UniformSampler)
    assert own.state_dict() == {}
    for wrong in ("evolution", Own, 3):
        with pytest.raises(ConfigError, match=r"sampling is .*; expected one of uniform, or a PathSampler"):
            resolve_sampler(wrong)


def test_choices_are_the_values_of_each_label():
    assert RandomPaths(space_of([2, 3])).choices == {"choice_0": [0, 1], "choice_1": [0, 1, 2]}


@given(SIZES, SEEDS, st.data())
def test_only_the_labels_asked_for_are_redrawn(sizes, seed, data):
    paths = RandomPaths(space_of(sizes), seed)
    path = paths.draw()
    labels = data.draw(st.lists(st.sampled_from([*path]), unique=True))
    mutant = paths.redrawn(path, labels)
    assert all(mutant[label] == path[label] for label in path if label not in labels)
    assert all(mutant[label] in values for label, values in paths.choices.items())


def test_a_redrawn_choice_is_uniform():
    paths = RandomPaths(space_of([5, 5]), seed=3)
    counts = Counter(paths.redrawn({"choice_0": 4, "choice_1": 1}, ["choice_0"])["choice_0"] for _ in range(3000))
    assert chisquare([counts[value] for value in range(5)]).pvalue > 0.001


@pytest.mark.parametrize("kind", [*SPACES.values(), DeepSpace])
def test_mutations_are_paths_that_the_space_could_have_drawn(kind):
    space = kind()
    paths = RandomPaths(space, seed=7)
    for _ in range(50):
        path = paths.draw()
        used = paths.used(path)
        mutant = paths.redrawn(path, [used[int(paths.generator.integers(len(used)))]])
        assert list(mutant) == list(paths.first())
        assert mutant == paths._usage.canonical(mutant)
        assert paths.allows(mutant)


def test_a_deeper_mutation_draws_the_choices_that_come_into_use():
    paths = RandomPaths(DeepSpace(), seed=8)
    shallow = next(path for path in iter(paths.draw, None) if path["depth"] == 1)
    assert paths.used(shallow) != [*shallow]
    deep = [path for path in (paths.redrawn(shallow, ["depth"]) for _ in range(300)) if path["depth"] == 3]
    assert all("first_2" in paths.used(path) for path in deep)
    assert len({path["first_2"] for path in deep}) > 1


def test_a_path_is_allowed_within_the_range_alone():
    paths = RandomPaths(space_of([3, 3]), cost_range=(1, 3))
    paths.constrain(total)
    allowed = {(a, b) for a in range(3) for b in range(3) if paths.allows({"choice_0": a, "choice_1": b})}
    assert allowed == {(a, b) for a in range(3) for b in range(3) if 1 <= a + b <= 3}


def test_a_path_is_allowed_only_where_it_keeps_the_constraints_of_the_space():
    a, b = Categorical([1, 2, 3], label="a"), Categorical([1, 2, 3], label="b")
    paths = RandomPaths(MutableList([a, b, ExpressionConstraint(a + b == 4, label="rule")]))
    assert paths.allows({"a": 1, "b": 3})
    assert not paths.allows({"a": 1, "b": 2})
