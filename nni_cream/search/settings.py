"""Everything that decides a search, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nni_cream.errors import SearchError
from nni_cream.search.cost import CostFunction
from nni_cream.search.objective import Distillation, Score, function_name
from nni_cream.search.sampler import CostRange

__all__ = ["SearchSettings"]


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides a search, apart from the space, the data and the user's own training recipe.

    See :class:`~nni_cream.strategy.CreamStrategy` for the meaning of each.
    """

    matching: str
    cost: str | CostFunction
    cost_range: CostRange
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

    def outline(self) -> dict[str, Any]:
        """Return the settings as plain values, functions by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["cost_range"] = list(self.cost_range)
        values["distillation"] = function_name(self.distillation.loss)
        values["score"] = function_name(self.score.function)
        if callable(values["cost"]):
            values["cost"] = function_name(values["cost"])
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
