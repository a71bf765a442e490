"""The prioritized path board (paper, section 3.1): the best paths so far, kept by selective competition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from schema import Optional

from nni_cream.errors import ConfigError
from nni_cream.json_reader import NOT_NEGATIVE, NUMBER, WHOLE, check_json, format_of, wrong_field
from nni_cream.options import whole
from nni_cream.search.paths.encoded_path import PATH_FIELDS, Path, encode_path, path_key

__all__ = ["BOARD_FIELDS", "ENTRY_FIELDS", "BoardEntry", "BoardEvent", "PrioritizedBoard", "Verdict"]

_FORMAT = "nni_cream.board/1"
_HINT = "Take a board as a search wrote it."

_FINAL = ("validated", "estimate")
ENTRY_FIELDS = {
    "path": PATH_FIELDS,
    "accuracy": NUMBER,
    "cost": NUMBER,
    "step": WHOLE,
    Optional("other_costs"): {str: NUMBER},
    Optional("validated"): NUMBER,
    Optional("estimate"): NUMBER,
}
BOARD_FIELDS = {
    "format": format_of(_FORMAT),
    "capacity": whole(1),
    "margin": NOT_NEGATIVE,
    "entries": [ENTRY_FIELDS],
}


@dataclass(frozen=True)
class BoardEntry:
    """One path and its measurements.

    Parameters
    ----------
    path
        NNI sample: label -> choice.
    accuracy
        Score on the validation subset; top-1 as a fraction in [0, 1] for classification. Higher is better.
    cost
        Complexity: multiply-adds of one input, parameters, or the unit of the user's own cost function.
    step
        Training step at which the path was scored; its age counts from there.
    other_costs
        Further costs by their names; ``cost`` is the primary one.
    validated
        Accuracy on all validation images at the end of the search; ``None`` before that.
    estimate
        The same joined with what the predictor makes of the path; ``None`` where it knows nothing.
    """

    path: Path
    accuracy: float
    cost: float
    step: int
    other_costs: Mapping[str, float] = field(default_factory=dict)
    validated: float | None = None
    estimate: float | None = None
    key: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Computed once: membership is tested at every step.
        object.__setattr__(self, "key", path_key(self.path))

    def __hash__(self) -> int:
        return hash((self.key, self.accuracy, self.costs, self.step, self.validated, self.estimate))

    @property
    def standing(self) -> float:
        """The accuracy that decides its rank: the estimate or the validated one, once there is one."""
        return next(value for value in (self.estimate, self.validated, self.accuracy) if value is not None)

    @property
    def costs(self) -> tuple[float, ...]:
        """All costs, the primary one first."""
        return (self.cost, *self.other_costs.values())

    @property
    def rank_key(self) -> tuple[float, float, int, str]:
        """Total order with the best first, by accuracy, then lower cost, then age, then the path itself."""
        # A tie must not compare paths, whose choices may have no order: the reference crashed there.
        return (-self.standing, self.cost, self.step, self.key)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BoardEntry:
        """Make an entry of checked JSON values."""
        final = {name: float(content[name]) for name in _FINAL if content.get(name) is not None}
        return cls(
            path=dict(content["path"]),
            accuracy=float(content["accuracy"]),
            cost=float(content["cost"]),
            step=content["step"],
            other_costs={name: float(cost) for name, cost in content.get("other_costs", {}).items()},
            **final,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; further costs, ``validated`` and ``estimate`` only where they exist."""
        content = {"path": encode_path(self.path), "accuracy": self.accuracy, "cost": self.cost, "step": self.step}
        if self.other_costs:
            content["other_costs"] = dict(self.other_costs)
        return content | {name: getattr(self, name) for name in _FINAL if getattr(self, name) is not None}


@dataclass(frozen=True)
class Verdict:
    """The outcome of an offer; true if the candidate is on the board now."""

    admitted: bool
    evicted: BoardEntry | None = None  # only a full board has to lose one

    def __bool__(self) -> bool:
        return self.admitted


@dataclass(frozen=True)
class BoardEvent:
    """An event that listeners receive.

    Parameters
    ----------
    kind
        ``"scored"``: a candidate was scored; ``"rescored"``: every entry got a fresh accuracy.
    step
        Training batches so far.
    epoch
        Epoch, from 0.
    candidate
        Encoded path, accuracy (``None`` if rejected early), cost and other costs; ``None`` for ``"rescored"``.
    admitted
        Whether the candidate entered.
    evicted
        The entry that left for it.
    """

    kind: str
    step: int
    epoch: int
    candidate: dict[str, Any] | None = None
    admitted: bool = False
    evicted: BoardEntry | None = None


