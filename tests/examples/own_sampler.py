"""A sampler of one's own: half of the paths are mutations of entries of the board."""

from nni_cream.search import PathSampler


class MutatingSampler(PathSampler):
    """Draws randomness from ``self.paths.generator`` alone, so that a resumed search draws the same paths."""

    def __init__(self, share=0.5):
        self.share = share

    def draw(self):
        generator, entries = self.paths.generator, self.board.entries
        if entries and generator.random() < self.share:
            parent = entries[int(generator.integers(len(entries)))].path
            labels = self.paths.used(parent)
            mutant = self.paths.redrawn(parent, [labels[int(generator.integers(len(labels)))]])
            if self.paths.allows(mutant):  # the ranges of the costs, and the constraints of the space
                return mutant
        return self.paths.draw()
