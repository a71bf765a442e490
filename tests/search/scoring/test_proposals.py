"""Which path is the next candidate: a trained one, or the best predicted one within the cost ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.mutable import MutableDict

from nni_cream.search import CostModel, RandomPaths
from nni_cream.search.board import BoardEntry, PrioritizedBoard
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.scoring.candidates import Trained
from nni_cream.search.scoring.predictor import PathPredictor
from nni_cream.search.scoring.proposals import Proposals
from tests.search.small import SPACES, LayerSpace, supernet

Path = dict[str, Any]


def board_of(*paths: Path) -> PrioritizedBoard:
    board = PrioritizedBoard(max(1, len(paths)))
    for number, path in enumerate(paths):
        board.offer(BoardEntry(path, 0.5 + 0.01 * number, 1.0, number))
    return board


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-10, 10)), max_size=12), st.sets(st.integers(0, 5)))
def test_trained_candidate_is_the_one_of_lowest_loss_that_is_not_on_the_board(
    taken: list[tuple[int, float]], known: set[int]
) -> None:
    space = LayerSpace()
    proposals = Proposals(
        PathPredictor({}, Usage(MutableDict({}))),
        board_of(*({"layer": number} for number in known)),
        RandomPaths(space),
        predicted=False,
    )
    found = proposals.choose([Trained({"layer": number}, loss) for number, loss in taken])
    wanted = [(loss, number) for number, loss in taken if number not in known]
    if not wanted:
        assert found is None
    else:
        assert found is not None
        assert (min(loss for loss, _ in wanted), found["layer"]) in wanted


class Learned:
    """A predictor that has seen many steps of a small space, whose effects are known."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.net = supernet(SPACES[name]())
        self.paths = RandomPaths(self.net.space, seed)
        self.predictor = PathPredictor(self.net.mutables, self.net.usage)
        generator = np.random.default_rng(seed)
        self.effects = generator.normal(size=self.predictor.size)
        drawn = [self.paths.draw() for _ in range(400)]
        self.predictor.observe(drawn, [self.loss(path) + 0.1 * generator.normal() for path in drawn])
        self.trained = [Trained(path, self.loss(path)) for path in drawn[-8:]]

    def loss(self, path: Path) -> float:
        return float(self.effects[self.predictor.columns(path)].sum())


@pytest.mark.parametrize("name", SPACES)
def test_every_second_candidate_is_better_than_all_known_ones(name: str) -> None:
    learned = Learned(name)
    best = min(learned.trained, key=lambda step: step.loss).path
    board = board_of(best)
    proposals = Proposals(learned.predictor, board, learned.paths, predicted=True)
    seen = [best]
    for turn in range(6):
        found = proposals.choose(learned.trained)
        assert found is not None
        if turn % 2:
            assert path_key(found) not in map(path_key, seen)
            assert found == learned.net.usage.canonical(found)
            seen.append(found)
            if turn == 1:
                assert learned.loss(found) <= learned.loss(best)
        else:
            assert found in [path for path, *_ in learned.trained]
        proposals.note(found)


def test_predicted_candidate_is_the_best_of_all_within_a_cost_range() -> None:
    learned = Learned("layers")
    cost = CostModel(learned.net, (torch.zeros(1, 1, 8, 8),))
    low, high = cost.bounds()
    learned.paths.cost_range = (low, low + 0.4 * (high - low))
    learned.paths.constrain(cost, table=cost.table)
    proposals = Proposals(learned.predictor, board_of(), learned.paths, predicted=True)
    proposals.note(learned.trained[0].path)
    found = proposals.choose(learned.trained)
    every = {path_key(path): path for path in (learned.paths.draw() for _ in range(2000))}
    every.pop(path_key(learned.trained[0].path), None)
    assert found is not None
    assert path_key(found) == min(every, key=lambda key: -learned.predictor.means([every[key]])[0])


def test_a_candidate_comes_again_in_the_next_epoch() -> None:
    learned = Learned("layers")
    proposals = Proposals(learned.predictor, board_of(), learned.paths, predicted=True)
    proposals.note(learned.trained[0].path)
    first = proposals.choose(learned.trained)
    assert first is not None
    proposals.note(first)
    proposals.note(first)
    assert proposals.choose(learned.trained) not in (first, None)
    proposals.forget()
    assert proposals.choose(learned.trained) == first


def test_saved_proposals_go_on() -> None:
    learned = Learned("layers")
    whole, again = (Proposals(learned.predictor, board_of(), learned.paths, predicted=True) for _ in range(2))
    for path, *_ in learned.trained[:3]:
        whole.note(path)
    again.load_state_dict(whole.state_dict(), dict)
    assert again.choose(learned.trained) == whole.choose(learned.trained)


def test_what_is_noise_proposes_nothing() -> None:
    learned = Learned("layers")
    noise = PathPredictor(learned.net.mutables, learned.net.usage)
    generator = np.random.default_rng(0)
    noise.observe([learned.paths.draw() for _ in range(60)], generator.normal(size=60))
    assert learned.predictor.informed
    assert not noise.informed
    proposals = Proposals(noise, board_of(), learned.paths, predicted=True)
    for path, *_ in learned.trained[:3]:
        proposals.note(path)
        assert proposals.choose(learned.trained) in [path for path, *_ in learned.trained]


@pytest.mark.parametrize("name", SPACES)
def test_the_last_candidates_are_better_and_better_known_ones_left_out(name: str) -> None:
    learned = Learned(name)
    board = board_of(*[step.path for step in learned.trained[:3]])
    proposals = Proposals(learned.predictor, board, learned.paths, predicted=True)
    found = []
    for _ in range(4):
        path = proposals.choose_last()
        assert path is not None
        assert path not in board
        found.append(path)
        proposals.note(path)
    means = list(learned.predictor.means(found))
    assert len({path_key(path) for path in found}) == 4
    assert means[0] == max(means)
    if name == "layers":  # where the search is exact
        assert means == sorted(means, reverse=True)


def test_there_are_no_last_candidates_where_the_predictor_does_not_propose() -> None:
    learned = Learned("layers")
    some = board_of(learned.trained[0].path)
    assert Proposals(learned.predictor, some, learned.paths, predicted=False).choose_last() is None
    assert Proposals(learned.predictor, board_of(), learned.paths, predicted=True).choose_last() is None
    empty = PathPredictor(learned.net.mutables, learned.net.usage)
    assert Proposals(empty, some, learned.paths, predicted=True).choose_last() is None
