"""Data sets by name, a user's own among them, and one clear message for each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from nni_cream import data
from nni_cream.errors import ConfigError, CreamError, DataError

OWN_DATA = """
    import numpy as np
    from nni_cream.data import make_splits

    def tiny(count=30):
        third = count // 3
        indices = {"train": np.arange(third), "validation": np.arange(third, 2 * third)}
        return make_splits(
            name="tiny",
            arguments={"count": count},
            images=np.random.default_rng(0).random((count, 1, 4, 4)),
            labels=np.arange(count) % 2,
            indices={**indices, "test": np.arange(2 * third, count)},
            num_classes=2,
        )

    def broken():
        raise ValueError("no luck")

    def other():
        return 3

    not_a_function = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    # A name of its own for each test: Python imports a module once.
    name = f"own_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(dedent(OWN_DATA))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_lists_the_data_sets_of_the_package() -> None:
    names = ["cifar10", "cifar100", "digits", "fashion", "fashion_pairs", "folder", "imagenet", "subimagenet"]
    assert data.list_datasets() == names


def test_loads_a_users_own_data_with_its_arguments(own_module: str) -> None:
    splits = data.create(f"{own_module}:tiny", count=60)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [20, 20, 20]
    assert splits.num_classes == 2


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        (
            "digit",
            {},
            ConfigError,
            ["the data set is 'digit'", "fashion, fashion_pairs", "Did you mean 'digits'?"],
        ),
        ("zzz", {}, ConfigError, ["the data set is 'zzz'", "package.module:function"]),
        ("no_such_package.images:load", {}, ConfigError, ["cannot be imported", "no_such_package", "PYTHONPATH"]),
        ("{own}:absent", {}, ConfigError, ["cannot be imported", "absent"]),
        ("{own}:not_a_function", {}, ConfigError, ["is 3", "function"]),
        ("{own}:broken", {}, DataError, ["could not be loaded", "ValueError: no luck"]),
        ("{own}:other", {}, DataError, ["gave int", "DataSplits"]),
        ("{own}:tiny", {"cuont": 3}, ConfigError, ["cuont", "Did you mean 'count'"]),
        ("digits", {"trian": 3}, ConfigError, ["trian", "Did you mean 'train'"]),
    ],
)
def test_wrong_name_or_argument_is_told_with_what_was_expected(
    name: str, arguments: dict[str, int], error: type[CreamError], words: list[str], own_module: str
) -> None:
    with pytest.raises(error) as caught:
        data.create(name.format(own=own_module), **arguments)
    for word in words:
        assert word in str(caught.value)
