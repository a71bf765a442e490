"""Joins two measurements of some paths: their accuracies under shared weights, and the predictor's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nni_cream.search.scoring.predictor import Prediction

__all__ = ["joined"]

_ALIKE = 1e-6  # scale of the predictions where neither the accuracies nor their noise give one


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
        Variance of their noise, that of a mean over so many images.
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
        spread = float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
        reliability = 0.0 if spread <= noise else 1 - noise / spread
        if reliability:
            noisy = max(1 - reliability, 1e-6)
            total += np.sqrt(reliability) / noisy * (values - values.mean()) / np.sqrt(spread)
            precision += reliability / noisy
    if not total.any():
        return scores
    # Where all accuracies are alike, the predictions decide, within what the accuracies leave open.
    scale = float(scores.std(ddof=1)) if np.ptp(scores) else math.sqrt(variance) or _ALIKE
    return np.asarray(scores.mean() + scale * total / precision)
