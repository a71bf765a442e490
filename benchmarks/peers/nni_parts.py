"""What users of NNI's strategies share: a limit of multiply-adds, which these strategies don't have.

NNI's own FlopsProfiler ends with an error in this space: it does not know the shapes behind ``contiguous``.
"""

from itertools import product

from nni.mutable import SampleValidationError
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace, model_context
from peer_task import evaluator, multiply_adds

from nni_cream.spaces.nas_bench_macro import NasBenchMacroSpace


def build(choice):
    with model_context(choice):
        return NasBenchMacroSpace()


# user: begin
class LimitedSpace(NasBenchMacroSpace):
    def restrict(self, limit):
        self.limit = limit
        self.values = {label: choice.values for label, choice in self.simplify().items()}
        first = {label: values[0] for label, values in self.values.items()}
        self.base = multiply_adds(build(first))
        self.extra = {
            (label, value): multiply_adds(build({**first, label: value})) - self.base
            for label, values in self.values.items()
            for value in values
        }
        return self

    def cost(self, sample):
        return self.base + sum(self.extra[item] for item in sample.items())

    def fits(self, sample):
        return self.cost(sample) <= self.limit

    def check_contains(self, sample):
        wrong = super().check_contains(sample)
        return wrong or (None if self.fits(sample) else SampleValidationError("too many multiply-adds"))


def run_strategy(strategy, job, epochs, steps, *parts):
    space = LimitedSpace().restrict(job.limit)
    model = RawFormatModelSpace(space, evaluator(job, epochs, steps, *parts))
    strategy(model, SequentialExecutionEngine())
    return space, strategy


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
