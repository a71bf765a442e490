from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nni_cream.errors import ConfigError, FileError
from nni_cream.search.board import BoardEntry, PrioritizedBoard

# Few distinct values, so that ties of every kind come up often.
ENTRIES = st.builds(
    BoardEntry,
    path=st.fixed_dictionaries({"a": st.integers(0, 5), "b": st.integers(0, 5)}),
    accuracy=st.integers(0, 20).map(lambda tenth: tenth / 20),
    cost=st.integers(1, 4).map(float),
    step=st.integers(0, 30),
)
VALIDATED = st.dictionaries(ENTRIES.map(lambda entry: entry.key), st.integers(0, 20).map(lambda tenth: tenth / 20))
BOARDS = st.builds(PrioritizedBoard, capacity=st.integers(1, 6), margin=st.sampled_from([0.0, 0.05, 0.2]))


SEVERAL = st.builds(
    lambda path, accuracy, costs, step: BoardEntry(
        path, accuracy, float(costs[0]), step, {"latency": float(costs[1]), "size": float(costs[2])}
    ),
    st.fixed_dictionaries({"a": st.integers(0, 5), "b": st.integers(0, 5)}),
    st.integers(0, 6).map(lambda sixth: sixth / 6),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.integers(0, 30),
)


def entry(name: int, accuracy: float = 0.5, cost: float = 1.0, step: int = 0) -> BoardEntry:
    return BoardEntry({"layer": name}, accuracy, cost, step)


@given(BOARDS, st.one_of(st.lists(ENTRIES, max_size=40), st.lists(SEVERAL, max_size=40)))
def test_invariants_hold_after_any_offers(board, offers):
    for offer in offers:
        before, best = board.entries, board.best
        verdict = board.offer(offer)
        assert len(board) <= board.capacity
        assert len({item.key for item in board.entries}) == len(board)
        assert list(board.entries) == sorted(board.entries, key=lambda item: item.rank_key)
        if not verdict:
            assert board.entries == before
            assert verdict.evicted is None
        else:
            assert offer in board.entries
            assert set(before) - set(board.entries) == ({verdict.evicted} if verdict.evicted else set())
        if best is not None and best not in board.entries:
            assert offer.rank_key < best.rank_key


