"""AutoNAS of nvidia-modelopt, in MobileNetV2 of torchvision for 32 pixels.

With its first two strides at 1, width 0.75 has 59 million multiply-adds, and its subnetworks 31 to 59 million. (At a
width of 1 they have 38 to 88 million, and next to none fits.) Half of the time trains the supernet, as long as the
clock says, by the recipe of the others. Then modelopt's evolution scores candidates until the time is over. Its limit
counts two operations for a multiply-add. It takes only candidates above 0.85 of the limit, and refuses channels last,
which makes its steps slower. For each candidate, also for one above the limit, modelopt estimates BatchNorm's
statistics anew. 1,000 images do that here, 3,200 without a ``data_loader``. Population and parents are few, like the
time.
"""

import contextlib
import math

import modelopt.torch.nas as mtn
import torch
from peer_task import BATCH, RATE, accuracy, main
from small_images import for_small_images
from torchvision.models import mobilenet_v2

from nni_cream.training import make_loader
from nni_cream.training.augment import augment_images


def build(choice):
    network = space()
    mtn.select(network, {name: tuple(value) if isinstance(value, list) else value for name, value in choice.items()})
    network = mtn.export(network)
    for layer in network.modules():  # weights that were cut would not be new ones; drawn as torchvision draws them
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, 0, 0.01)
            torch.nn.init.zeros_(layer.bias)
        elif hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return network


def train(network, job, seconds):
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim == 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": others}]
    optimizer = torch.optim.SGD(groups, RATE, momentum=0.9, nesterov=True)
    network.train()
    while True:
        for images, labels in make_loader(job.images.train, BATCH, shuffle=True):
            if (done := job.used() / seconds) >= 1:
                return
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(10 * done + 0.01, (1 + math.cos(math.pi * done)) / 2)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(augment_images(images, "shift+flip")), labels).backward()
            optimizer.step()


class TimeIsUp(Exception):
    pass


# user: begin
def space():
    return mtn.convert(for_small_images(mobilenet_v2(num_classes=10, width_mult=0.75)), mode="autonas")


def search(job):
    network, found = space(), []
    train(network, job, job.seconds / 2)

    def score(subnet):
        if found and job.used() > job.seconds:
            raise TimeIsUp
        found.append((accuracy(subnet.eval(), job), mtn.get_subnet_config(subnet)))
        return found[-1][0]

    options = {"score_func": score, "population_size": 10, "candidate_size": 3, "verbose": False}
    options["data_loader"] = make_loader(job.images.train, 20, shuffle=True)  # modelopt takes 50 batches
    with contextlib.suppress(TimeIsUp):
        mtn.search(network, {"flops": 2 * job.limit}, torch.zeros(1, 3, 32, 32), options)
    return max(found, key=lambda item: item[0])[1]
    # user: end


if __name__ == "__main__":
    main(search, build)
