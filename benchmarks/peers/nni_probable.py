"""What users of NNI's differentiable strategies share: the most probable path within the limit."""

from itertools import product


# user: begin
def most_probable(space, strategy):
    chances = strategy.oneshot_module.export_probs()
    best, found = 0.0, None
    for values in product(*space.values.values()):
        sample = dict(zip(space.values, values, strict=True))
        chance = 1.0
        for label, value in sample.items():
            chance *= chances[label][value]
        if chance > best and space.fits(sample):
            best, found = chance, sample
    return found
    # user: end
