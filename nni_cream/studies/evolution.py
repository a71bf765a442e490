"""Search on a trained supernet by evolution or at random, to compare with the board.

NNI's ``RegularizedEvolution`` cannot be used: it submits models to an execution engine, cannot be seeded, and drops
paths above a cost limit only after breeding them. This is the evolution of Guo et al., "Single Path One-Shot Neural
Architecture Search with Uniform Sampling" (ECCV 2020, section 3.4), with its settings by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nni_cream.search import Path, path_key

__all__ = ["Candidates", "ScoredPath", "evolve", "random_search"]

Score = Callable[[Path], float]


@dataclass(frozen=True)
class ScoredPath:
    """A path with its score on the supernet.

    Parameters
    ----------
    path
        NNI sample.
    score
        Higher is better.
    """

    path: Path
    score: float


class Candidates:
    """Hands out paths, each at most once.

    Parameters
    ----------
    draw
        Draws an allowed path uniformly.
    redraw
        Draws any path of the space uniformly; mutations take their choices from it. Default: ``draw``.
    allows
        Whether a path may be scored: it is within the cost limit and breaks no rule of the space.
    canonical
        Brings a path into the form in which equal architectures are equal.
    """

    attempts = 10_000
    """Draws that are all known or not allowed, after which the space counts as exhausted."""

    def __init__(
        self,
        draw: Callable[[], Path],
        redraw: Callable[[], Path] | None = None,
        allows: Callable[[Path], bool] = lambda path: True,
        canonical: Callable[[Path], Path] = dict,
    ) -> None:
        self._draw = draw
        self.redraw = redraw or draw
        self._allows = allows
        self._canonical = canonical
        self._seen: set[str] = set()

    def fresh(self) -> Path | None:
        """Return a new uniform path, or ``None`` if none seems to be left."""
        return next((path for _ in range(self.attempts) if (path := self.admit(self._draw())) is not None), None)

    def admit(self, path: Path) -> Path | None:
        """Return the path in its canonical form, or ``None`` if it is not allowed or already known."""
        path = self._canonical(path)
        key = path_key(path)
        if key in self._seen or not self._allows(path):
            return None
        self._seen.add(key)
        return path


def random_search(candidates: Candidates, score: Score) -> Iterator[ScoredPath]:
    """Score uniformly random paths until the space is exhausted."""
    while (path := candidates.fresh()) is not None:
        yield ScoredPath(path, score(path))


def evolve(
    candidates: Candidates, score: Score, population: int = 50, mutation: float = 0.1, seed: int = 0
) -> Iterator[ScoredPath]:
    """Score the paths of an evolution until the space is exhausted.

    The first generation is random. Each next one has the best fifth of a population as parents (10 of 50 in the paper),
    among all paths scored so far. Half of its children are mutations, half crossovers. A child that is known or not
    allowed is bred again, and finally replaced by a random path. The order of paths does not depend on how many the
    caller takes, so a small budget is the start of a larger one.

    Parameters
    ----------
    candidates
        Source of random paths, and of what is allowed.
    score
        Scores a path on the supernet.
    population
        Paths of a generation.
    mutation
        Probability that a mutation draws a choice again.
    seed
        Decides parents, mutations and crossovers.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    everyone: list[ScoredPath] = []
    while True:
        parents = sorted(everyone, key=lambda item: -item.score)[: max(2, population // 5)]
        for place in range(population):
            mutates = place < population // 2
            child = _bred(candidates, parents, mutation if mutates else None, generator) if parents else None
            child = candidates.fresh() if child is None else child
            if child is None:
                return
            everyone.append(ScoredPath(child, score(child)))
            yield everyone[-1]


def _bred(
    candidates: Candidates, parents: Sequence[ScoredPath], mutation: float | None, generator: np.random.Generator
) -> Path | None:
    for _ in range(100):
        one, other = (parents[int(place)].path for place in generator.integers(len(parents), size=2))
        chance = mutation
        if chance is None:
            chance = 0.5  # crossover: each choice from either parent
        else:
            other = candidates.redraw()
        child = {label: other[label] if generator.random() < chance else value for label, value in one.items()}
        if (admitted := candidates.admit(child)) is not None:
            return admitted
    return None