@given(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=12), st.integers(1, 6), st.randoms())
def test_any_order_of_equal_offers_gives_the_same_board(names, capacity, random):
    offers = [entry(name, step=name // 3) for name in names]
    first, second = PrioritizedBoard(capacity), PrioritizedBoard(capacity)
    for offer in offers:
        first.offer(offer)
    random.shuffle(offers)
    for offer in offers:
        second.offer(offer)
    assert first.entries == second.entries


@given(BOARDS, st.lists(ENTRIES, max_size=20), ENTRIES)
def test_bar_is_exactly_what_a_newcomer_must_exceed(board, offers, candidate):
    for offer in offers:
        board.offer(offer)
    if candidate.path in board:
        return
    newcomer = BoardEntry(candidate.path, candidate.accuracy, candidate.cost, step=100)
    expected = newcomer.accuracy > board.bar(newcomer.cost)
    assert bool(board.offer(newcomer)) == expected


@given(BOARDS, st.lists(ENTRIES, max_size=20))
def test_pareto_front_is_what_nobody_beats_in_both(board, offers):
    for offer in offers:
        board.offer(offer)
    front = board.pareto()
    for item in board.entries:
        beaten = any(
            other.accuracy >= item.accuracy
            and other.cost <= item.cost
            and (other.accuracy, other.cost) != (item.accuracy, item.cost)
            for other in board.entries
        )
        twin = any((other.accuracy, other.cost) == (item.accuracy, item.cost) for other in front)
        assert beaten != twin


@given(BOARDS, st.lists(ENTRIES, max_size=20))
def test_a_board_survives_the_way_through_json(board, offers):
    for offer in offers:
        board.offer(offer)
    copy = PrioritizedBoard.from_json(json.loads(json.dumps(board.to_json())))
    assert (copy.entries, copy.capacity, copy.margin) == (board.entries, board.capacity, board.margin)


def dominates(one: BoardEntry, other: BoardEntry) -> bool:
    """As textbooks on multi-objective optimisation have it: nowhere worse, somewhere better."""
    first, second = ((-item.accuracy, item.cost, *item.other_costs.values()) for item in (one, other))
    return all(a <= b for a, b in zip(first, second, strict=True)) and first != second


@given(BOARDS, st.lists(SEVERAL, max_size=30), SEVERAL)
def test_with_several_costs_the_bar_is_exactly_what_a_newcomer_must_exceed(board, offers, candidate):
    for offer in offers:
        board.offer(offer)
    if candidate.path in board:
        return
    newcomer = replace(candidate, step=100)
    expected = newcomer.accuracy > board.bar(newcomer.costs)
    weakest = board.entries[-1] if board.full else None
    if weakest is not None and dominates(newcomer, weakest) and newcomer.accuracy > weakest.accuracy:
        assert expected == (newcomer.costs != weakest.costs or newcomer.accuracy > weakest.accuracy + board.margin)
    assert bool(board.offer(newcomer)) == expected


@given(BOARDS, st.lists(SEVERAL, max_size=30))
def test_with_several_costs_the_front_is_what_nothing_dominates(board, offers):
    for offer in offers:
        board.offer(offer)
    front = board.pareto()
    for item in board.entries:
        twin = any((other.accuracy, other.costs) == (item.accuracy, item.costs) for other in front)
        assert any(dominates(other, item) for other in board.entries) != twin
    assert len({(item.accuracy, item.costs) for item in front}) == len(front)
    assert [item.cost for item in front] == sorted(item.cost for item in front)


@given(BOARDS, st.lists(SEVERAL, max_size=20))
def test_several_costs_survive_the_way_through_json(board, offers):
    for offer in offers:
        board.offer(offer)
    assert PrioritizedBoard.from_json(json.loads(json.dumps(board.to_json()))).entries == board.entries


def test_cheaper_in_one_cost_and_dearer_in_another_is_not_cheaper():
    board = PrioritizedBoard(1, margin=0.1)
    board.offer(BoardEntry({"layer": 0}, 0.5, 5.0, 0, {"latency": 2.0}))
    assert not board.offer(BoardEntry({"layer": 1}, 0.55, 4.0, 0, {"latency": 2.1}))
    assert board.offer(BoardEntry({"layer": 2}, 0.55, 5.0, 0, {"latency": 1.9}))
    assert board.offer(BoardEntry({"layer": 3}, 0.66, 9.0, 0, {"latency": 9.0}))


def test_an_offer_may_have_a_margin_of_its_own():
    board = PrioritizedBoard(1, margin=0.1)
    board.offer(BoardEntry({"layer": 0}, 0.5, 5.0, 0))
    dearer = BoardEntry({"layer": 1}, 0.55, 6.0, 0)
    assert (board.bar(6.0), board.bar(6.0, margin=0.0), board.bar(4.0, margin=0.2)) == (0.6, 0.5, 0.5)
    assert not board.offer(dearer)
    assert not board.offer(dearer, margin=0.06)
    assert board.offer(dearer, margin=0.0)
    assert board.margin == 0.1


def test_an_entry_of_one_cost_is_written_as_before_there_were_several():
    assert set(entry(1).to_json()) == {"path", "accuracy", "cost", "step"}


def test_an_offer_with_other_costs_than_the_board_is_refused():
    board = PrioritizedBoard(2)
    board.offer(entry(1))
    with pytest.raises(ValueError, match="latency"):
        board.offer(BoardEntry({"layer": 2}, 0.5, 1.0, 0, {"latency": 1.0}))


def test_a_full_board_admits_the_more_accurate_and_cheaper():
    board = PrioritizedBoard(2)
    board.offer(entry(1, 0.9, cost=5.0))
    board.offer(entry(2, 0.5, cost=5.0))
    verdict = board.offer(entry(3, 0.51, cost=4.0))
    assert verdict.admitted
    assert verdict.evicted == entry(2, 0.5, cost=5.0)


def test_a_full_board_turns_away_the_slightly_more_accurate_but_costlier():
    board = PrioritizedBoard(1)
    board.offer(entry(1, 0.5, cost=5.0))
    assert not board.offer(entry(2, 0.54, cost=6.0))


def test_a_full_board_admits_the_costlier_with_a_clear_gap():
    board = PrioritizedBoard(1)
    board.offer(entry(1, 0.5, cost=5.0))
    assert board.offer(entry(2, 0.56, cost=6.0))


def test_bar_is_minus_infinity_while_there_is_room():
    assert PrioritizedBoard(1).bar(1.0) == -math.inf
    assert PrioritizedBoard(1).best is None


def test_rescoring_changes_the_order_and_keeps_paths_and_age():
    board = PrioritizedBoard(3)
    for name in range(3):
        board.offer(entry(name, 0.5 + name / 10, step=name))
    board.rescore(lambda item: 1 - item.accuracy)
    assert [item.path["layer"] for item in board.entries] == [0, 1, 2]
    assert [item.step for item in board.entries] == [0, 1, 2]
    assert board.best is not None
    assert board.best.accuracy == 0.5


def rescored(board: PrioritizedBoard, most: float | None, turn: int) -> list[int]:
    """Rescore, and say who was."""
    names: list[int] = []

    def score(item: BoardEntry) -> float:
        names.append(item.path["layer"])
        return 1 - item.accuracy  # so that the order changes from turn to turn

    board.rescore(score, most, turn)
    return sorted(names)


def full_board(capacity: int) -> PrioritizedBoard:
    board = PrioritizedBoard(capacity)
    for name in range(capacity):
        board.offer(entry(name, name / capacity, step=name))
    return board


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 50))
def test_all_entries_are_rescored_in_as_few_turns_as_it_takes(capacity, most, first):
    board, turns = full_board(capacity), math.ceil(capacity / most)
    seen = [rescored(board, most, turn) for turn in range(first, first + turns)]
    assert {name for names in seen for name in names} == set(range(capacity))
    assert all(len(names) == len(set(names)) == min(most, capacity) for names in seen)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 50))
