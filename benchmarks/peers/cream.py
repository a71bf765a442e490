"""nni_cream: the board's best is the result, after the final validation, which takes up to a tenth of the time."""

from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace, model_context
from peer_task import SCORED, evaluator, main, scoring_images

from nni_cream import CreamStrategy, spaces
from nni_cream.search import Scoring
from nni_cream.training import make_loader


# user: begin
def search(job):
    def train(epochs, steps):
        scoring = Scoring(images=SCORED, recalibration_images=SCORED)
        strategy = CreamStrategy(cost_range=(None, job.limit), scoring=scoring, seed=job.seed)
        space = RawFormatModelSpace(spaces.create("nas-bench-macro"), evaluator(job, epochs, steps))
        strategy(space, SequentialExecutionEngine())
        return strategy

    strategy = job.spend(train, 0.9)
    best = strategy.finalise(make_loader(job.images.train, 256, shuffle=True), make_loader(scoring_images(job), 256))[0]
    return dict(best.entry.path)
    # user: end


def build(choice):
    with model_context(choice):
        return spaces.create("nas-bench-macro")


if __name__ == "__main__":
    main(search, build)
