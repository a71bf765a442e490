"""The exact best path against exhaustive search, with ranges, exclusions and labels that depend on others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from nni.mutable import Categorical, MutableDict
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_cream.search import RandomPaths
from nni_cream.search.paths import best_path as program
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.best_path import best_neighbour, best_path, best_predicted
from nni_cream.search.paths.cost_limits import Limit
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.scoring.predictor import PathPredictor
from tests.search.paths.test_active_choices import DeepSpace, NestedSpace
from tests.search.small import LayerSpace, ValueSpace

Path = dict[str, Any]
SPACES = {"layers": LayerSpace, "values": ValueSpace, "deep": DeepSpace, "nested": NestedSpace}


class Case:
    """A small space with random effects and two random costs."""

    def __init__(self, name: str, seed: int) -> None:
        space = SPACES[name]()
        self.choices = {label: list(mutable.values) for label, mutable in space.simplify().items()}
        self.usage = Usage(space)
        assert self.usage.groups is not None
        generator = np.random.default_rng(seed)
        tables = [
            CostTable(
                7.0,
                {
                    label: {
                        value: float(number)
                        for value, number in zip(values, generator.integers(0, 40, len(values)), strict=True)
                    }
                    for label, values in self.choices.items()
                },
                self.usage.groups,
            )
            for _ in range(3)
        ]
        self.quality, self.costs = tables[0], tables[1:]
        every = itertools.product(*self.choices.values())
        paths = [self.usage.canonical(dict(zip(self.choices, values, strict=True))) for values in every]
        self.paths = list({path_key(path): path for path in paths}.values())

    def limits(self, share: float) -> list[Limit]:
        ranges = []
        for table in self.costs:
            known = sorted(map(table, self.paths))
            ranges.append((known[int(0.3 * len(known))], known[int((0.3 + share) * (len(known) - 1))]))
        return [Limit(table, ends, table=table) for table, ends in zip(self.costs, ranges, strict=True)]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("share", [0.7, 0.3, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_is_the_best_of_all_paths_within_the_ranges_that_are_not_excluded(name: str, share: float, seed: int) -> None:
    case = Case(name, seed)
    limits = case.limits(share)
    left = [path for path in case.paths if all(limit.allows(limit.cost(path)) for limit in limits)]
    excluded: list[Path] = []
    for _ in range(4):
        found = best_path(case.quality, limits, excluded)
        if not left:
            assert found is None
            return
        assert found is not None
        assert found in left
        assert case.quality(found) == max(map(case.quality, left))
        assert found == case.usage.canonical(found)
        left.remove(found)
        excluded.append(found)


def test_a_range_that_the_solver_cannot_tell_from_its_surroundings_is_given_up(monkeypatch) -> None:
    generator, solved = np.random.default_rng(0), []
    units = generator.integers(0, 6, (12, 3))
    units[:, 0] = 0
    costs = {
        f"layer_{place}": {kind: 1e8 * kind + float(own[kind]) for kind in range(3)} for place, own in enumerate(units)
    }
    gains = {label: dict(enumerate(generator.normal(size=3))) for label in costs}
    table = CostTable(0.0, costs)
    middle = table(dict.fromkeys(costs, 1))
    monkeypatch.setattr(program, "_GIVEN_UP", 25)
    solve = program._solve
    monkeypatch.setattr(program, "_solve", lambda *words: solved.append(1) or solve(*words))
    # A range of two in costs of a hundred million: far below the solver's tolerance.
    limit = Limit(table, (middle - 27, middle - 25), table=table)
    found = best_path(CostTable(0.0, gains), [limit])
    assert found is None or limit.allows(table(found))
    assert len(solved) <= 25
    assert len(solved) > program._NEAR  # or the test shows nothing


@pytest.mark.parametrize("name", SPACES)
def test_local_changes_end_where_no_single_change_is_better(name: str) -> None:
    case = Case(name, 0)
    limits = case.limits(0.7)

    def allowed(path: Path) -> bool:
        return all(limit.allows(limit.cost(path)) for limit in limits)

    def quality(paths: Any) -> np.ndarray:
        return np.array([case.quality(path) for path in paths])

    neighbours = RandomPaths(SPACES[name]()).neighbours
    for start in [path for path in case.paths if allowed(path)][:20]:
        found = best_neighbour(start, neighbours, quality, allowed)
        assert allowed(found)
        assert case.quality(found) >= case.quality(start)
        for label, values in case.choices.items():
            for value in values:
                other = case.usage.canonical({**found, label: value})
                assert not allowed(other) or case.quality(other) <= case.quality(found)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_best_predicted_path_is_the_one_with_the_highest_prediction(name: str, sized: bool, seed: int) -> None:
    case, space = Case(name, seed), SPACES[name]()
    paths, predictor = RandomPaths(space, seed), PathPredictor(space.simplify(), case.usage)
    generator = np.random.default_rng(seed)
    effects = generator.normal(size=predictor.size)
    drawn = [paths.draw() for _ in range(400)]
    predictor.observe(drawn, [effects[predictor.columns(path)].sum() + generator.normal() / 10 for path in drawn])
    if sized:
        predictor.sizes = generator.integers(0, 40, predictor.size)
    found = best_predicted(predictor, paths, [], drawn[:1])
    assert found is not None
    assert predictor.means([found])[0] == pytest.approx(predictor.means(case.paths).max())


class SeveralSpace(ModelSpace):
    """Two choices of several inputs, one of any number and one of two, beside a choice of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.any = InputChoice(4, n_chosen=None, label="any")
        self.two = InputChoice(5, n_chosen=2, label="two")
        self.one = LayerChoice([nn.Identity(), nn.ReLU(), nn.Tanh()], label="one")

    def forward(self, x: Tensor) -> Tensor:
        return self.any([self.one(x)] * 4) + self.two([x] * 5)