def test_entries_that_make_whole_turns_are_each_rescored_once(turns, most, start):
    board = full_board(turns * most)
    seen = [name for turn in range(start, start + turns) for name in rescored(board, most, turn)]
    assert sorted(seen) == list(range(turns * most))


@given(st.integers(1, 12), st.floats(0.05, 12), st.integers(1, 60))
def test_a_share_of_entries_is_rescored_in_the_mean_and_none_more_often_than_another(capacity, share, turns):
    board = full_board(capacity)
    seen = Counter(name for turn in range(turns) for name in rescored(board, share, turn))
    assert sum(seen.values()) == int(turns * min(share, capacity))
    counts = [seen[name] for name in range(capacity)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 10), st.integers(0, 50))
def test_a_board_of_no_more_entries_than_are_rescored_at_once_is_rescored_whole(capacity, turn):
    board = full_board(capacity)
    assert rescored(board, 10, turn) == rescored(board, None, turn) == list(range(capacity))


def test_those_whose_turn_it_is_not_keep_their_accuracy_and_lose_the_validated_one():
    board = full_board(4)
    board.validate({item.key: 0.1 for item in board.entries})
    before = {item.path["layer"]: item.accuracy for item in board.entries}
    (name,) = rescored(board, 1, 0)
    after = {item.path["layer"]: item.accuracy for item in board.entries}
    assert after == before | {name: 1 - before[name]}
    assert all(item.validated is None for item in board.entries)
    assert list(board.entries) == sorted(board.entries, key=lambda item: item.rank_key)


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_an_accuracy_that_is_not_finite_is_refused(accuracy):
    with pytest.raises(ValueError, match="must be finite"):
        PrioritizedBoard().offer(entry(1, accuracy))


@pytest.mark.parametrize("capacity", [0, -1, 2.5, "10", True])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ConfigError, match=f"board_size is {capacity!r}"):
        PrioritizedBoard(capacity)


