"""Train MobileNetV3-small from new weights as `go` retrains: same images, epochs, batches, optimizer and changes."""

import sys
import time
from statistics import median

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v3_small

from nni_cream import data
from nni_cream.training import Recipe, measure, retrain, seeded

with open(sys.argv[1]) as file:
    content = yaml.safe_load(file)
images = data.create(content["data"].pop("name"), **content["data"])
content["retrain"].pop("top")
torch.set_num_threads(content["trainer"]["threads"])


def milliseconds(network: nn.Module, image: torch.Tensor) -> float:
    """Return the median time of 50 forward passes after 10 others."""
    times = []
    for _ in range(60):
        start = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - start)
    return 1000 * median(times[10:])


for seed in (0, 1, 2):
    with seeded(seed):
        network = mobilenet_v3_small(num_classes=images.num_classes)
        network.features[0][0] = nn.Conv2d(images.input_shape[0], 16, 3, 2, 1, bias=False)
    retrain(network, images.train, images.validation, images.test, Recipe(**content["retrain"]), seed)
    found = measure(network, images.test)
    print(f"seed {seed}: balanced accuracy {found.balanced_accuracy:.3f}, top-1 {found.top1:.3f}", flush=True)
image = torch.zeros(1, *images.input_shape)
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    network.eval()(image)
with torch.no_grad():
    print(f"{counter.get_total_flops() / 2:,.0f} multiply-adds, {milliseconds(network, image):.2f} ms")
