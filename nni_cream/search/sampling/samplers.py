"""Ways to draw paths other than uniformly: strictly fair to every value, or near the entries of the board."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.board import PrioritizedBoard
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.random_paths import PathSampler

__all__ = ["SAMPLINGS", "BoardSampler", "FairSampler", "make_sampler"]

SAMPLINGS = ("uniform", "fair", "board")


class FairSampler(PathSampler):
    """Every value of every choice equally often (strict fairness of FairNAS: Chu, Zhang and Xu, 2019, section 3.3).

    Let m be the largest number of values. In each round of m draws, a choice of m values has each of them once. A
    choice of fewer values goes through shuffled rounds of its own. Which values come together is left to chance.

    Within a range of cost, a round is shuffled until all of its paths lie within the range. Since a round holds every
    value, its mean cost hardly changes: a range that does not reach well to both sides of that is refused.

    Parameters
    ----------
    space
        See :class:`~nni_cream.search.PathSampler`.
    seed
        Same seed, same sequence of paths.
    cost_range
        (low, high), see :class:`~nni_cream.search.PathSampler`.

    Raises
    ------
    SpaceError
        If equally often makes no sense in the space: it has constraints, probabilities of its own, choices of several
        values at once, or choices that not every path uses.
    """

    def __init__(self, space: Mutable, seed: int = 0, cost_range: Sequence[float | None] | None = None) -> None:
        super().__init__(space, seed, cost_range)
        self._check_fair()
        self._values = {label: _values_of(self._mutables[label]) for label in self._draws}
        self._round = max(map(len, self._values.values()))
        self._left: dict[str, list[int]] = {label: [] for label in self._values}  # of the choice's own round
        self._waiting: list[dict[str, int]] = []  # of the round of all, the next one last
        self._kept = False  # whether a round was found, so that there are others

    def _check_fair(self) -> None:
        problem = ""
        several = [
            label
            for label, item in self._mutables.items()
            if isinstance(item, CategoricalMultiple) and item.n_chosen != 1
        ]
        if self._constraints:
            problem = "it has constraints between its choices"
        elif self._usage.conditional:
            problem = "it has choices that not every path uses (within a Repeat of variable depth, or in a candidate)"
        elif several:
            problem = f"{several[0]!r} chooses several of its values at once"
        elif not self._even:
            problem = "it gives its values probabilities of their own"
        if problem:
            raise SpaceError(
                f"sampling is 'fair', but the space cannot use each value equally often: {problem}; use 'uniform'"
            )

    def draw(self) -> Path:
        """Draw the next path.

        Returns
        -------
        Path
            A new sample. :attr:`rejected` says how many had to be thrown away for it, at the first of a round.

        Raises
        ------
        SpaceError
            If no first round was found whose paths all lie within the range.
        """
        self.rejected = 0
        if not self._waiting:
            self._next_round()
        indices = self._waiting.pop()
        return {label: _decoded(self._mutables[label], self._values[label][index]) for label, index in indices.items()}

    def _next_round(self) -> None:
        for attempt in itertools.count():
            if attempt >= self.attempts and not self._kept:
                break
            left = {label: self._dealt(label, rest) for label, rest in self._left.items()}
            waiting = [{label: cards[turn] for label, cards in left.items()} for turn in range(self._round)]
            if all(map(self._is_allowed, waiting)):
                self.rejected = attempt * self._round
                self._left = {label: cards[self._round :] for label, cards in left.items()}
                self._waiting, self._kept = waiting[::-1], True
                return
        ranges = ", ".join(limit.describe() for limit in self._limits)
        raise SpaceError(
            f"sampling is 'fair', but none of {self.attempts} rounds of {self._round} paths that hold each value "
            f"equally often kept cost_range {ranges}; widen the range to both sides of the mean cost, or use 'uniform'"
        )

    def _dealt(self, label: str, rest: Sequence[int]) -> list[int]:
        """Return what is left of a choice's round, and as many new ones as the round of all takes."""
        cards = list(rest)
        while len(cards) < self._round:
            cards += self._generator.permutation(len(self._values[label])).tolist()
        return cards

    def _is_allowed(self, indices: Mapping[str, int]) -> bool:
        if not self._limits:
            return True
        path = {label: _decoded(self._mutables[label], self._values[label][index]) for label, index in indices.items()}
        return all(limit.allows(limit.cost(path)) for limit in self._limits)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator and of the rounds as plain values."""
        left, waiting = _plain(self._left), list(map(_plain, self._waiting))
        return {**super().state_dict(), "left": left, "waiting": waiting, "kept": self._kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved sampler stood."""
        super().load_state_dict(state)
        self._left = {label: list(state["left"][label]) for label in self._values}
        self._waiting = [{label: indices[label] for label in self._values} for indices in state["waiting"]]
        self._kept = state.get("kept", True)  # a checkpoint that says nothing of it was written after a draw


