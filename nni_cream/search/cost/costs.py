"""The costs of a path: one measure or several, each with its own range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from nni_cream.errors import ConfigError
from nni_cream.search.cost.cost_model import CostFunction, CostModel, check_cost, cost_name
from nni_cream.search.cost.latency.latency_model import LatencyModel
from nni_cream.search.cost.latency.latency_table import LatencyTable
from nni_cream.search.cost.latency.stopwatch import LatencySettings
from nni_cream.search.paths.cost_limits import CostRange, Limit, check_cost_range
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.ranks import Ranks
from nni_cream.search.settings import COST_NAMES
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["Cost", "Costs", "check_costs", "check_ranges"]

Cost: TypeAlias = str | CostFunction


def check_costs(cost: Any) -> tuple[Cost, ...]:
    """Return one cost or several as a tuple; raise ``ConfigError`` for an unknown or repeated one."""
    costs = tuple(cost) if isinstance(cost, list | tuple) else (cost,)
    if not costs:
        raise ConfigError("cost is an empty list; expected at least one, such as 'macs'.")
    for item in costs:
        check_cost(item)
    names = [cost_name(item) for item in costs]
    # Ranges and saved measurements find their cost by its name.
    if len(set(names)) < len(names):
        raise ConfigError(f"cost is {names}; expected each only once.")
    return costs


def check_ranges(cost_range: Any, names: Sequence[str]) -> tuple[CostRange, ...]:
    """Return the range of each cost as (low, high).

    Parameters
    ----------
    cost_range
        A pair for one cost; a mapping of names to pairs, or a list of pairs in the order of the costs; ``None`` for no
        limits.
    names
        Names of the costs.

    Returns
    -------
    tuple
        One pair for each cost; a cost that the mapping omits has no limits.

    Raises
    ------
    ConfigError
        If it is anything else, or a range is empty.
    """
    if isinstance(cost_range, Mapping):
        unknown = [name for name in cost_range if name not in names]
        if unknown:
            raise ConfigError(f"cost_range.{unknown[0]} is no cost of this search; expected one of {[*names]}.")
        return tuple(check_cost_range(cost_range.get(name)) for name in names)
    # A pair and a list of pairs are both lists, so only their items distinguish them.
    pairs = isinstance(cost_range, list | tuple) and all(
        item is None or isinstance(item, list | tuple) for item in cost_range
    )
    if cost_range is not None and pairs and len(cost_range) == len(names):
        return tuple(check_cost_range(pair) for pair in cost_range)
    if len(names) > 1 and cost_range is not None:
        raise ConfigError(
            f"cost_range is {cost_range!r}; expected a mapping of {[*names]} to (low, high), or a list with one pair "
            "for each."
        )
    # Here there is a single cost, or no limit at all.
    return (check_cost_range(cost_range), *(((None, None),) * (len(names) - 1)))


class Costs:
    """The costs of a path: a model and a range for each, the primary one first."""

    def __init__(self, models: Sequence[CostModel], ranges: Sequence[CostRange]) -> None:
        self.models = tuple(models)
        self.ranges = tuple(ranges)
        self.size: CostTable | None = None
        """Of the first built-in cost that has a table: they all grow with a network's size."""

    @classmethod
    def make(
        cls,
        costs: Sequence[Cost],
        ranges: Sequence[CostRange],
        latency: LatencySettings,
        supernet: Supernet,
        inputs: tuple[Any, ...],
        keywords: Mapping[str, Any] | None = None,
        seed: int = 0,
        state: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> Costs:
        """Make a model for each cost; ``state`` holds the measurements of a resumed search, which are not repeated."""
        models: list[CostModel] = []
        for cost in costs:
            if cost == "latency":
                models.append(LatencyModel(supernet, inputs, latency, seed, keywords, ranks))
            else:
                models.append(CostModel(supernet, inputs, cost, seed, keywords))
        made = cls(models, ranges)
        # Before ``prepare``, which measures only what the saved state lacks.
        made.load_state_dict(state or {})
        for model in models:
            model.prepare()
        named = (model.table for cost, model in zip(costs, models, strict=True) if cost in COST_NAMES)
        made.size = next((table for table in named if table is not None), None)
        return made

    @property
    def primary(self) -> CostModel:
        """The first cost, which tables show and which ranks equals."""
        return self.models[0]

    @property
    def latencies(self) -> LatencyTable | None:
        """The table of latencies, if there is one."""
        return next((model.latencies for model in self.models if isinstance(model, LatencyModel)), None)

    def __call__(self, path: Path) -> tuple[float, dict[str, float]]:
        """Return the primary cost of a path, and all others by name."""
        return self.primary(path), {model.name: model(path) for model in self.models[1:]}

    @property
    def limits(self) -> list[Limit]:
        """The range of each cost, as a sampler takes it."""
        return [
            Limit(model, cost_range, model.name, table=model.table)
            for model, cost_range in zip(self.models, self.ranges, strict=True)
        ]

    def constrain(self, sampler: RandomPaths) -> None:
        """Make a sampler with the range of the primary cost keep all ranges."""
        sampler.constrain(self.primary, table=self.primary.table, others=self.limits[1:])

    def state_dict(self) -> dict[str, Any]:
        """Return all measurements: the primary cost's as they are, the others by name."""
        # The primary cost lies at the top, so a search with one cost keeps a flat state.
        others = {model.name: model.state_dict() for model in self.models[1:]}
        return {**self.primary.state_dict(), **({"others": others} if others else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over earlier measurements."""
        self.primary.load_state_dict(state)
        for model in self.models[1:]:
            model.load_state_dict(state.get("others", {}).get(model.name, {}))
