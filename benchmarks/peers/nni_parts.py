"""What users of NNI's strategies share: the costs of paths, and a strategy's run.

In other spaces NNI's own FlopsProfiler would do instead of ``LimitedSpace``. This one, which is nni_cream's, calls
``contiguous``, and that profiler does not know the shapes behind it.
"""

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


def run_strategy(strategy, job, epochs, steps, *parts, space=LimitedSpace):
    space = space().restrict(job.limit)
    model = RawFormatModelSpace(space, evaluator(job, epochs, steps, *parts))
    strategy(model, SequentialExecutionEngine())
    return space, strategy
    # user: end