class BoardSampler(PathSampler):
    """Every other path, on average, is a mutation of a board entry; the others are uniform.

    For a mutation, an entry is picked at random, and each of the choices that it uses is drawn again with a probability
    of 1 / (their number), one of them at least. Choices that come into use by that are drawn, too. Within a range of
    cost, mutations are tried until one lies within the range, a hundred times at most; then a uniform path is drawn.

    Parameters
    ----------
    space
        See :class:`~nni_cream.search.PathSampler`.
    seed
        Same seed and same boards, same sequence of paths.
    cost_range
        (low, high), see :class:`~nni_cream.search.PathSampler`.
    board
        The live board. As long as it is empty, all paths are uniform.
    """

    mutations = 100
    share = 0.5

    def __init__(
        self,
        space: Mutable,
        seed: int = 0,
        cost_range: Sequence[float | None] | None = None,
        board: PrioritizedBoard | None = None,
    ) -> None:
        super().__init__(space, seed, cost_range)
        self._board = PrioritizedBoard(1) if board is None else board

    def draw(self) -> Path:
        """Draw the next path.

        Returns
        -------
        Path
            A new sample. :attr:`rejected` says how many had to be thrown away for it.
        """
        entries = self._board.entries
        if not entries or self._generator.random() >= self.share:
            return super().draw()
        for attempt in range(self.mutations):
            path = self._mutated(entries[int(self._generator.integers(len(entries)))].path)
            if self._is_allowed(path):
                self.rejected = attempt
                return path
        path = super().draw()
        self.rejected += self.mutations
        return path

    def _mutated(self, path: Path) -> Path:
        used = sorted(self._usage.labels(path) & self._draws.keys(), key=list(self._draws).index)
        hits = [label for label in used if self._generator.random() * len(used) < 1]
        hits = hits or [used[int(self._generator.integers(len(used)))]]
        mutant = {**path, **self._drawn(hits)}
        for _ in self._draws:  # one choice may bring another into use, and that one a third
            fresh = [label for label in self._draws if label in self._usage.labels(mutant) and label not in used]
            if not fresh:
                break
            used += fresh
            mutant |= self._drawn(fresh)
        return self._usage.canonical(mutant)

    def _drawn(self, labels: Sequence[str]) -> Path:
        return {label: self._draws[label](self._generator) for label in labels}

    def _is_allowed(self, path: Path) -> bool:
        if any(constraint.check_contains(path) is not None for constraint in self._constraints):
            return False
        return all(limit.allows(limit.cost(path)) for limit in self._limits)


def make_sampler(
    sampling: str,
    space: Mutable,
    seed: int = 0,
    cost_range: Sequence[float | None] | None = None,
    board: PrioritizedBoard | None = None,
) -> PathSampler:
    """Make the sampler of a name.

    Parameters
    ----------
    sampling
        One of ``SAMPLINGS``.
    space
        See :class:`~nni_cream.search.PathSampler`.
    seed
        Of its generator.
    cost_range
        (low, high).
    board
        See :class:`BoardSampler`.

    Returns
    -------
    PathSampler
        A new one.

    Raises
    ------
    ConfigError
        If the name is not one of ``SAMPLINGS``.
    """
    if sampling == "uniform":
        return PathSampler(space, seed, cost_range)
    if sampling == "fair":
        return FairSampler(space, seed, cost_range)
    if sampling == "board":
        return BoardSampler(space, seed, cost_range, board)
    raise ConfigError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}")


def _plain(by_label: Mapping[str, Any]) -> dict[str, Any]:
    """NNI's labels are of a class of their own, which a checkpoint could not be read with safely."""
    return {str(label): value for label, value in by_label.items()}


def _values_of(mutable: LabeledMutable) -> list[Any]:
    assert isinstance(mutable, Categorical | CategoricalMultiple)
    return list(mutable.values)


def _decoded(mutable: LabeledMutable, value: Any) -> Any:
    """Return what a path holds of a value: a list of it where NNI could choose several."""
    return [value] if isinstance(mutable, CategoricalMultiple) else value
