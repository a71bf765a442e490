"""Spaces by name, a user's own among them, and one clear message for each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from nni.nas.hub.pytorch import ProxylessNAS
from nni.nas.space import model_context

from nni_cream import spaces
from nni_cream.errors import SpaceError

OWN_SPACE = """
    from nni.nas.nn.pytorch import LayerChoice, ModelSpace
    from torch import nn

    class Own(ModelSpace):
        def __init__(self, width=4):
            super().__init__()
            self.layer = LayerChoice([nn.Linear(width, width), nn.Identity()], label="only")

        def forward(self, x):
            return self.layer(x)

    class Empty(ModelSpace):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

    class Broken(ModelSpace):
        def __init__(self):
            super().__init__()
            raise RuntimeError("no luck")

    class Plain(nn.Module):
        pass

    not_a_class = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    # A name of its own for each test: Python imports a module once.
    name = f"own_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(dedent(OWN_SPACE))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_lists_the_spaces_of_the_package() -> None:
    assert spaces.list_spaces() == ["chain", "cream", "digits", "fashion", "mixed", "nas-bench-macro"]


def test_builds_a_users_own_space_with_its_arguments(own_module: str) -> None:
    space = spaces.create(f"{own_module}:Own", width=5)
    assert list(space.simplify()) == ["only"]
    assert space.trace_kwargs == {"width": 5}


def test_builds_a_space_of_nnis_hub() -> None:
    space = spaces.create("nni.nas.hub.pytorch:ProxylessNAS", num_labels=10)
    assert isinstance(space, ProxylessNAS)


def test_inside_a_model_context_gives_the_one_architecture(own_module: str) -> None:
    with model_context({"only": 1}):
        network = spaces.create(f"{own_module}:Own")
    assert not network.simplify()
    assert not list(network.parameters())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", ["the space is 'digit'", "digits, fashion", "Did you mean 'digits'?"]),
        ("zzz", ["the space is 'zzz'", "package.module:Class"]),
        ("no_such_package.space:Own", ["cannot be imported", "no_such_package", "PYTHONPATH"]),
        ("{own}:Absent", ["cannot be imported", "Absent"]),
        ("{own}:Empty", ["nothing to search", "LayerChoice"]),
        ("{own}:Broken", ["could not be built", "RuntimeError: no luck"]),
        ("{own}:Plain", ["Plain", "ModelSpace"]),
        ("{own}:not_a_class", ["is 3", "ModelSpace"]),
        ("not a name:Own", ["cannot be imported"]),
    ],
)
def test_wrong_name_is_told_with_what_was_expected(name: str, words: list[str], own_module: str) -> None:
    with pytest.raises(SpaceError) as caught:
        spaces.create(name.format(own=own_module))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_module_that_fails_while_it_is_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_space_module.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpaceError, match="No module named 'a_package_that_is_not_there'"):
        spaces.create("failing_space_module:Own")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_clases": 3}, ["num_clases", "Did you mean 'num_classes'"]),
        ({"num_classes": 1}, ["num_classes", "is 1;", "at least 2"]),
        ({"num_classes": True}, ["num_classes", "True"]),
        ({"num_classes": "10"}, ["num_classes", "'10'"]),
        ({"input_channels": 0}, ["input_channels", "is 0;", "at least 1"]),
        ({"channels": []}, ["channels", "[]"]),
        ({"channels": 8}, ["channels", "list", "8"]),
        ({"channels": [8, 0]}, ["channels[1] is 0"]),
        ({"operations": ["identity", "conv3x3"]}, ["operations names 'conv3x3'", "Did you mean 'conv_3x3'?"]),
        ({"operations": ["identity"]}, ["operations", "at least two"]),
        ({"operations": ["identity", "identity"]}, ["operations", "twice"]),
        ({"operations": "identity"}, ["operations", "list of names"]),
    ],
)
@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_wrong_argument_is_told_with_its_value(name: str, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        spaces.create(name, **arguments)
    for word in words:
        assert word in str(caught.value)


def test_argument_unknown_to_a_users_own_space_is_told(own_module: str) -> None:
    with pytest.raises(SpaceError, match=r"unexpected keyword argument 'widht'.*Did you mean 'width'"):
        spaces.create(f"{own_module}:Own", widht=3)
