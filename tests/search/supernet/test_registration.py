"""Choices and weights that the search would not see, and what it would lose, are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn

from nni_cream.errors import SpaceError
from tests.search.small import LayerSpace, supernet


class Holder(nn.Module):
    """Holds a part as a plain object."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.parts = {"first": [part]}


class Counted(nn.Module):
    def get_extra_state(self) -> Any:
        return {"calls": 3}


def choice(label: str = "layer") -> LayerChoice:
    return LayerChoice([nn.Linear(4, 4), nn.Identity()], label=label)


class Space(ModelSpace):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.layer = choice()
        self.deep = Repeat(lambda index: nn.Linear(4, 4), (1, 2), label="depth")
        self.taken = InputChoice(2, 1, label="taken")
        self.fixed = Repeat(lambda index: nn.Linear(4, 4), 2)
        change(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(self.taken([x, self.layer(x)]))


def hooked(name: str) -> Any:
    return lambda space: getattr(space, name).register_forward_hook(lambda module, args, output: output * 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked("layer"), "LayerChoice 'layer' has forward_hooks added to it, which the"),
        (hooked("deep"), "Repeat 'deep' has forward_hooks"),
        (hooked("taken"), "InputChoice 'taken' has forward_hooks"),
        (lambda space: setattr(space.layer, "stride", 2), "LayerChoice 'layer' has stride added"),
        (lambda space: setattr(space.layer, "forward", lambda x: x), "LayerChoice 'layer' has forward added"),
        (
            lambda space: setattr(space.layer, "gamma", nn.Parameter(torch.ones(1))),
            "'layer' has gamma added",
        ),
        (lambda space: setattr(space.layer, "0", None), "LayerChoice 'layer' has the candidate '0': None"),
        (lambda space: space.add_module("counted", Counted()), "'counted' has an extra state that is no tensor"),
        (lambda space: setattr(space, "layers", [space.layer]), "'layers' of the space is .* holds choices"),
        (
            lambda space: space.add_module("held", Holder(choice("other"))),
            "'parts' of module 'held' .* choices",
        ),
        (lambda space: setattr(space, "layers", (nn.Sequential(choice("other")),)), "holds choices"),
        (
            lambda space: setattr(space, "layers", [nn.Linear(4, 4)]),
            "'layers' of the space .* trained weights",
        ),
        (lambda space: setattr(space, "scales", [nn.Parameter(torch.ones(1))]), "holds trained weights"),
        (
            lambda space: space.add_module("fast", torch.jit.script(nn.Linear(4, 4))),
            "'fast' .* hides its layers",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_search_would_not_see_is_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        supernet(Space(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda space: next(iter(space.layer)).register_forward_hook(lambda *_: None),
        lambda space: setattr(space, "blocks", [*space.deep.blocks]),
        lambda space: setattr(space, "teacher", [nn.Linear(4, 4).requires_grad_(False)]),
        lambda space: setattr(space, "parent", [space]),
        lambda space: space.fixed.register_forward_hook(lambda *_: None),
    ],
)
def test_hooks_of_candidates_references_and_frozen_outsiders_are_kept(change: Any) -> None:
    net = supernet(Space(change))
    assert len(net.mutables) == 3


def test_mode_of_a_scripted_module_beside_the_space_is_switched_and_put_back() -> None:
    from nni_cream.search import Supernet

    space = supernet(LayerSpace()).space
    host = nn.Module()
    host.space, host.scripted = space, torch.jit.script(nn.Dropout())
    net = Supernet(space, host)
    with net.evaluating():
        assert not host.scripted.training
    assert host.scripted.training
