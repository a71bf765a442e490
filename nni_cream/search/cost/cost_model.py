"""The cost of a path (multiply-adds, parameters, the user's own), from a table where the space allows it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from nni.mutable import Categorical
from nni.mutable.annotation import Constraint
from torch import nn

from nni_cream.errors import ConfigError, SearchError
from nni_cream.rng import preserved_rng
from nni_cream.search.cost.macs import counting, holds_recurrent, of_one, unfused
from nni_cream.search.cost.separate_choices import Inputs, alone, batch_of, record_inputs
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path, path_key
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.settings import COST_NAMES
from nni_cream.search.supernet.copies import copied
from nni_cream.search.supernet.live import count_live_parameters
from nni_cream.search.supernet.supernet import Supernet
from nni_cream.search.user_functions import failures_of

__all__ = ["CostFunction", "CostModel", "check_cost", "cost_name"]

CostFunction: TypeAlias = Callable[[nn.Module, tuple[Any, ...]], float]
_logger = logging.getLogger(__name__)


def check_cost(cost: Any) -> None:
    """Raise ``ConfigError`` unless a cost is a known metric or a function."""
    if not (callable(cost) or cost in COST_NAMES):
        raise ConfigError(
            f"cost is {cost!r}; expected 'macs' (multiply-adds), 'params', 'latency' or a function of a network and "
            "its inputs."
        )
    if callable(cost) and cost_name(cost) in COST_NAMES:
        raise ConfigError(
            f"cost is a function of the name {cost_name(cost)!r}; expected another name, since files hold costs by "
            "their names. Rename it."
        )


def cost_name(cost: str | CostFunction) -> str:
    """Return the name of a cost: the metric's or the function's own."""
    return cost if isinstance(cost, str) else str(getattr(cost, "__name__", type(cost).__name__))


class CostModel:
    """The cost of any path of a supernet.

    ``macs`` counts the multiply-adds of convolutions, linear layers and other matrix products for one input, like
    ``torch.utils.flop_counter`` (which counts two operations each). Biases, normalisation, activations and pooling
    count as 0. Recurrent and attention layers run as their matrix products. An operation with weights for which torch
    has no formula counts as 0, and a warning names it. ``params`` counts the parameters of the frozen network.

    If the cost is a sum over choices, it comes from a table (microseconds a path); random paths check this. Otherwise
    each new path is measured once and remembered.

    Parameters
    ----------
    supernet
        The mutated space.
    inputs
        Arguments of the space's ``forward``, batch dimension first; only shapes and types matter for ``macs``.
    cost
        ``"macs"``, ``"params"`` or a function ``cost(frozen network, inputs of one sample) -> float``.
    seed
        Decides the random paths of the check.
    keywords
        Keyword arguments of the space's ``forward``.

    Raises
    ------
    ConfigError
        If the cost is unknown.
    """

    checks = 16

    def __init__(
        self,
        supernet: Supernet,
        inputs: tuple[Any, ...],
        cost: str | CostFunction = "macs",
        seed: int = 0,
        keywords: Mapping[str, Any] | None = None,
    ) -> None:
        check_cost(cost)
        if cost == "latency":
            raise ConfigError(
                "cost is 'latency'; expected one that a CostModel computes. Measure it with a LatencyModel."
            )
        self.name = cost_name(cost)
        self._supernet = supernet
        self._cost = cost
        self._inputs = inputs
        self._keywords = dict(keywords or {})
        self._known: dict[str, float] = {}
        self._warned: set[str] = set()
        self._proportional = False
        self.table: CostTable | None = None
        self._sampler = RandomPaths(supernet.space, seed)
        self._meta = _on_meta(supernet, self._sampler.first()) if cost == "params" else None
        self._recurrent = holds_recurrent(supernet.space)  # every count would walk over all modules
        self._halves = np.random.Generator(np.random.PCG64(seed))
        if callable(cost):
            return  # a measurement of the user's may be slow or noisy: nothing is assumed of it
        self._build_table()

    def __call__(self, path: Path) -> float:
        """Return the cost of a path."""
        return self._remembered(path) if self.table is None else self.table(path)

    @property
    def additive(self) -> bool:
        """Whether costs come from a table."""
        return self.table is not None

    def measure(self, path: Path) -> float:
        """Count or measure one path without the table; raise ``SearchError`` if a function returns no finite number."""
        if self._cost == "macs":
            return self._count_macs(path)
        if self._cost == "params":
            return self._count_params(path)
        function, network = cast(CostFunction, self._cost), self._supernet.freeze(path).eval()
        # The function may draw random numbers; how often it runs must not change the search.
        with failures_of("cost", function), preserved_rng():
            value = function(network, batch_of(self._inputs, 1))
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise SearchError(f"cost function {self.name!r} returned {value!r}; expected a finite number.")
        return float(value)

    def bounds(self, samples: int = 64) -> tuple[float, float]:
        """Return the lowest and highest cost: exact from an unconstrained table, else over ``samples`` random paths."""
        constrained = any(isinstance(mutable, Constraint) for mutable in self._supernet.mutables.values())
        if self.table is not None and not constrained:
            return self.table.bounds()
        costs = [self(self._sampler.draw()) for _ in range(samples)]
        return min(costs), max(costs)

    def prepare(self) -> None:
        """Get ready once earlier measurements are loaded; for costs that are measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return the values of a user's function, which may be noisy; counts can be repeated."""
        return {"known": dict(self._known)} if callable(self._cost) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over earlier measurements."""
        self._known.update(state.get("known", {}))

    def _remembered(self, path: Path) -> float:
        key = path_key(path)
        if key not in self._known:
            self._known[key] = self.measure(path)
        return self._known[key]

    def _build_table(self) -> None:
        usage, mutables = self._supernet.usage, self._supernet.mutables
        if usage.groups is None or not all(isinstance(mutable, Categorical) for mutable in mutables.values()):
            return
        self._proportional = self._cost == "macs" and self._grows_with_batch(self._sampler.first())
        self.table = self._additive_table()
        if self._proportional and (self.table is None or not all(map(self._grows_with_batch, self._covering()))):
            self._proportional = False
            self._known.clear()  # all of it was counted as if it grew with the batch
            self.table = None if self.table is None else self._additive_table()

    def _additive_table(self) -> CostTable | None:
        """Return the table of the costs; ``None`` if these are no sum over the choices."""
        exchanges = [self._exchange() for _ in range(self.checks // 4)]
        sums = ([sum(map(self._remembered, pair)) for pair in pairs] for pairs in exchanges)
        if any(abs(before - after) > 0.5 for before, after in sums):
            return None  # found out without measuring every choice
        usage, mutables = self._supernet.usage, self._supernet.mutables
        alone = self._measure_alone()
        columns = {label: alone.get(label) or self._measure_within(label) for label in mutables}
        first = self._sampler.first()  # its own columns are not always 0: a depth is measured from the smallest
        groups = usage.groups or ()
        base = self._remembered(first) - CostTable(0.0, columns, groups)(first)
        table = CostTable(base, columns, groups)
        measured = [path for pairs in exchanges for pair in pairs for path in pair]
        paths = measured + [self._sampler.draw() for _ in range(self.checks // 2)]
        # Counts are whole numbers, so a smaller difference is only rounding of floats.
        return None if any(abs(table(path) - self._remembered(path)) > 0.5 for path in paths) else table

    def _grows_with_batch(self, path: Path) -> bool:
        """Return whether all work of a path is proportional to the batch."""
        two = self._operations(path, 2) if self.table is None else 4 * self.table(path)
        return abs(2 * two - self._operations(path, 4)) < 1

    def _covering(self) -> Iterator[Path]:
        """Yield paths that together use every value of every label."""
        usage = self._supernet.usage
        mutables: dict[str, Any] = dict(self._supernet.mutables)
        largest = usage.largest()
        deciders = {label for group in usage.groups or () for label in group.deciders}
        left = {(label, index) for label, choice in mutables.items() for index in range(len(choice.values))}
        for index in range(max(len(choice.values) for choice in mutables.values())):
            values = {label: choice.values[index % len(choice.values)] for label, choice in mutables.items()}
            for path in (values, values | {label: largest[label] for label in deciders}):
                new = {(label, mutables[label].values.index(path[label])) for label in usage.labels(path)} & left
                if new:
                    left -= new
                    yield usage.canonical(path)
        for label, index in sorted(left):
            yield usage.canonical(usage.using(label) | {label: mutables[label].values[index]})

    def _measure_within(self, label: str) -> dict[Any, float]:
        """Measure by whole networks what each value of a label adds to the first."""
        usage = self._supernet.usage
        path = usage.using(label)
        costs = {
            value: self._remembered(usage.canonical({**path, label: value}))
            for value in self._supernet.mutables[label].values
        }
        return {value: cost - costs[path[label]] for value, cost in costs.items()}

    def _measure_alone(self) -> dict[str, dict[Any, float]]:
        """Measure what each candidate adds to the first by the candidates alone, where possible."""
        choices = alone(self._supernet)
        if self._cost == "params":
            return {
                label: self._column(label, functools.partial(_params_of, layers)) for label, layers in choices.items()
            }
        seen = functools.cache(functools.partial(self._record, choices))

        def adds(label: str, value: Any) -> float:
            layers = choices[label]
            return self._of_one(
                lambda size: sum(self._count_alone(layer[value], seen(size)[layer]) for layer in layers)
            )

        return {
            label: self._column(label, functools.partial(adds, label))
            for label, layers in choices.items()
            if all(layer in seen(2) for layer in layers)
        }

    def _column(self, label: str, cost: Callable[[Any], float]) -> dict[Any, float]:
        costs = {value: cost(value) for value in self._supernet.mutables[label].values}
        first = next(iter(costs.values()))
        return {value: cost - first for value, cost in costs.items()}

    def _record(self, choices: Mapping[str, list[Any]], size: int) -> dict[nn.Module, Inputs]:
        every = [(label, layer) for label, layers in choices.items() for layer in layers]
        return record_inputs(self._supernet, every, lambda path: self._operations(path, size))

    def _count_alone(self, candidate: nn.Module, inputs: Inputs) -> int:
        return self._count(lambda: candidate(*inputs[0], **inputs[1]))

    def _exchange(self) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
        """Draw two paths, and exchange half of their choices: an additive cost keeps its sum."""
        usage = self._supernet.usage
        deciders = [label for group in usage.groups or () for label in group.deciders]
        first, second = self._sampler.draw(), self._sampler.draw()
        second = usage.canonical({**second, **{label: first[label] for label in deciders}})  # uses the same labels
        exchanged = [label for index, label in enumerate(first) if self._halves.random() < 0.5 or index == 0]
        mixed = [{**a, **{label: b[label] for label in exchanged}} for a, b in ((first, second), (second, first))]
        return (first, second), (mixed[0], mixed[1])

    def _count_macs(self, path: Path) -> float:
        return self._of_one(lambda size: self._operations(path, size))

    def _of_one(self, operations: Callable[[int], int]) -> float:
        # Every path would run twice, which is needless where a few runs have shown that nothing is fixed.
        return operations(2) / 4 if self._proportional else of_one(operations)

    def _operations(self, path: Path, size: int) -> int:
        # Real tensors: faster than torch's meta device, whose shapes are worked out in Python.
        inputs, keywords = batch_of((self._inputs, self._keywords), size)
        self._supernet.activate(path)
        return self._count(lambda: self._supernet.space(*inputs, **keywords))

    def _count(self, run: Callable[[], object]) -> int:
        with self._supernet.detached(), unfused(self._recurrent), counting() as counter:
            output = run()
        self._warn_of(counter.unknown - self._warned)
        return counter.operations(output)

    def _warn_of(self, unknown: set[str]) -> None:
        self._warned |= unknown
        if unknown:
            _logger.warning(
                "torch has no formula for the multiply-adds of %s, so they count as 0. Give your own cost function "
                "if they matter.",
                ", ".join(sorted(unknown)),
            )

    def _count_params(self, path: Path) -> float:
        if self._supernet.has_dead_branches:
            inputs, keywords = batch_of((self._inputs, self._keywords), 2)
            return float(count_live_parameters(self._supernet.freeze(path), *inputs, **keywords))
        assert self._meta is not None
        with torch.device("meta"):
            network = self._meta.view(path)
        return float(sum(parameter.numel() for parameter in network.parameters()))


def _params_of(layers: Sequence[Any], value: Any) -> float:
    return float(sum(weight.numel() for layer in layers for weight in layer[value].parameters()))


def _on_meta(supernet: Supernet, path: Path) -> Supernet:
    """Copy a supernet without its values, so that freezing it copies none."""
    supernet.view(path)  # only values show whether a freeze of the user's own keeps the weights
    tensors = [*supernet.space.parameters(), *supernet.space.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return Supernet(copied(supernet.space, memo))
