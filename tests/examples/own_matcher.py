"""A matcher of your own: the teacher is the entry whose outputs are most like the student's."""

from collections.abc import Sequence

from nni_cream.search import BoardEntry, Match, Matcher, Path


class MostAlike(Matcher):
    """Picks the entry with the smallest distance between outputs on the probe images."""

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        if not entries:
            return None  # before the board has an entry, nothing is distilled
        own = self.outputs(student)
        nearest = min(entries, key=lambda entry: float((self.outputs(entry.path) - own).norm()))
        return Match(nearest, self.weight)