def several_paths() -> list[Path]:
    some = [list(own) for size in range(1, 5) for own in itertools.combinations(range(4), size)]
    pairs = [list(own) for own in itertools.combinations(range(5), 2)]
    return [
        {"any": chosen, "two": pair, "one": value} for chosen, pair, value in itertools.product(some, pairs, range(3))
    ]


def test_neighbours_are_all_paths_one_change_away() -> None:
    every, paths = several_paths(), RandomPaths(SeveralSpace())
    start = {"any": [1], "two": [0, 3], "one": 2}

    def apart(one: list[int], other: list[int]) -> int:
        return len(set(one) ^ set(other))

    def is_beside(path: Path) -> bool:
        changes = (apart(path["any"], [1]), apart(path["two"], [0, 3]) / 2, float(path["one"] != 2))
        return sum(changes) == 1

    expected = {path_key(path) for path in every if is_beside(path)}
    found = [path_key({**path, "one": int(path["one"])}) for path in paths.neighbours(start)]
    assert sorted(found) == sorted(expected)  # each once
    assert len(expected) == 3 + 6 + 2


def test_without_tables_a_path_is_found_though_all_that_is_better_lies_beyond_the_range() -> None:
    labels = [f"layer_{number}" for number in range(60)]
    space = MutableDict({label: Categorical(list(range(6)), label=label) for label in labels})
    paths = RandomPaths(space, 0, (None, 180.0))
    paths.constrain(lambda path: float(sum(path.values())))
    starts = [
        {label: 3 + (label == up) - (label == down) for label in labels} for up, down in itertools.pairwise(labels[:12])
    ]

    class Largest:
        """The best path is the one of the highest cost."""

        def effects(self) -> dict[str, list[float]]:
            raise AssertionError  # there is no table

        def means(self, some: Sequence[Path]) -> np.ndarray:
            return np.array([sum(path.values()) for path in some], dtype=float)

    found = best_predicted(Largest(), paths, starts, starts)
    assert found is not None
    assert paths.allows(found)
    assert found not in starts


@pytest.mark.parametrize("seed", range(10))
def test_without_tables_the_next_best_is_found_beside_an_excluded_best(seed: int) -> None:
    space, every = SeveralSpace(), several_paths()
    paths, generator = RandomPaths(space, seed), np.random.default_rng(seed)
    predictor = PathPredictor(space.simplify(), paths.usage)
    effects = generator.normal(size=predictor.size)
    drawn = [paths.draw() for _ in range(300)]
    drawn = [path for path in drawn if path["any"]]
    predictor.observe(drawn, [effects[predictor.columns(path)].sum() + generator.normal() / 10 for path in drawn])
    left = sorted(every, key=lambda path: -predictor.means([path])[0])
    board: list[Path] = []
    for _ in range(6):
        found = best_predicted(predictor, paths, board, board or drawn[:1])
        assert found is not None
        assert path_key(found) == path_key(left[len(board)])
        board.append(found)
    assert best_predicted(predictor, paths, every, board) is None


def test_many_paths_just_beyond_a_range_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [f"layer_{number}" for number in range(12)]
    quality = CostTable(0.0, {label: {"a": 1.0 + 0.01 * place, "b": 0.0} for place, label in enumerate(labels)}, ())
    cost = CostTable(0.0, {label: {"a": 1e7, "b": 0.0} for label in labels}, ())
    limit = Limit(cost, (-np.inf, 6e7 - 1), table=cost)  # the 924 paths of six are within the solver's tolerance
    solve, calls = program._solve, []
    monkeypatch.setattr(program, "_solve", lambda *given: calls.append(1) or solve(*given))
    found = best_path(quality, [limit])
    assert found == {label: "a" if place >= 7 else "b" for place, label in enumerate(labels)}
    assert len(calls) <= 22