def test_a_negative_margin_is_refused():
    with pytest.raises(ConfigError, match="margin"):
        PrioritizedBoard(margin=-0.1)


GOOD = PrioritizedBoard(2).to_json() | {"entries": [entry(1).to_json()]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"board: the content is \[\]; expected an object with format, capacity, margin, entries"),
        ({"format": "other"}, "format is 'other'; expected 'nni_cream.board/1'"),
        (GOOD | {"capacity": "two"}, "board: capacity is 'two'; expected a whole number of at least 1"),
        (GOOD | {"margin": math.nan}, "margin is nan"),
        (GOOD | {"entries": "none"}, "entries is 'none'; expected a list"),
        (
            GOOD | {"entries": [entry(index).to_json() for index in range(3)]},
            "entries is a list of 3; expected at most 2",
        ),
        (GOOD | {"entries": [entry(1).to_json(), entry(1).to_json()]}, "one path twice; expected different paths"),
        (GOOD | {"entries": [{"path": "x"}]}, r"entries\[0\]\.path is 'x'; expected an object"),
        (GOOD | {"entries": [entry(1).to_json() | {"accuracy": None}]}, r"entries\[0\]\.accuracy is None"),
        (GOOD | {"entries": [entry(1).to_json() | {"other_costs": 3}]}, r"entries\[0\]\.other_costs is 3"),
        (GOOD | {"entries": [entry(1).to_json() | {"other_costs": {"latency": "1"}}]}, "other_costs.latency is '1'"),
        (
            GOOD | {"entries": [entry(1).to_json(), entry(2).to_json() | {"other_costs": {"b": 1}}]},
            "different other_costs",
        ),
    ],
)
def test_a_broken_or_foreign_board_is_refused_with_the_key(content, message):
    with pytest.raises(FileError, match=message):
        PrioritizedBoard.from_json(content)


def test_state_of_a_board_with_other_settings_is_refused():
    with pytest.raises(ConfigError, match="board_size 3"):
        PrioritizedBoard(2).load_state_dict(PrioritizedBoard(3).state_dict())


def test_state_is_restored_with_the_spaces_own_values():
    board = PrioritizedBoard(2)
    board.offer(BoardEntry({"size": (3, 3)}, 0.5, 1.0, 0))
    copy = PrioritizedBoard(2)
    copy.load_state_dict(json.loads(json.dumps(board.state_dict())), lambda path: {"size": tuple(path["size"])})
    assert copy.entries == board.entries


@given(BOARDS, st.lists(ENTRIES, max_size=20), VALIDATED)
def test_a_validated_accuracy_takes_the_place_of_the_score(board, offers, accuracies):
    for offer in offers:
        board.offer(offer)
    before = {item.key: item for item in board.entries}
    board.validate(accuracies)
    assert {item.key: replace(item, validated=None) for item in board.entries} == before
    ranks = [accuracies.get(item.key, item.accuracy) for item in board.entries]
    assert ranks == sorted(ranks, reverse=True)
    assert [item.standing for item in board.entries] == ranks
    assert PrioritizedBoard.from_json(json.loads(json.dumps(board.to_json()))).entries == board.entries
    front = board.pareto()
    for item in board.entries:
        beaten = any(
            (other.standing, -other.cost) != (item.standing, -item.cost)
            and other.standing >= item.standing
            and other.cost <= item.cost
            for other in board.entries
        )
        assert (item in front) <= (not beaten)


def test_rescoring_drops_validated_accuracies_since_the_weights_have_moved():
    board = PrioritizedBoard(2)
    board.offer(entry(1))
    board.validate({entry(1).key: 0.9})
    board.rescore(lambda _: 0.3)
    assert [(item.accuracy, item.validated) for item in board.entries] == [(0.3, None)]


def test_a_board_of_a_version_without_final_validation_is_read():
    board = PrioritizedBoard(2)
    board.offer(entry(1))
    content = board.to_json()
    assert "validated" not in content["entries"][0]
    assert PrioritizedBoard.from_json(content).best == entry(1)
