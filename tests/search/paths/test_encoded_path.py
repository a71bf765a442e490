from __future__ import annotations

import json

import numpy as np
import pytest
from nni.mutable import Categorical, CategoricalMultiple, ExpressionConstraint, Numerical
from torch import nn

from nni_cream.errors import SpaceError
from nni_cream.search.paths.choices import check_mutables, count_values, decode_path
from nni_cream.search.paths.encoded_path import encode_path, path_key

MUTABLES = {
    "op": Categorical(["conv", "skip"], label="op"),
    "size": Categorical([(3, 3), (5, 5)], label="size"),
    "flag": Categorical([1, True, 2.5][1:], label="flag"),
    "act": Categorical([nn.ReLU, nn.SiLU], label="act"),
    "inputs": CategoricalMultiple([0, 1, 2], n_chosen=2, label="inputs"),
}
PATH = {"op": "skip", "size": (5, 5), "flag": True, "act": nn.SiLU, "inputs": [0, 2]}


def test_a_path_survives_the_way_through_json():
    text = json.dumps(encode_path(PATH))
    assert decode_path(json.loads(text), MUTABLES) == PATH


def test_key_does_not_depend_on_the_order_of_labels():
    assert path_key(PATH) == path_key(dict(reversed(PATH.items())))


def test_numpy_numbers_have_the_key_of_python_numbers():
    assert path_key({"depth": np.int64(3)}) == path_key({"depth": 3})


def test_a_value_without_a_lasting_name_is_refused():
    with pytest.raises(SpaceError, match=r"'act' is .* cannot be written"):
        encode_path({"act": nn.ReLU()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "pool"}, r"'op' is 'pool'"),
        ({"inputs": 1}, "list of choices"),
        ({"inputs": [0, 7]}, "'inputs' is 7"),
        ({"inputs": [0]}, "breaks the space's rule 'inputs'"),
        ({"flag": 1}, "'flag' is 1"),
        ({"other": 1}, r"unknown labels \['other'\]"),
    ],
)
def test_a_path_of_another_space_is_refused_with_its_label(change, message):
    with pytest.raises(SpaceError, match=message):
        decode_path({**encode_path(PATH), **change}, MUTABLES)


def test_a_missing_label_is_named():
    with pytest.raises(SpaceError, match=r"missing labels \['op'\]"):
        decode_path({key: value for key, value in encode_path(PATH).items() if key != "op"}, MUTABLES)


def test_a_path_that_breaks_a_constraint_is_refused():
    a, b = Categorical([1, 2], label="a"), Categorical([1, 2], label="b")
    mutables = {"a": a, "b": b, "rule": ExpressionConstraint(a + b == 3, label="rule")}
    assert decode_path({"a": 1, "b": 2}, mutables) == {"a": 1, "b": 2}
    with pytest.raises(SpaceError, match="rule"):
        decode_path({"a": 1, "b": 1}, mutables)


def test_the_values_of_each_choice_are_counted():
    assert [count_values(mutable) for mutable in MUTABLES.values()] == [2, 2, 2, 2, 3]
    assert count_values(CategoricalMultiple([1, 2, 3], label="any")) == 8
    assert count_values(ExpressionConstraint(MUTABLES["op"] == "skip", label="rule")) == 1


def test_a_space_without_choices_is_refused():
    with pytest.raises(SpaceError, match="holds no mutable"):
        check_mutables({})


def test_a_continuous_mutable_is_refused_by_name():
    with pytest.raises(SpaceError, match="'rate' is a Numerical"):
        check_mutables({**MUTABLES, "rate": Numerical(0.0, 1.0, label="rate")})
