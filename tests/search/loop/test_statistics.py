from __future__ import annotations

import json

import pytest
import torch
from nni.mutable import Categorical, CategoricalMultiple, ExpressionConstraint, MutableList

from nni_cream.search import BoardEntry, Match, Options, RandomPaths, Tally, encode_path


def match(operation: str, weight: float) -> Match:
    return Match(BoardEntry({"layer": operation}, 0.5, 1.0, 1), weight)


def test_mean_weight_is_that_of_the_steps_with_a_teacher():
    tally = Tally()
    assert tally.mean_weight is None
    for weight in (0.25, 0.5, 0.75, 1.0):
        tally.add_match(match("a", weight))
    assert tally.mean_weight == 0.625


def test_teachers_are_counted_the_most_frequent_first():
    tally = Tally()
    for operation in "bcabcbd":
        tally.add_match(match(operation, 0.5))
        tally.add_lesson(match(operation, 0.5), True)
    tally.add_match(match("e", 0.5))  # picked, and left out
    assert [(teacher.path["layer"], teacher.count) for teacher in tally.teachers] == [
        ("b", 3),
        ("c", 2),
        ("a", 1),
        ("d", 1),
    ]


def test_gates_that_the_device_knows_are_read_when_somebody_asks():
    tally, told = Tally(), Tally()
    for operation, gate in zip("abca", (True, False, True, True), strict=True):
        tally.add_lesson(match(operation, 0.5), torch.tensor(gate))
        told.add_lesson(match(operation, 0.5), gate)
    assert tally.state_dict() == told.state_dict()
    assert [(teacher.path["layer"], teacher.count) for teacher in tally.teachers] == [("a", 2), ("c", 1)]
    assert tally.distilled == 3


def test_restored_tally_goes_on_as_if_nothing_had_been():
    whole, first = Tally(), Tally()
    for tally in (whole, first):
        tally.add_draw(3)
        tally.add_match(match("a", 0.1))
        tally.add_match(match("b", 0.2))
        tally.add_lesson(match("b", 0.2), True)
        tally.add_meta_update()
    second = Tally()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for tally in (whole, second):
        tally.add_draw(0)
        tally.add_match(match("b", 0.3))
        tally.add_lesson(match("b", 0.3), True)
    assert second == whole
    assert (second.drawn, second.rejected, second.meta_updates, second.matched) == (2, 3, 1, 3)
    assert (second.distilled, second.distilled_share) == (2, 1.0)


def test_every_teacher_of_a_checkpoint_from_before_there_were_gates_taught():
    tally, old = Tally(), Tally().state_dict() | {"counts": [5, 0, 0, 4]}
    del old["distilled"]
    tally.load_state_dict(old)
    assert tally.distilled_share == 0.8


def test_nothing_has_been_distilled_before_the_first_step():
    assert Tally().distilled_share == 0


def test_sampler_tells_how_many_draws_it_threw_away():
    a = Categorical([1, 2, 3, 4], label="a")
    space = MutableList([a, ExpressionConstraint(a != 4, label="rule")])
    sampler = RandomPaths(space, seed=1, cost_range=(None, 2))
    sampler.constrain(lambda path: float(path["a"]))
    free = RandomPaths(MutableList([Categorical([1, 2, 3, 4], label="a")]), seed=1)
    for _ in range(50):
        accepted = sampler.draw()
        thrown_away = [free.draw()["a"] for _ in range(sampler.rejected)]
        assert min(thrown_away, default=3) > 2
        assert free.draw() == accepted


def test_indices_tell_every_option_of_a_choice_apart():
    space = MutableList(
        [
            Categorical([True, 2, "2", 1.5, (1, 2)], label="one"),
            CategoricalMultiple(["a", "b", "c"], n_chosen=2, label="two"),
        ]
    ).simplify()
    options = Options(space)
    assert options.choices == {"one": [True, 2, "2", 1.5, [1, 2]], "two": ["a", "b", "c"]}
    for index, value in enumerate([True, 2, "2", 1.5, (1, 2)]):
        assert options.indices(encode_path({"one": value, "two": ["c", "a"]})) == [index, [2, 0]]
    with pytest.raises(KeyError):
        options.indices({"one": 1, "two": []})
