"""Everything that decides a search, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nni_cream.errors import SearchError
from nni_cream.search.cost import cost_name
from nni_cream.search.costs import Cost, check_ranges
from nni_cream.search.objective import Distillation, Score, function_name
from nni_cream.search.sampler import CostRange
from nni_cream.search.timing import LatencySettings

__all__ = ["SearchSettings"]


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides a search, apart from the space, the data and the user's own training recipe.

    See :class:`~nni_cream.strategy.CreamStrategy` for the meaning of each.
    """

    matching: str
    cost: Cost | tuple[Cost, ...]
    cost_range: CostRange | tuple[CostRange, ...]
    warmup: int | float
    score_images: int
    score_interval: int
    score_batch_size: int | None
    rescore_interval: int
    probe_images: int
    meta_interval: int
    meta_learning_rate: float
    distillation: Distillation
    score: Score
    ema_decay: float | None
    seed: int
    latency: LatencySettings = field(default_factory=LatencySettings)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """All costs; the first is the primary one."""
        return self.cost if isinstance(self.cost, tuple) else (self.cost,)

    @property
    def ranges(self) -> tuple[CostRange, ...]:
        """The range of each cost."""
        return check_ranges(self.cost_range, [cost_name(cost) for cost in self.costs])

    def outline(self) -> dict[str, Any]:
        """Return the settings as plain values, functions by their names."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["cost_range"] = [list(pair) for pair in self.ranges] if len(self.costs) > 1 else list(self.ranges[0])
        values["distillation"] = function_name(self.distillation.loss)
        values["score"] = function_name(self.score.function)
        names = [function_name(cost) if callable(cost) else cost for cost in self.costs]
        values["cost"] = names if len(names) > 1 else names[0]
        # Checkpoints of searches that measure no latency say nothing of it, those of version 0.1.0 among them.
        values["latency"] = self.latency.outline() if "latency" in self.costs else None
        return values

    def check_same(self, saved: Mapping[str, Any]) -> None:
        """Refuse to go on with a search that was started with other settings.

        Parameters
        ----------
        saved
            What :meth:`outline` returned then.

        Raises
        ------
        SearchError
            With the names and values that differ.
        """
        own = self.outline()
        different = [name for name in own if saved.get(name) != own[name]]
        if different:
            listed = "; ".join(f"{name} was {saved.get(name)!r} and is {own[name]!r}" for name in different)
            raise SearchError(
                f"the checkpoint belongs to a search with other settings: {listed}. Resume with the settings that the "
                "search was started with, or start anew"
            )
