"""NNI's ENAS: a controller proposes paths, and the best of its last proposals within the limit is the result.

With Lightning 2 NNI no longer learns which batches train and which validate, so the loaders tag them. Its reward has to
be logged in each step. It needs tianshou below 1 and gym. NNI's penalty lowers the reward of paths above the limit. The
controller is updated after five validation batches instead of 20, since there are few. Should their count be a multiple
of that number after an epoch, then NNI updates it after every training batch of the next epoch, too, from old rewards.
In one run this left no path within the limit. So an epoch has one batch more than a multiple, and the number exceeds
that of the epochs. At least a tenth of the time scores proposals within the limit. Often it is more, since the
controller's paths become cheaper while it trains, and the training ends early.
"""

from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.profiler import Profiler
from nni.nas.strategy import ENAS
from nni_parts import LimitedSpace, build, run_strategy
from peer_task import BATCH, RATE, accuracy, main
from torch.utils.data import RandomSampler, default_collate

from nni_cream.training import ClassificationModule

UPDATE = 5


# user: begin
class Rewarding(ClassificationModule):
    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("reward", (self(images).argmax(1) == labels).float().mean(), on_step=True)


def loader(part, batches, tag):
    sampler = RandomSampler(part, num_samples=batches * BATCH)
    return DataLoader(part, BATCH, sampler=sampler, collate_fn=lambda items: (default_collate(items), tag))


class Cost(Profiler):
    def __init__(self, space):
        self.space = space  # that of the base class drops it

    def profile(self, sample):
        return self.space.cost(sample)


def search(job):
    rule = LimitedSpace().restrict(job.limit)
    penalty = {"profiler": Cost(rule), "baseline": job.limit, "scale": -1.0, "nonlinear": "positive"}

    def train(epochs, steps):
        parts = job.images.train, job.images.validation
        update = max(UPDATE, epochs + 1)
        rewards = update * round(steps * len(parts[1]) / len(parts[0]) / update) + 1
        loaders = loader(parts[0], steps, "train"), loader(parts[1], rewards, "val")
        strategy = ENAS(reward_metric_name="reward", batches_per_update=update, penalty=penalty)
        return run_strategy(strategy, job, epochs, steps, Rewarding(10, RATE, augment="shift+flip"), loaders)

    space, strategy = job.spend(train, 0.9)
    found = {}
    for _ in range(2000):
        if found and job.used() > job.seconds:
            break
        sample = strategy.oneshot_module.resample()
        key = tuple(sample.values())
        if space.fits(sample) and key not in found:
            found[key] = accuracy(space.train(), job), dict(sample)
    assert found, "the controller proposes no path within the limit"
    return max(found.values(), key=lambda item: item[0])[1]
    # user: end


if __name__ == "__main__":
    main(search, build)
