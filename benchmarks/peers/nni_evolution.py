"""NNI's RandomOneShot, then RegularizedEvolution on its weights, as NNI's documentation advises.

Two thirds of the time train the supernet, the rest scores paths. The documented ``Classification(max_epochs=0)`` ends
with ``KeyError: 'val_acc'`` in Lightning 2, so a function scores. It uses the statistics of each batch, since running
statistics mix all paths. The space refuses paths above the limit, the filter does so in training. The population is
small, like the time.
"""

import nni
from nni.mutable import SampleValidationError
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import RandomOneShot, RegularizedEvolution
from nni_parts import LimitedSpace, build, run_strategy
from peer_task import accuracy, main


# user: begin
class RefusingSpace(LimitedSpace):
    def check_contains(self, sample):
        wrong = super().check_contains(sample)
        return wrong or (None if self.fits(sample) else SampleValidationError("too many multiply-adds"))


def search(job):
    rule = LimitedSpace().restrict(job.limit)

    def train(epochs, steps):
        return run_strategy(RandomOneShot(filter=rule.fits), job, epochs, steps, space=RefusingSpace)

    space, _ = job.spend(train, 2 / 3)

    class Engine(SequentialExecutionEngine):
        def budget_available(self):
            return job.used() < job.seconds

    def score(model):
        nni.report_final_result(accuracy(model.train(), job))

    evolution = RegularizedEvolution(population_size=10, sample_size=3, mutation_prob=0.2, seed=job.seed)
    evolution(RawFormatModelSpace(space, FunctionalEvaluator(score)), Engine())
    return next(evolution.list_models()).sample
    # user: end


if __name__ == "__main__":
    main(search, build)
