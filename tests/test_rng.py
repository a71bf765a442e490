"""On a machine with several cards a process touches its own alone; the cards here are made up."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nni_cream.rng import preserved_rng, restore_rng, rng_state


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_a_restored_state_draws_the_same_again():
    state = rng_state()
    first = draws()
    restore_rng(state)
    assert draws() == first


@pytest.fixture
def second_card(monkeypatch) -> dict[int, torch.Tensor]:
    """Eight cards, of which this process has number 1; a look at another one fails."""
    states = {1: torch.zeros(16, dtype=torch.uint8)}

    def put(state, device="cuda"):
        states[1 if device == "cuda" else torch.device("cuda", device).index] = state

    cards = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 8,
        "current_device": lambda: 1,
        "get_rng_state": lambda device="cuda": states[1 if device == "cuda" else torch.device("cuda", device).index],
        "set_rng_state": put,
        "manual_seed": lambda seed: put(torch.full((16,), seed % 256, dtype=torch.uint8)),
    }
    for name, function in cards.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return states


def test_the_state_of_the_own_card_alone_is_kept_and_restored(second_card):
    before = second_card[1]
    state = rng_state()
    assert len(state["cuda"]) == 1
    second_card[1] = before + 1
    restore_rng(state)
    assert list(second_card) == [1]
    assert torch.equal(second_card[1], before)


def test_inside_the_own_card_is_seeded_and_outside_it_is_as_before(second_card):
    before = second_card[1]
    with preserved_rng(3):
        assert int(second_card[1][0]) == 3
    assert list(second_card) == [1]
    assert torch.equal(second_card[1], before)
