"""Measures a table of latencies: blocks alone, on their inputs within the network, and whole networks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
import torch
from nni.mutable.annotation import Constraint
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingLayer, PathSamplingRepeat
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves, tree_map

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.cost.latency.latency_table import LatencyTable, Measured, space_digest, value_name
from nni_cream.search.cost.latency.stopwatch import Clock, LatencySettings, Stopwatch, device_name, repeated, structure
from nni_cream.search.cost.separate_choices import Inputs, alone, depths, holds_choices, record_inputs
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.supernet.copies import copied
from nni_cream.search.supernet.frozen import frozen_view
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["has_table", "input_shape", "measure_table", "stopwatch"]

TOLERANCE = 0.15
"""Median relative error from which on a table is warned of."""
PRIOR = 0.25
"""Weight, in paths, of the belief that a block takes in a network what it takes alone."""

_Parts: TypeAlias = list[tuple[int, Any]]
"""Time that a value of a choice adds: times of blocks, each with its sign."""
_logger = logging.getLogger(__name__)


def has_table(supernet: Supernet) -> bool:
    """Return whether every choice selects layers or a depth, so that blocks can be timed alone."""
    repeats = [module for module in supernet.space.modules() if isinstance(module, PathSamplingRepeat)]
    nested = any(inner in repeats for repeat in repeats for inner in [*repeat.modules()][1:])
    known = {*alone(supernet), *depths(supernet)}
    labels = {str(label) for label, item in supernet.mutables.items() if not isinstance(item, Constraint)}
    places = _places(repeats)
    # A choice that each block of a ``Repeat`` repeats costs more in a deep path than in a shallow one. No column can
    # express that, so all layers of a choice must stand in the same block.
    together = all(len({places.get(layer) for layer in layers}) == 1 for layers in alone(supernet).values())
    return labels <= known and supernet.usage.groups is not None and not nested and together


def _places(repeats: Sequence[PathSamplingRepeat]) -> dict[nn.Module, nn.Module]:
    """Return the block of a ``Repeat`` that holds each module."""
    return {module: block for repeat in repeats for block in repeat.blocks for module in block.modules()}


def input_shape(inputs: Any) -> tuple[int, ...]:
    """Return the shape of one sample of the first tensor among the inputs."""
    first: Tensor = next(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    return tuple(first.shape[1:])


def stopwatch(settings: LatencySettings, clock: Clock = time.perf_counter) -> Stopwatch:
    """Return a stopwatch with these settings."""
    return Stopwatch(settings.torch_device, settings.threads, settings.warmup, settings.repeats, clock)


def measure_table(
    supernet: Supernet,
    inputs: tuple[Any, ...],
    settings: LatencySettings,
    seed: int = 0,
    keywords: Mapping[str, Any] | None = None,
    clock: Clock = time.perf_counter,
) -> LatencyTable:
    """Measure a table of latencies, on a copy of the supernet.

    Parameters
    ----------
    supernet
        The mutated space.
    inputs
        Arguments of the space's ``forward``, batch dimension first.
    settings
        How to measure.
    seed
        Decides the random paths.
    keywords
        Keyword arguments of the space's ``forward``.
    clock
        Returns seconds.

    Returns
    -------
    LatencyTable
        Checked against whole networks; a warning says if they disagree.

    Raises
    ------
    SpaceError
        If a choice selects neither layers nor a depth.
    """
    if not has_table(supernet):
        raise SpaceError(
            "the latencies of this space cannot be put into a table; expected only choices that are a LayerChoice or "
            "the depth of a Repeat. Search without a table: it measures whole networks."
        )
    watch = stopwatch(settings, clock)
    # Moving the user's supernet to another device would break the search.
    own = Supernet(copied(supernet.space).to(watch.device).eval())
    sampler = RandomPaths(own.space, seed)
    # Half of them fit the table, the other half check it.
    paths = [sampler.draw() for _ in range(2 * settings.paths)]
    sizes, errors = [], []
    taken: dict[int, list[float]] = {}  # by the pixels of an image
    for resized in _resized((inputs, dict(keywords or {})), settings.image_sizes):
        # Two samples: BatchNorm takes the statistics of the batch here and refuses a single value.
        bench = _Bench(own, repeated(resized, 2, watch.device), settings.batch_size or 1, watch)
        measured, missed, whole = bench.measure(paths)
        sizes.append(measured)
        errors += missed
        taken[measured.pixels] = whole
    return LatencyTable(
        device=device_name(watch.device),
        sizes=tuple(sorted(sizes, key=lambda item: item.pixels)),
        settings={
            "batch_size": settings.batch_size or 1,
            "threads": settings.threads or torch.get_num_threads(),
            "warmup": settings.warmup,
            "repeats": settings.repeats,
        },
        space=space_digest(supernet),
        versions={"torch": version("torch"), "nni_cream": version("nni_cream")},
        check=_check(errors, settings.paths) | {"seconds": _spread(taken[max(taken)])},
    )


def _check(errors: list[float], paths: int) -> dict[str, Any]:
    typical = float(np.median(errors))
    if typical > TOLERANCE:
        _logger.warning(
            "The table of latencies is off by %.0f %% (median) against whole networks of %d random paths. Measure on "
            "an idle machine, or with more repeats.",
            100 * typical,
            paths,
        )
    return {"paths": paths, "median_error": round(typical, 4), "worst_error": round(max(errors), 4)}


def _spread(taken: Sequence[float]) -> list[float]:
    """Return the least, the median and the largest."""
    return [float(value) for value in (min(taken), np.median(taken), max(taken))]


class _Bench:
    """Blocks and whole networks of one space, for inputs of one shape.

    Blocks with the same layers and inputs of the same shape are timed once.
    """

    def __init__(self, supernet: Supernet, inputs: Inputs, batch_size: int, watch: Stopwatch) -> None:
        self._supernet = supernet
        self._inputs = inputs
        self._batch_size = batch_size
        self._watch = watch
        self._runs: dict[Any, Callable[[], object]] = {}
        self._choices, self._depths = alone(supernet), depths(supernet)
        self._first = supernet.usage.canonical({label: item.default({}) for label, item in supernet.mutables.items()})
        layers = [(label, layer) for label, layers in self._choices.items() for layer in layers]
        blocks = [(label, block) for label, repeats in self._depths.items() for r in repeats for block in r.blocks]
        self._seen = record_inputs(supernet, [*layers, *blocks], self._run)

    def measure(self, paths: Sequence[Path]) -> tuple[Measured, list[float], list[float]]:
        """Time everything, fit the sums of blocks to every other path, and return the relative errors on the rest."""
        parts: dict[str, dict[Any, _Parts]] = {label: self._of_choice(label) for label in self._choices}
        parts |= {label: self._of_depth(label) for label in self._depths}
        for index, path in enumerate(paths):
            self._add(("network", index), self._supernet.view(path), self._inputs)
        seconds = self._watch.time(self._runs)
        columns = {
            # A difference of noisy times can fall below 0.
            label: {value: max(0.0, sum(sign * seconds[key] for sign, key in of)) for value, of in column.items()}
            for label, column in parts.items()
        }
        table = CostTable(0.0, columns, self._supernet.usage.groups or ())
        sums = np.array([table(path) for path in paths])
        whole = np.array([seconds["network", index] for index in range(len(paths))])
        base, scale = _fit(sums[::2], whole[::2])
        errors = np.abs(base + scale * sums[1::2] - whole[1::2]) / whole[1::2]
        named = {
            label: {value_name(value, label): taken for value, taken in column.items()}
            for label, column in columns.items()
        }
        return Measured(input_shape(self._inputs), base, named, scale), [*map(float, errors)], [*map(float, whole)]

    def _run(self, path: Path) -> None:
        self._supernet.activate(path)
        with self._supernet.detached():
            self._supernet.space(*self._inputs[0], **self._inputs[1])

    def _of_choice(self, label: str) -> dict[Any, _Parts]:
        layers = [layer for layer in self._choices[label] if layer in self._seen]
        values = self._supernet.mutables[label].values
        return {value: [(1, self._block(layer[value], layer)) for layer in layers] for value in values}

    def _of_depth(self, label: str) -> dict[Any, _Parts]:
        """Return what a depth adds by itself: the layers of its blocks outside any choice."""
        column = {}
        for value in self._supernet.mutables[label].values:
            kept = [
                block for r in self._depths[label] for block in list(r.blocks)[: r.depth_choice.freeze({label: value})]
            ]
            column[value] = [part for block in kept if block in self._seen for part in self._of_fixed(block)]
        return column

    def _of_fixed(self, block: nn.Module) -> Iterator[tuple[int, Any]]:
        if isinstance(block, PathSamplingLayer):
            return
        yield 1, self._block(frozen_view(block, self._first), block)
        for layer in block.modules() if holds_choices(block) else ():
            if isinstance(layer, PathSamplingLayer) and layer in self._seen:
                # The choice inside has its own column, so the block's time must not include it.
                yield -1, self._block(layer[self._first[layer.label]], layer)

    def _block(self, block: nn.Module, place: nn.Module) -> Any:
        """Add a block with the inputs of the place it stands in; return its key."""
        inputs = self._seen[place]
        shapes = tuple(tuple(leaf.shape) if isinstance(leaf, Tensor) else repr(leaf) for leaf in tree_leaves(inputs))
        return self._add((structure(block), shapes), block, inputs)

    def _add(self, key: Any, module: nn.Module, inputs: Inputs) -> Any:
        if key not in self._runs:
            args, kwargs = repeated(inputs, self._batch_size, self._watch.device)
            self._runs[key] = lambda: module(*args, **kwargs)
        return key


def _fit(sums: Any, whole: Any) -> tuple[float, float]:
    """Fit the time all networks share, and the factor on the sum of blocks: least squares of relative errors."""
    # Dividing by the whole makes the errors relative. The prior holds the factor near 1, since the sums of the paths
    # may differ too little to determine it. Neither is negative, so no path is.
    rows = np.stack([1 / whole, sums / whole], axis=1)
    solution, _ = nnls(np.vstack([rows, [0.0, PRIOR]]), np.append(np.ones(len(whole)), PRIOR))
    return float(solution[0]), float(solution[1])


def _resized(inputs: Inputs, sizes: Sequence[int] | None) -> Iterator[Inputs]:
    if sizes is None:
        yield inputs
        return
    if not any(isinstance(leaf, Tensor) and leaf.ndim == 4 for leaf in tree_leaves(inputs)):
        raise ConfigError(
            f"latency.image_sizes is {sizes!r}; expected None, since the inputs of the space are no images (N, C, H, "
            "W)."
        )
    for size in sizes:
        yield tree_map(lambda leaf, side=size: interpolate(leaf, (side, side)) if _is_image(leaf) else leaf, inputs)


def _is_image(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4
