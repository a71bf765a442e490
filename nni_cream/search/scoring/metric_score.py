"""A torchmetrics metric as the score of a path: states that are sums add up over batches and processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Size, Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_sum

from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.scoring.scores import Score
from nni_cream.search.user_functions import failures_of

__all__ = ["MetricScore", "metric_score"]


@dataclass(frozen=True)
class MetricScore(Score):
    """The figure of a metric over a whole set, negated if lower is better; made by :func:`metric_score`.

    Parameters
    ----------
    metric
        A copy of the user's, which each batch resets.
    arguments
        What its public attributes say, for the comparison of a checkpoint's settings.
    """

    metric: Metric = field(kw_only=True, compare=False)
    arguments: str = field(kw_only=True)

    @property
    def name(self) -> str:
        """Name of the metric's class."""
        return type(self.metric).__name__

    def _unread_sums(self, output: Tensor, targets: Tensor) -> Tensor:
        with failures_of("score", type(self.metric)):
            return self.function(output, targets)


def metric_score(metric: Metric) -> MetricScore:
    """Make a score of a metric, such as ``MultilabelAveragePrecision(10, thresholds=50)``.

    Parameters
    ----------
    metric
        A metric whose states are all sums, and whose value is one number. It stays as it is.

    Returns
    -------
    MetricScore
        Its score of a set is the metric's value, or minus the value where ``higher_is_better`` is False.

    Raises
    ------
    ConfigError
        If a state is no sum, such as a list of all outputs, or the metric does not say whether higher is better.
    """
    name = type(metric).__name__
    unfit = [state for state, reduction in metric._reductions.items() if reduction is not dim_zero_sum]
    if unfit or not metric._reductions:
        held = f"states that are no sums: {', '.join(unfit)}" if unfit else "no states of its own"
        raise ConfigError(
            f"score is {name}, a metric with {held}; expected states that add up over batches. Give it thresholds, "
            "such as thresholds=50, if it takes any, or write a score function"
        )
    if metric.higher_is_better is None:
        raise ConfigError(
            f"score is {name}, whose higher_is_better is None; expected True or False. Set it on the metric's class"
        )
    own = metric.clone()
    # All processes hold the sums of all of them already: adding those up again would wait for ranks that do not come.
    own.sync_on_compute = own._to_sync = False
    own.reset()
    sign = 1 if metric.higher_is_better else -1

    def value(sums: Sequence[float]) -> float:
        return sign * _value(own, sums)

    return MetricScore(partial(_sums, own), value=value, metric=own, arguments=_arguments(own))


def _sums(metric: Metric, output: Tensor, targets: Tensor) -> Tensor:
    """Return the states of a metric after one batch, in a row."""
    metric.to(output.device).reset()
    # 16 bits lose small differences between paths.
    precise = output.float() if output.is_floating_point() and output.dtype.itemsize < 4 else output
    metric.update(precise, targets)
    return torch.cat([getattr(metric, name).double().flatten() for name in _shapes(metric)])


def _value(metric: Metric, sums: Sequence[float]) -> float:
    """Return the value of a metric whose states are these sums."""
    metric.reset()
    shapes = _shapes(metric)
    parts = torch.tensor(sums, dtype=torch.float64).split([shape.numel() for shape in shapes.values()])
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        state = getattr(metric, name)
        setattr(metric, name, part.reshape(shape).to(state.device, state.dtype))
    metric._update_count = 1  # else torchmetrics warns that there were no updates
    with failures_of("score", type(metric)):
        found = metric.compute()
    if not isinstance(found, Tensor) or found.numel() != 1:
        kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
        raise SearchError(
            f"score is {type(metric).__name__}, whose value has {kind}; expected one number. Take an average, such as "
            "average='macro'"
        )
    return float(found)


def _shapes(metric: Metric) -> Mapping[str, Size]:
    return {name: state.shape for name, state in metric._defaults.items() if isinstance(state, Tensor)}


def _arguments(metric: Metric) -> str:
    plain = {key: item for key, item in vars(metric).items() if not key.startswith("_")}
    told = [f"{key}={item!r}" for key, item in sorted(plain.items()) if isinstance(item, str | int | float | None)]
    # The number of thresholds shows in the shape of a state alone.
    return ", ".join([*told, *(f"{state}: {tuple(shape)}" for state, shape in _shapes(metric).items())])
