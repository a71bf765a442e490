"""A configuration that fits images and machine, with the reason for each choice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from nni_cream import spaces
from nni_cream.config import SEARCH
from nni_cream.from_config import fit_space, make_strategy
from nni_cream.runs.rehearsals.data_shape import made_up_images, shape_of_data
from nni_cream.runs.rehearsals.search_rehearsal import OVERHEAD_SECONDS, rehearse_search, retraining_seconds
from nni_cream.search import RandomPaths, Supernet
from nni_cream.search.cost.cost_model import CostModel
from nni_cream.starter.image_profile import ImageProfile

__all__ = ["Proposal", "chain_channels", "propose", "stem_stride"]

_GOAL = 0.25
"""Seconds that an image of the data set may take in the whole run: a first result, not the last word."""

_SHORTEST, _LONGEST = 100.0, 3600.0  # seconds of a whole run on a CPU
_EPOCHS = (12, 60)
"""Fewest and most epochs. With fewer than 12 a supernet ranks little better than chance (docs/evidence.md)."""

_RETRAINED = 2
_SIDES = (128, 96, 64, 48, 32)  # of an image on a CPU, tried from the largest
_GPU_SIDES = (224, 160, 128, 96, 64, 48, 32)
_SMALL = 40
"""Side in pixels below which images are searched as they are."""

_SMALLEST_MAP = 4  # pixels of the last feature map
_WIDTHS = (16, 32, 64, 96, 128, 160)
_SPREAD = 3.0
"""Imbalance from which accuracy says little: a network that always gives the same answer would look good."""

_SHARE_OF_MEMORY = 0.25
_PATHS = 200


@dataclass(frozen=True)
class Proposal:
    """A configuration with its reasons and what it would take.

    Parameters
    ----------
    config
        Content of the file, without the defaults.
    reasons
        Dotted key -> why it has this value.
    seconds
        Estimate of ``nni-cream go`` on this machine.
    input_shape
        Shape (C, H, W) of an image as a network gets it.
    """

    config: dict[str, Any]
    reasons: dict[str, str]
    seconds: float
    input_shape: tuple[int, int, int]


@dataclass(frozen=True)
class _Draft:
    """A configuration before it is known what it takes."""

    config: dict[str, Any]
    reasons: dict[str, str]
    input_shape: tuple[int, int, int]


@dataclass(frozen=True)
class _Times:
    """Seconds that the parts of a run take on this machine."""

    start: float
    search: float  #: An epoch, all included.
    retraining: float  #: An epoch of one network.

    def of_run(self, search_epochs: int, retrain_epochs: int) -> float:
        """Return the seconds of search and retraining with so many epochs."""
        return self.start + search_epochs * self.search + _RETRAINED * retrain_epochs * self.retraining


def propose(profile: ImageProfile, space: Mapping[str, Any] | None = None) -> Proposal:
    """Choose space, sizes, epochs, batch and budget, and measure a few steps of them.

    Parameters
    ----------
    profile
        The images.
    space
        A space of the user's own, with ``name``; otherwise one of ours that fits the images.

    Returns
    -------
    Proposal
        A configuration that runs as it is.

    Raises
    ------
    CreamError
        What a search would raise.
    """
    goal = min(max(_GOAL * profile.images, _SHORTEST), _LONGEST)
    gpu = torch.cuda.is_available()
    sides = [None] if not profile.files else _sides(profile, _GPU_SIDES if gpu else _SIDES)
    for place, side in enumerate(sides):
        draft = _draft(profile, side, gpu, space)
        times = _measure(draft, profile)
        if times.of_run(_EPOCHS[0], _EPOCHS[0]) <= goal or place == len(sides) - 1:
            break
    return _with_epochs(draft, goal, times)


def _sides(profile: ImageProfile, known: tuple[int, ...]) -> list[int]:
    """Return the shorter sides to try in pixels, none of them larger than the images."""
    own = min(profile.height, profile.width)
    return [own] if own <= _SMALL else [side for side in known if side <= own]


def _draft(profile: ImageProfile, side: int | None, gpu: bool, space: Mapping[str, Any] | None) -> _Draft:
    size = (profile.height, profile.width) if side is None else _size(profile, side)
    reasons: dict[str, str] = {}
    data = _data(profile, size if side is not None else None, reasons)
    chosen = dict(space) if space is not None else _space(profile, size, gpu, reasons)
    if space is not None:
        reasons["space"] = "your own"
    train = profile.parts["train"]
    batch = 64 if train >= 2000 else 32
    batch = max(2, min(batch, train // 4))
    reasons["search.batch_size"] = f"{train // batch:,} steps an epoch"
    training: dict[str, Any] = {"epochs": 20, "batch_size": batch, "learning_rate": 0.05}
    if profile.files or profile.name.startswith("cifar"):
        training["augment"] = "shift+flip"
        reasons["search.augment"] = "write `shift` if a mirrored image would be of another class, as with letters"
    search = {**training, "seed": 0}
    if profile.imbalance >= _SPREAD:
        search["score"] = "balanced_accuracy"
        reasons["search.score"] = (
            f"the most frequent class has {profile.imbalance:.1f} times the images of the rarest, and each class "
            "counts the same here"
        )
    retrain = {"top": _RETRAINED, **training, "label_smoothing": 0.1}
    reasons["retrain.top"] = "so many of the board's best are trained from new weights; validation images choose one"
    config = {"space": chosen, "data": data, "search": search, "retrain": retrain, "trainer": {}}
    if not gpu:
        config["trainer"] = {"threads": 1}
        reasons["trainer.threads"] = "networks this small gain little from more; null is one for each core"
    return _Draft(config, reasons, (1 if profile.grey else 3, *size))


def _size(profile: ImageProfile, side: int) -> tuple[int, int]:
    if not profile.alike:
        return side, side
    longer = round(side * max(profile.height, profile.width) / min(profile.height, profile.width))
    return (side, longer) if profile.height <= profile.width else (longer, side)


def _data(profile: ImageProfile, size: tuple[int, int] | None, reasons: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": profile.name, **profile.arguments}
    reasons["data.root"] = "seen from the folder in which nni-cream is run"
    reasons["data.max_unreadable"] = "files that cannot be read and are left out; one more would be an error"
    reasons["data.validation"] = "more than a tenth, since a few images say little"
    if size is None:
        return found
    height, width = size
    found["image_size"] = height if height == width else [height, width]
    median = f"the median image has {profile.height} x {profile.width} pixels (height x width)"
    shape = ", and all have about these proportions" if profile.alike else ", and the proportions differ"
    reasons["data.image_size"] = f"{median}{shape}; larger takes longer and shows more"
    found["crop_fraction"] = 1.0
    reasons["data.crop_fraction"] = f"the centre is seen, {profile.seen(height, width):.0%} of the mean image"
    found["augment"] = "none"
    reasons["data.augment"] = "search.augment changes the images instead, a batch at a time"
    if profile.name == "folder":
        found["channels"] = 1 if profile.grey else 3
        kind = "no image has colours" if profile.grey else "some images have colours"
        reasons["data.channels"] = f"{kind} (of {min(len(profile.sizes), 40)} decoded)"
    free = psutil.virtual_memory().available
    if profile.bytes_decoded <= _SHARE_OF_MEMORY * free:
        found["cache"] = True
        reasons["data.cache"] = f"decoded once: all images take {profile.bytes_decoded / 2**20:,.0f} MiB of memory"
    return found


def _space(profile: ImageProfile, size: tuple[int, int], gpu: bool, reasons: dict[str, str]) -> dict[str, Any]:
    if profile.name in spaces.list_spaces():
        reasons["space"] = "made for this data set"
        return {"name": profile.name}
    side = min(size)
    if gpu and side >= 64:
        reasons["space"] = "the paper's space: mobile networks, fast on a GPU. Multiply-adds set its depth"
        upper = 287e6 * (side / 224) ** 2.4  # the line of the paper's networks: docs/spaces.md
        return {"name": "cream", "macs_range": [round(0.5 * upper, -5), round(upper, -5)], "image_size": side}
    channels = chain_channels(side)
    reasons["space"] = (
        f"{len(channels)} layers of six operations, {6 ** len(channels):,} networks, small enough for a CPU. More "
        "channels or layers make it larger"
    )
    return {"name": "chain", "channels": channels, "stem_stride": stem_stride(side)}


def stem_stride(side: int) -> int:
    """Return the step of the first convolution for images with this shorter side in pixels."""
    return 1 if side <= 16 else 2


def chain_channels(side: int) -> list[int]:
    """Return the channels of each layer for images with this shorter side in pixels, two layers at each size."""
    first = side / stem_stride(side)
    halvings = max(1, round(math.log2(first / _SMALLEST_MAP)))
    widths = _WIDTHS[: min(halvings + 1, len(_WIDTHS))]
    return [width for width in widths for _ in range(2)]


def _measure(draft: _Draft, profile: ImageProfile) -> _Times:
    resolved = SEARCH.resolve(draft.config)
    rehearsal = rehearse_search(resolved)
    decoding, preparing = profile.loading_seconds((draft.input_shape[1], draft.input_shape[2]))
    cached = draft.config["data"].get("cache", False)
    loading = profile.parts["train"] * (preparing if cached else decoding + preparing)
    search = rehearsal.seconds / resolved["search"]["epochs"] + loading
    retraining = retraining_seconds(rehearsal, resolved) / (resolved["retrain"]["top"] * resolved["retrain"]["epochs"])
    return _Times(profile.images * decoding if cached else 0.0, search, retraining + loading)


def _with_epochs(draft: _Draft, goal: float, times: _Times) -> Proposal:
    def within(seconds: float, epoch: float) -> int:
        return min(_EPOCHS[1], max(_EPOCHS[0], int(seconds / epoch)))

    config, reasons = draft.config, dict(draft.reasons)
    retrain_epochs = within((goal - times.start) / 2, _RETRAINED * times.retraining)
    search_epochs = within(goal - times.of_run(0, retrain_epochs), times.search)
    seconds = times.of_run(search_epochs, retrain_epochs) + OVERHEAD_SECONDS
    costs = _costs(config)
    limit = int(float(f"{costs[1]:.2g}"))
    config = {
        **config,
        "search": {**config["search"], "epochs": search_epochs, "cost": "macs", "cost_range": [None, limit]},
        "retrain": {**config["retrain"], "epochs": retrain_epochs},
    }
    share = "about half of all networks cost less"
    reasons["search.cost_range"] = (
        f"at most so many multiply-adds an image; {share} (random ones: {costs[0]:,.0f} to {costs[2]:,.0f}). Write "
        "your own budget here"
    )
    reasons["search.epochs"] = f"about {times.search:.1f} s an epoch on this machine; more find better networks"
    reasons["retrain.epochs"] = f"about {times.retraining:.1f} s an epoch; more give better accuracy"
    return Proposal(config, reasons, seconds, draft.input_shape)


def _costs(config: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the least, the median and the largest multiply-adds of random paths."""
    resolved = SEARCH.resolve(config)
    shape = shape_of_data(resolved["data"])
    resolved = fit_space(resolved, shape)
    space = spaces.create(resolved["space"]["name"], **resolved["space"]["arguments"])
    supernet = Supernet(make_strategy(resolved["search"]).mutate_model(space))
    cost = CostModel(supernet, (made_up_images(shape, 1)[0][0][None],))
    paths = RandomPaths(supernet.space, 0)
    found = sorted(cost(paths.draw()) for _ in range(_PATHS))
    return float(np.min(found)), statistics.median(found), float(np.max(found))
