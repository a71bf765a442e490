"""nni_cream: the board's best is the result."""

from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace, model_context
from peer_task import SCORED, evaluator, main

from nni_cream import CreamStrategy, spaces
from nni_cream.search import Scoring


# user: begin
def search(job):
    def train(epochs, steps):
        strategy = CreamStrategy(cost_range=(None, job.limit), scoring=Scoring(images=SCORED), seed=job.seed)
        space = RawFormatModelSpace(spaces.create("nas-bench-macro"), evaluator(job, epochs, steps))
        strategy(space, SequentialExecutionEngine())
        return strategy.board

    return dict(job.spend(train).best.path)
    # user: end


def build(choice):
    with model_context(choice):
        return spaces.create("nas-bench-macro")


if __name__ == "__main__":
    main(search, build)
