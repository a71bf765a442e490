"""Two measurements of one quality are better than each of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nni_cream.search.scoring.joined import joined
from nni_cream.search.scoring.predictor import Prediction


def test_of_two_measurements_the_less_noisy_counts_more_and_both_together_tell_most() -> None:
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {"accuracies": [], "predictions": [], "both": []}
    for _ in range(300):
        quality = generator.normal(size=10)
        accuracies = 0.7 + 0.02 * quality + generator.normal(scale=0.02, size=10)
        means = quality + generator.normal(scale=0.6, size=10)
        both = joined([*accuracies], 0.02**2, Prediction(means, np.full(10, 0.6)))
        for name, own in (("accuracies", accuracies), ("predictions", means), ("both", both)):
            found[name].append(stats.pearsonr(own, quality).statistic)
    each = {name: np.mean(own) for name, own in found.items()}
    assert each["both"] > each["predictions"] + 0.01 > each["accuracies"] + 0.05


def test_a_measurement_that_is_all_noise_does_not_count() -> None:
    shares, means = [0.5, 0.6, 0.7], np.array([3.0, 1.0, 2.0])
    sure, unsure = np.full(3, 1e-3), np.full(3, 50.0)
    assert np.argsort(joined(shares, 0.02, Prediction(means, sure))).tolist() == [1, 2, 0]
    assert np.argsort(joined(shares, 1e-7, Prediction(means, unsure))).tolist() == [0, 1, 2]
    assert joined(shares, 0.02, Prediction(means, unsure)).tolist() == shares
    assert joined([0.4], 0.002, Prediction(np.zeros(1), np.ones(1))).tolist() == [0.4]


@pytest.mark.parametrize(("share", "noise"), [(0.5, 0.02), (0.9, 1e-30), (1.0, 0.0)])
def test_where_all_accuracies_are_alike_the_predictions_decide(share: float, noise: float) -> None:
    means = np.array([3.0, 1.0, 2.0])
    found = joined([share] * 3, noise, Prediction(means, np.full(3, 0.1)))
    assert np.argsort(found).tolist() == [1, 2, 0]
    assert found == pytest.approx(share, abs=max(1e-5, 2 * noise**0.5))
    # As sums of other numbers of batches give: equal but for rounding.
    nearly = joined([share * (1 + 2e-16), share, share * (1 - 1e-16)], noise, Prediction(means, np.full(3, 0.1)))
    assert nearly == pytest.approx(found, abs=1e-12)


def test_an_estimate_is_the_posterior_mean_on_the_scale_of_the_accuracies() -> None:
    scores, means = np.array([0.5, 0.6, 0.7, 0.8]), np.array([2.0, -1.0, 4.0, 1.0])
    noise, std = 0.01, 1.5
    found = joined(scores, noise, Prediction(means, np.full(4, std)))
    # Quality of variance 1 and two standardised measurements of it, by the normal equations.
    shares = 1 - np.array([noise / np.var(scores, ddof=1), std**2 / np.var(means, ddof=1)])
    both = np.stack([stats.zscore(scores, ddof=1), stats.zscore(means, ddof=1)])
    loads = np.sqrt(shares)
    covariance = np.outer(loads, loads) + np.diag(1 - shares)
    posterior = loads @ np.linalg.solve(covariance, both)
    assert found == pytest.approx(scores.mean() + scores.std(ddof=1) * posterior)
