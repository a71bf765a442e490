"""Joins two measurements of some paths: their accuracies under shared weights, and the predictor's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nni_cream.search.scoring.predictor import Prediction

__all__ = ["joined"]

_ALIKE = 1e-6  # scale of the predictions where neither the accuracies nor their noise give one
_ROUNDING = 1e-9  # relative; values that differ by less are equal


def joined(accuracies: Sequence[float], variance: float, prediction: Prediction) -> NDArray[np.float64]:
    """Estimate the quality of some paths from two measurements, each weighted by what is known of its noise.

    Of the variance of a measurement over the paths, the part that its noise does not explain is its reliability r.
    Standardised, it counts with sqrt(r) / (1 - r): the best linear estimate of one quality from two measurements with
    independent noise. Where noise explains all of both, the accuracies decide. Where all of these are alike, the
    predictions do.

    Parameters
    ----------
    accuracies
        Scores on validation images.
    variance
        Variance of their noise, that of a mean over so many images. Differences between paths vary less, as all see the
        same images. But shared weights err, too, and nothing measures that: the larger noise stands for both.
    prediction
        Of the same paths; the noise is its posterior standard deviation.

    Returns
    -------
    numpy.ndarray
        Shape (paths,), on the scale of the accuracies. The higher the better.
    """
    scores = np.asarray(accuracies, dtype=float)
    noises = (variance, float(np.mean(prediction.std**2)))
    total, precision = np.zeros(len(scores)), 1.0
    for values, noise in zip((scores, prediction.mean), noises, strict=True):
        spread = _spread(values)
        reliability = 0.0 if spread <= noise else 1 - noise / spread
        if reliability:
            noisy = max(1 - reliability, 1e-6)
            total += np.sqrt(reliability) / noisy * (values - values.mean()) / np.sqrt(spread)
            precision += reliability / noisy
    if not total.any():
        return scores
    # Where all accuracies are alike, the predictions decide, within what the accuracies leave open.
    scale = math.sqrt(_spread(scores) or variance) or _ALIKE
    return np.asarray(scores.mean() + scale * total / precision)


def _spread(values: NDArray[np.float64]) -> float:
    """Return the variance over the paths; 0 where all are alike, but for rounding."""
    return 0.0 if np.ptp(values) <= _ROUNDING * np.abs(values).max() else float(np.var(values, ddof=1))
