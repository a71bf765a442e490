"""A metric of torchmetrics as a score, against scikit-learn and against the metric itself on the whole set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, mean_absolute_error, r2_score
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric, PearsonCorrCoef, R2Score
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassF1Score,
    MultilabelAveragePrecision,
    MultilabelConfusionMatrix,
    MultilabelF1Score,
)

from nni_cream import CreamStrategy
from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.scoring.named_scores import resolve_score
from nni_cream.search.scoring.scores import Score, add_sums

torch.manual_seed(0)
LABELS = torch.randint(2, (60, 4))
LOGITS = LABELS + torch.randn(60, 4)
CLASSES = torch.randint(4, (60,))
VALUES = torch.randn(60)
GUESSES = VALUES + 0.5 * torch.randn(60)


def figure_of(score: Score, output: Tensor, target: Tensor) -> float:
    """The score of a set from the sums of three batches of different sizes."""
    sums: list[float] = []
    for part in (slice(10), slice(10, 35), slice(35, None)):
        sums = add_sums(sums, score.sums(output[part], target[part]))
    return score.of(sums, len(target))


@pytest.mark.parametrize(
    ("metric", "output", "target", "expected"),
    [
        (MeanAbsoluteError(), GUESSES, VALUES, lambda o, t: -mean_absolute_error(t, o)),
        (R2Score(), GUESSES, VALUES, lambda o, t: r2_score(t, o)),
        (MulticlassF1Score(4), LOGITS, CLASSES, lambda o, t: f1_score(t, o.argmax(1), average="macro")),
        (MultilabelF1Score(4), LOGITS, LABELS, lambda o, t: f1_score(t, o > 0, average="macro")),
        (
            MultilabelAveragePrecision(4, thresholds=20),
            LOGITS,
            LABELS,
            lambda o, t: float(MultilabelAveragePrecision(4, thresholds=20)(o, t)),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Metric) else "",
)
def test_the_sums_of_batches_give_the_figure_of_the_whole_set(
    metric: Metric, output: Tensor, target: Tensor, expected: Callable[[Tensor, Tensor], float]
) -> None:
    assert figure_of(resolve_score(metric), output, target) == pytest.approx(expected(output, target), abs=1e-6)


def test_a_metric_of_which_less_is_better_counts_negatively() -> None:
    score = resolve_score(MeanAbsoluteError())
    assert figure_of(score, VALUES + 0.25, VALUES) == pytest.approx(-0.25)
    assert figure_of(score, VALUES, VALUES) == 0


def test_the_users_metric_keeps_its_own_state() -> None:
    metric = MeanAbsoluteError()
    metric.update(torch.ones(2), torch.zeros(2))
    figure_of(resolve_score(metric), GUESSES, VALUES)
    assert float(metric.compute()) == 1
    assert metric.sync_on_compute


def test_outputs_in_16_bits_are_counted_in_32() -> None:
    output, target = GUESSES.to(torch.bfloat16), VALUES.to(torch.bfloat16)
    expected = -mean_absolute_error(target.double(), output.double())
    assert figure_of(resolve_score(MeanAbsoluteError()), output, target) == pytest.approx(expected, abs=1e-6)


def test_sums_of_all_processes_are_not_added_up_again() -> None:
    def waits(*_: Any, **__: Any) -> None:
        pytest.fail("the metric waits for the other processes")

    metric = MeanAbsoluteError(distributed_available_fn=lambda: True, dist_sync_fn=waits)
    assert figure_of(resolve_score(metric), VALUES + 0.5, VALUES) == pytest.approx(-0.5)


class Undecided(MeanAbsoluteError):
    higher_is_better = None


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (BinaryAUROC(), "score is BinaryAUROC, a metric with states that are no sums: preds, target; .*thresholds=50"),
        (PearsonCorrCoef(), "score is PearsonCorrCoef, a metric with states that are no sums: .*mean_x"),
        (-MeanAbsoluteError(), "score is CompositionalMetric, a metric with no states of its own"),
        (Undecided(), "score is Undecided, whose higher_is_better is None; expected True or False"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Metric) else "",
)
def test_a_metric_that_ranks_nothing_or_cannot_be_summed_is_refused_at_once(metric: Metric, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CreamStrategy(score=metric)


def test_a_metric_of_several_values_is_refused_with_the_averages_as_advice() -> None:
    score = resolve_score(MultilabelF1Score(4, average=None))
    with pytest.raises(SearchError, match=r"score is MultilabelF1Score, whose value has shape \(4,\); .*'macro'"):
        figure_of(score, LOGITS, LABELS)


def test_a_metric_that_says_nothing_of_better_is_a_figure_for_reading_alone() -> None:
    with pytest.raises(ConfigError, match="score is MultilabelConfusionMatrix, whose higher_is_better is None"):
        resolve_score(MultilabelConfusionMatrix(4))


def test_targets_that_a_metric_does_not_take_are_told_by_its_name() -> None:
    score = resolve_score(MultilabelAveragePrecision(4, thresholds=20))
    with pytest.raises(SearchError, match=r"score function 'MultilabelAveragePrecision' raised ValueError: .*target"):
        score.sums(LOGITS, LABELS.float())


def test_a_checkpoint_knows_a_metric_by_its_name_and_its_arguments() -> None:
    def outline(**arguments: Any) -> Any:
        metric = MultilabelAveragePrecision(4, **{"thresholds": 20, **arguments})
        return CreamStrategy(score=metric)._settings.outline()["score"]

    assert outline()["name"] == "MultilabelAveragePrecision"
    assert outline() == outline()
    assert outline(thresholds=21) != outline()
    assert outline(average="weighted") != outline()
