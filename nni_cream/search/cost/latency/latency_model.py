"""Latency of a path on the user's device: from a table of its blocks, or from whole networks where that cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nni_cream.search.cost.cost_model import CostModel
from nni_cream.search.cost.latency.latency_table import LatencyTable
from nni_cream.search.cost.latency.stopwatch import Clock, LatencySettings, repeated
from nni_cream.search.cost.latency.table_measurement import has_table, input_shape, measure_table, stopwatch
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["LatencyModel"]


def _as_it_is(value: Any) -> Any:
    return value


class LatencyModel(CostModel):
    """Seconds that a path takes on a device.

    Where every choice is one of layers or of a depth, seconds are read off a table: each block is timed alone, on the
    inputs that it gets within the network, and whole networks of random paths fit the sum of the blocks to the device.
    Elsewhere each new path is measured as a whole and remembered.

    Parameters
    ----------
    supernet
        The mutated space.
    inputs
        What the space's ``forward`` is called with, batch dimension first.
    settings
        How to measure, or the table to use.
    seed
        For the random paths.
    keywords
        Keyword arguments of the space's ``forward``.
    share
        Gives all processes of a distributed search the value of the leader, so that none goes by its own clock.
    leader
        Whether this process is the one that measures.
    clock
        Returns seconds.

    Attributes
    ----------
    latencies : LatencyTable or None
        Where the costs come from, if they come from a table.

    Raises
    ------
    SpaceError
        If the table is of another space or other image sizes.
    """

    def __init__(
        self,
        supernet: Supernet,
        inputs: tuple[Any, ...],
        settings: LatencySettings,
        seed: int = 0,
        keywords: Mapping[str, Any] | None = None,
        share: Callable[[Any], Any] = _as_it_is,
        leader: bool = True,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(supernet, inputs, self._time_network, seed, keywords)
        self.name = "latency"
        self._settings, self._seed = settings, seed
        self._share, self._leader = share, leader
        self._clock = clock
        self.latencies = settings.table
        if self.latencies is not None:
            self._use(self.latencies)

    def prepare(self) -> None:
        """Measure the table, unless there is one already or the space allows none."""
        if self.latencies is None and has_table(self._supernet):
            content = None
            if self._leader:
                how = (self._settings, self._seed, self._keywords, self._clock)
                table = measure_table(self._supernet, self._inputs, *how)
                content = table.to_json()
            self._use(LatencyTable.from_json(self._share(content)))

    def measure(self, path: Path) -> float:
        """Time the whole network of one path, without the table.

        Parameters
        ----------
        path
            The path.

        Returns
        -------
        float
            Seconds.
        """
        return float(self._share(super().measure(path) if self._leader else None))

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured, so that a search that goes on does so by the same figures."""
        table = None if self.latencies is None else self.latencies.to_json()
        return {**super().state_dict(), "latencies": table}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what was measured before."""
        super().load_state_dict(state)
        if state.get("latencies") is not None and self._settings.table is None:
            self._use(LatencyTable.from_json(state["latencies"], "checkpoint"))

    def _use(self, latencies: LatencyTable) -> None:
        self.latencies = latencies
        self.table = latencies.costs(self._supernet, input_shape((self._inputs, self._keywords)))

    def _time_network(self, network: nn.Module, inputs: tuple[Any, ...]) -> float:
        watch = stopwatch(self._settings, self._clock)
        args, kwargs = repeated((inputs, self._keywords), self._settings.batch_size or 1, watch.device)
        network = network.to(watch.device)
        return watch.time({0: lambda: network(*args, **kwargs)})[0]