class PrioritizedBoard:
    """The K best paths, best first.

    *Selective competition*: a candidate enters while there is room. On a full board it replaces the weakest entry if it
    is more accurate **and** cheaper, or more accurate by more than ``margin``. Equals keep their order of age.

    Where entries have several costs, *cheaper* means dearer in none of them and cheaper in at least one; among equally
    accurate entries the primary cost decides the rank.

    Parameters
    ----------
    capacity
        K, the number of entries (paper: 10).
    margin
        Gap in accuracy from which on cost does not matter (reference code: 5 points of top-1, here 0.05).

    Raises
    ------
    ConfigError
        If the capacity is below 1 or the margin is negative.

    Examples
    --------
    >>> board = PrioritizedBoard(capacity=1, margin=0.05)
    >>> bool(board.offer(BoardEntry({"layer": "conv"}, accuracy=0.70, cost=100, step=1)))
    True
    >>> bool(board.offer(BoardEntry({"layer": "pool"}, accuracy=0.72, cost=150, step=2)))  # a small lead, and costlier
    False
    >>> bool(board.offer(BoardEntry({"layer": "pool"}, accuracy=0.72, cost=90, step=3)))
    True
    >>> board.best.path
    {'layer': 'pool'}
    """

    def __init__(self, capacity: int = 10, margin: float = 0.05) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ConfigError(f"board_size is {capacity!r}; expected a whole number of at least 1.")
        if not (isinstance(margin, int | float) and 0 <= margin < math.inf):
            raise ConfigError(f"margin is {margin!r}; expected an accuracy gap of at least 0, such as 0.05.")
        self.capacity = capacity
        self.margin = float(margin)
        self._entries: list[BoardEntry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: Mapping[str, Any]) -> bool:
        key = path_key(path)
        return any(entry.key == key for entry in self._entries)

    @property
    def entries(self) -> tuple[BoardEntry, ...]:
        """All entries, best first."""
        return tuple(self._entries)

    @property
    def full(self) -> bool:
        """Whether a newcomer has to compete."""
        return len(self._entries) >= self.capacity

    @property
    def best(self) -> BoardEntry | None:
        """The most accurate entry, ``None`` on an empty board."""
        return self._entries[0] if self._entries else None

    def bar(self, costs: float | Sequence[float], margin: float | None = None) -> float:
        """Return the accuracy that a candidate of these costs must exceed; minus infinity while there is room.

        ``margin`` takes the place of the board's own.
        """
        if not self.full:
            return -math.inf
        weakest = self._entries[-1]
        costs = tuple(costs) if isinstance(costs, Sequence) else (costs,)
        # A clear gap outweighs cost; otherwise a cheap board would keep out better paths for ever.
        margin = self.margin if margin is None else margin
        return weakest.accuracy if _cheaper(costs, weakest.costs) else weakest.accuracy + margin

    def offer(self, candidate: BoardEntry, margin: float | None = None) -> Verdict:
        """Let a scored candidate compete, with another ``margin`` if given; a rejected offer changes nothing.

        Raises ValueError if accuracy or cost is not finite, or its costs have other names than the entries'.
        """
        if not all(map(math.isfinite, (candidate.accuracy, *candidate.costs))):
            raise ValueError(f"accuracy {candidate.accuracy} and cost {candidate.costs} of an offer must be finite")
        found = [[*entry.other_costs] for entry in (*self._entries[:1], candidate)]
        if found[0] != found[-1]:
            raise ValueError(f"an offer has the other costs {found[-1]}; expected {found[0]}")
        # One path, one place: a second copy would teach itself. Rescoring refreshes accuracies.
        if any(entry.key == candidate.key for entry in self._entries):
            return Verdict(False)
        evicted = None
        if self.full:
            if not self._beats(candidate, self._entries[-1], margin):
                return Verdict(False)
            evicted = self._entries.pop()
        self._entries.append(candidate)
        self._sort()
        return Verdict(True, evicted)

    def _beats(self, candidate: BoardEntry, weakest: BoardEntry, margin: float | None) -> bool:
        # Equals: the total order decides, so that every process and a resumed search agree.
        if (candidate.accuracy, candidate.costs) == (weakest.accuracy, weakest.costs):
            return candidate.rank_key < weakest.rank_key
        return candidate.accuracy > self.bar(candidate.costs, margin)

    def rescore(self, score: Callable[[BoardEntry], float], share: float | None = None, turn: int = 0) -> None:
        """Give so many entries (``None``: all) a fresh accuracy, in the mean over the turns, and sort the board."""
        chosen = self._taking_turns(share, turn)
        self._entries = [
            replace(
                entry,
                accuracy=float(score(entry)) if entry.key in chosen else entry.accuracy,
                validated=None,
                estimate=None,
            )
            for entry in self._entries
        ]
        self._sort()

    def _taking_turns(self, share: float | None, turn: int) -> set[str]:
        # By key, not by rank: ranks change with each rescoring, and an entry could miss its turn.
        keys = sorted(entry.key for entry in self._entries)
        each = float(len(keys)) if share is None else min(share, float(len(keys)))
        return {keys[place % len(keys)] for place in range(int(turn * each), int((turn + 1) * each))}

    def validate(self, accuracies: Mapping[str, float], estimates: Mapping[str, float] | None = None) -> None:
        """Set the validated accuracies and estimates by key, remove all others, and sort the board."""
        # An old validated accuracy must not outrank a new one.
        self._entries = [
            replace(entry, validated=accuracies.get(entry.key), estimate=(estimates or {}).get(entry.key))
            for entry in self._entries
        ]
        self._sort()

    def pareto(self) -> tuple[BoardEntry, ...]:
        """Return entries that no other beats in accuracy and all costs, cheapest first."""
        front: list[BoardEntry] = []
        for entry in self._entries:  # best first: of two with the same costs the former is at least as good
            rivals = [other for other in self._entries if other.standing >= entry.standing]
            beaten = any(_cheaper(other.costs, entry.costs) for other in rivals)
            if not beaten and all(other.costs != entry.costs for other in front):
                front.append(entry)
        return tuple(sorted(front, key=lambda entry: (entry.cost, entry.rank_key)))

    def _sort(self) -> None:
        self._entries.sort(key=lambda entry: entry.rank_key)

    def to_json(self) -> dict[str, Any]:
        """Return the board as plain JSON values, best entry first."""
        return {
            "format": _FORMAT,
            "capacity": self.capacity,
            "margin": self.margin,
            "entries": [entry.to_json() for entry in self._entries],
        }

    @classmethod
    def from_json(cls, content: Any, where: object = "board") -> PrioritizedBoard:
        """Read the output of :meth:`to_json`; the ``FileError`` names ``where`` and the first wrong key.

        Paths keep their JSON values; :func:`~nni_cream.search.paths.choices.decode_path` makes samples of them.
        """
        check_json(content, where, _HINT, BOARD_FIELDS)
        board = cls(content["capacity"], content["margin"])
        board._entries = entries = [BoardEntry.from_json(item) for item in content["entries"]]
        if len(entries) > board.capacity:
            raise wrong_field(where, "entries", f"a list of {len(entries)}", f"at most {board.capacity}", _HINT)
        if len({entry.key for entry in entries}) < len(entries):
            raise wrong_field(where, "entries", "a list with one path twice", "different paths", _HINT)
        if len({tuple(entry.other_costs) for entry in entries}) > 1:
            raise wrong_field(where, "entries", "a list with different other_costs", "the same in all entries", _HINT)
        board._sort()
        return board

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; the same as :meth:`to_json`."""
        return self.to_json()

    def load_state_dict(self, state: Mapping[str, Any], decode: Callable[[Mapping[str, Any]], Path] = dict) -> None:
        """Restore a checkpoint; raise ConfigError if its capacity or margin differ."""
        saved = PrioritizedBoard.from_json(state)
        if (saved.capacity, saved.margin) != (self.capacity, self.margin):
            raise ConfigError(
                f"the checkpoint's board has board_size {saved.capacity} and margin {saved.margin}; expected "
                f"{self.capacity} and {self.margin}, those of this search. Resume with the settings that the search "
                "was started with."
            )
        self._entries = [replace(entry, path=decode(entry.path)) for entry in saved._entries]


def _cheaper(costs: Sequence[float], than: Sequence[float]) -> bool:
    """Whether costs are higher in nothing and lower in something."""
    pairs = list(zip(costs, than, strict=True))
    return all(one <= other for one, other in pairs) and any(one < other for one, other in pairs)
