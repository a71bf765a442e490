"""The latency of a path on the user's device: from a table of its blocks, or from whole networks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from nni_cream.search.cost.cost_model import CostModel
from nni_cream.search.cost.latency.latency_table import LatencyTable
from nni_cream.search.cost.latency.stopwatch import Clock, LatencySettings, repeated
from nni_cream.search.cost.latency.table_measurement import has_table, input_shape, measure_table, stopwatch
from nni_cream.search.ranks import Ranks
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["LatencyModel"]


class LatencyModel(CostModel):
    """Seconds that a path takes on a device.

    If every choice selects layers or a depth, seconds come from a table. Each block is timed alone, on its inputs
    within the network, and whole networks of random paths fit the sum of the blocks to the device. Otherwise each new
    path is measured as a whole and remembered.

    Parameters
    ----------
    supernet
        The mutated space.
    inputs
        Arguments of the space's ``forward``, batch dimension first.
    settings
        How to measure, or the table to use.
    seed
        Decides the random paths.
    keywords
        Keyword arguments of the space's ``forward``.
    ranks
        The processes of the search: the first one measures the table, and all take its figures.
    clock
        Returns seconds.

    Attributes
    ----------
    latencies : LatencyTable or None
        The source of the costs, if it is a table.

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
        ranks: Ranks | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        # As a function: the base class then builds no table of counts, and remembers and saves each measurement.
        super().__init__(supernet, inputs, self._time_network, seed, keywords)
        self.name = "latency"
        self._settings, self._seed = settings, seed
        self._ranks = ranks or Ranks()
        self._clock = clock
        self.latencies = settings.table
        if self.latencies is not None:
            self._use(self.latencies)

    def prepare(self) -> None:
        """Measure the table, unless there is one or the space allows none."""
        if self.latencies is None and has_table(self._supernet):
            how = (self._settings, self._seed, self._keywords, self._clock)
            # The first process reads the text as well, so that all hold the same figures.
            content = self._ranks.first(lambda: measure_table(self._supernet, self._inputs, *how).to_json())
            self._use(LatencyTable.from_json(content))

    def state_dict(self) -> dict[str, Any]:
        """Return all measurements, so that a resumed search uses the same figures."""
        table = None if self.latencies is None else self.latencies.to_json()
        return {**super().state_dict(), "latencies": table}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over earlier measurements."""
        super().load_state_dict(state)
        # A table that the user gives outranks the one of the checkpoint.
        if state.get("latencies") is not None and self._settings.table is None:
            self._use(LatencyTable.from_json(state["latencies"], "checkpoint"))

    def _use(self, latencies: LatencyTable) -> None:
        self.latencies = latencies
        self.table = latencies.costs(self._supernet, input_shape((self._inputs, self._keywords)))

    def _time_network(self, network: nn.Module, inputs: tuple[Any, ...]) -> float:
        watch = stopwatch(self._settings, self._clock)
        # Outside the timed function: copying the batch to the device is no part of the latency.
        args, kwargs = repeated((inputs, self._keywords), self._settings.batch_size or 1, watch.device)
        network = network.to(watch.device)
        return watch.time({0: lambda: network(*args, **kwargs)})[0]
