"""A sampler of your own: half of its paths differ from a board entry in one or two choices."""

from nni_cream.search import Path, PathSampler


class NearTheBoard(PathSampler):
    """Draws a mutation of a board entry with a probability of `share`, else a uniform path."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def draw(self) -> Path:
        random, entries = self.paths.generator, self.board.entries
        if entries and random.random() < self.share:
            for _ in range(100):  # a mutation may lie outside the cost ranges
                entry = entries[int(random.integers(len(entries)))]
                labels = random.choice(self.paths.used(entry.path), size=2)
                path = self.paths.redrawn(entry.path, [str(label) for label in labels])
                if self.paths.allows(path):
                    return path
        return self.paths.draw()
