"""Everything that decides a search, in one value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any

from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.cost.cost_model import cost_name
from nni_cream.search.cost.costs import Cost, check_ranges
from nni_cream.search.cost.latency.stopwatch import LatencySettings
from nni_cream.search.paths.random_paths import CostRange
from nni_cream.search.sampling.samplers import SAMPLINGS
from nni_cream.search.scoring.scores import Score
from nni_cream.search.teaching.joint_loss import JOINT_LOSSES
from nni_cream.search.teaching.losses import Distillation, LossFunction, soft_cross_entropy
from nni_cream.search.user_functions import function_name

__all__ = ["PAPER", "TEACHER_WEIGHTS", "SearchSettings"]

TEACHER_WEIGHTS = ("current", "average")
PAPER: Mapping[str, Any] = MappingProxyType(
    {"joint_loss": "mix", "distillation_start": None, "distillation_gate": False, "teacher_weights": "current"}
)
"""How teachers teach in the paper, where the defaults are another way (docs/evidence.md says why)."""


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides a search, apart from the space, the data and the user's own training recipe.

    See :class:`~nni_cream.strategy.CreamStrategy` for the meaning of each.

    Raises
    ------
    ConfigError
        If one that changes how paths are drawn or taught is out of its range, or does not go with another.
    """

    matching: str
    cost: Cost | tuple[Cost, ...]
    cost_range: CostRange | tuple[CostRange, ...]
    warmup: int | float
    score_images: int
    score_interval: int | None
    score_batch_size: int | None
    rescore_interval: int | None
    probe_images: int
    meta_interval: int
    meta_learning_rate: float
    distillation: Distillation
    score: Score
    ema_decay: float | None
    seed: int
    latency: LatencySettings = field(default_factory=LatencySettings)
    rescore_entries: int | None = 10
    rejection_confidence: float | None = None
    candidates: str = "latest"
    distillation_temperature: float = 1.0
    distillation_start: int | float | None = None
    distillation_gate: bool = False
    teacher_weights: str = "current"
    teacher_threshold: float = 0.0
    joint_loss: str = "mix"
    match_weight: float = 0.5
    match_input: str = "probabilities"
    sampling: str = "uniform"

    def __post_init__(self) -> None:
        _check_name("sampling", self.sampling, SAMPLINGS)
        _check_name("joint_loss", self.joint_loss, JOINT_LOSSES)
        _check_name("teacher_weights", self.teacher_weights, TEACHER_WEIGHTS)
        if not isinstance(self.distillation_gate, bool):
            raise ConfigError(f"distillation_gate is {self.distillation_gate!r}; expected True or False")
        if not (_is_number(self.match_weight) and 0 < self.match_weight < 1):
            raise ConfigError(f"match_weight is {self.match_weight!r}; expected a number above 0 and below 1")
        if not (_is_number(self.teacher_threshold) and 0 <= self.teacher_threshold < 1):
            raise ConfigError(
                f"teacher_threshold is {self.teacher_threshold!r}; expected a number of at least 0 (a teacher always "
                "teaches) and below 1"
            )
        self._check_temperature()
        self._check_start()
        if self.teacher_weights == "average" and self.ema_decay is None:
            raise ConfigError(
                "teacher_weights is 'average', but there is no average; set ema_decay, such as 0.99, "
                "or teacher_weights='current'"
            )

    def _check_temperature(self) -> None:
        temperature, loss = self.distillation_temperature, self.distillation.loss
        if not (_is_number(temperature) and 0 < temperature < math.inf):
            raise ConfigError(f"distillation_temperature is {temperature!r}; expected a finite number above 0")
        if temperature != 1 and loss is not soft_cross_entropy:
            raise ConfigError(
                f"distillation_temperature is {temperature!r}, but distillation is {function_name(loss)!r}, which has "
                "no temperature; leave it at 1, or take 'soft_cross_entropy'"
            )

    def _check_start(self) -> None:
        start = self.distillation_start
        if start is None:
            return
        if not _is_number(start) or not start >= 0 or (isinstance(start, float) and start >= 1):
            raise ConfigError(
                f"distillation_start is {start!r}; expected a whole number of epochs, a fraction in [0, 1), or None to "
                "start with the board"
            )

    @property
    def distillation_loss(self) -> LossFunction:
        """The distillation loss at its temperature."""
        if self.distillation_temperature == 1:
            return self.distillation.loss
        return partial(soft_cross_entropy, temperature=self.distillation_temperature)

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
        # Checkpoints from before a setting was there say nothing of it: then it had its present default.
        saved = {item.name: item.default for item in fields(self) if item.default is not MISSING} | dict(saved)
        different = [name for name in own if saved.get(name) != own[name]]
        if different:
            listed = "; ".join(f"{name} was {saved.get(name)!r} and is {own[name]!r}" for name in different)
            raise SearchError(
                f"the checkpoint belongs to a search with other settings: {listed}. Resume with the settings that the "
                "search was started with, or start anew"
            )


def _check_name(name: str, value: Any, known: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(known)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
