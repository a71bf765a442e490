"""Evolution and random search against functions whose best path is known."""

import itertools

import numpy as np
import pytest

from nni_cream.search import path_key
from nni_cream.studies.evolution import Candidates, evolve, random_search

LABELS, OPTIONS = [f"layer {number}" for number in range(8)], range(5)
GAINS = np.random.default_rng(0).normal(size=(len(LABELS), len(OPTIONS)))
BEST = {label: int(GAINS[number].argmax()) for number, label in enumerate(LABELS)}


def additive(path):
    return float(sum(GAINS[number][path[label]] for number, label in enumerate(LABELS)))


def cost(path):
    return sum(path.values())


def candidates(seed=0, labels=LABELS, options=OPTIONS, **more):
    generator = np.random.default_rng(seed)
    return Candidates(lambda: {label: int(generator.choice(options)) for label in labels}, **more)


def taken(search, number):
    return list(itertools.islice(search, number))


@pytest.mark.integration
def test_evolution_finds_the_best_of_an_additive_function_where_random_search_does_not():
    # 390,625 paths, of which it may look at 800.
    for seed in range(3):
        evolved = taken(evolve(candidates(seed), additive, seed=seed), 800)
        assert max(evolved, key=lambda item: item.score).path == BEST
        drawn = taken(random_search(candidates(seed), additive), 800)
        assert max(item.score for item in drawn) < additive(BEST)


@pytest.mark.parametrize("population", [2, 3, 20])
def test_no_path_is_scored_twice_and_scores_are_those_of_the_function(population):
    seen = []

    def score(path):
        seen.append(path_key(path))
        return additive(path)

    found = taken(evolve(candidates(), score, population), 300)
    assert len(set(seen)) == len(seen) == 300
    assert [path_key(item.path) for item in found] == seen
    assert all(item.score == additive(item.path) for item in found)


def test_limit_of_cost_is_kept_and_the_best_within_it_is_found():
    limit, labels = 8, LABELS[:5]

    def score(path):
        return additive({**dict.fromkeys(LABELS, 0), **path})

    found = taken(evolve(candidates(labels=labels, allows=lambda path: cost(path) <= limit), score), 300)
    assert max(cost(item.path) for item in found) <= limit
    every = [dict(zip(labels, chosen, strict=True)) for chosen in itertools.product(OPTIONS, repeat=len(labels))]
    allowed = [path for path in every if cost(path) <= limit]
    assert len(allowed) > 3 * len(found)
    assert max(item.score for item in found) == max(map(score, allowed)) < max(map(score, every))


def test_same_seed_gives_the_same_search_and_a_smaller_budget_is_its_start():
    def searched(number, seed=7):
        return taken(evolve(candidates(1), additive, population=10, seed=seed), number)

    long = searched(100)
    assert searched(100) == long
    assert searched(35) == long[:35]
    assert searched(100, seed=8) != long


def test_search_of_a_small_space_ends_with_each_path_scored_once():
    space = {"labels": LABELS[:2], "options": range(3)}

    def score(path):
        return float(path[LABELS[0]])

    for search in (evolve(candidates(**space), score, population=4), random_search(candidates(**space), score)):
        paths = [tuple(item.path.values()) for item in search]
        assert sorted(paths) == list(itertools.product(range(3), repeat=2))


def test_children_are_mutations_and_crossovers_of_the_best_fifth():
    population = 20
    first, second = np.split(np.array(taken(evolve(candidates(), additive, population), 2 * population)), 2)
    parents = sorted(first, key=lambda item: -item.score)[: population // 5]

    def distance(child, parent):
        return sum(child.path[label] != parent.path[label] for label in LABELS)

    mutants, crossed = second[: population // 2], second[population // 2 :]
    assert np.mean([min(distance(child, parent) for parent in parents) for child in mutants]) < 2.5
    for child in crossed:
        assert any(
            all(child.path[label] in (one.path[label], other.path[label]) for label in LABELS)
            for one, other in itertools.combinations(parents, 2)
        )


def test_equal_architectures_are_one_path():
    def canonical(path):  # the second choice decides nothing unless the first is 1
        return path if path["a"] == 1 else {**path, "b": 0}

    space = {"labels": ["a", "b"], "options": range(3)}
    found = list(evolve(candidates(**space, canonical=canonical), lambda path: float(path["b"]), population=2))
    assert sorted(tuple(item.path.values()) for item in found) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
