"""Intervals for few seeds against scipy, and how often they hold what they are about."""

import math

import numpy as np
import pytest
from scipy import stats

from nni_cream.errors import StudyError
from nni_cream.studies.intervals import Estimate, mean_over_trainings, over_seeds, paired_trainings
from nni_cream.studies.report import show_estimate


def ends(estimate):
    return estimate.low, estimate.high


def test_without_another_variance_it_is_students():
    values = [0.4, 0.7, 0.5, 0.1]
    assert ends(over_seeds(values)) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95)))


def test_with_one_seed_it_is_of_the_other_variance_alone():
    found = over_seeds([0.3], 0.04, 63)
    assert ends(found) == pytest.approx(stats.t.interval(0.95, 63, loc=0.3, scale=0.2))
    assert (found.value, found.seeds) == (0.3, 1)


def test_two_variances_add_up_with_the_freedom_of_welch():
    # Satterthwaite's is what Welch's test of two samples takes, an oracle with two variances of their own.
    one, other = [1.0, 2.0, 4.0, 7.0], [0.5, 0.6, 0.4, 0.9, 0.1]
    oracle = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    found = over_seeds([value - np.mean(other) for value in one], np.var(other, ddof=1) / 5, 4)
    assert ends(found) == pytest.approx((oracle.low, oracle.high))


def test_where_nothing_varies_both_ends_are_the_figure():
    assert over_seeds([0.25, 0.25]) == Estimate(0.25, 0.25, 0.25, 2)
    assert over_seeds([0.25]) == Estimate(0.25, 0.25, 0.25, 1)


def test_ends_stay_within_what_is_possible():
    assert ends(over_seeds([0.9, 0.5]).within(-1, 1)) == pytest.approx((-1, 1))
    assert ends(Estimate(0.1, 0.05, 0.2, 3).within(0, math.inf)) == (0.05, 0.2)


def test_interval_over_searches_is_students_of_their_means():
    generator = np.random.default_rng(6)
    values = {seed: (0.9 + 0.1 * generator.normal() + 0.05 * generator.normal(size=3)).tolist() for seed in range(5)}
    found = mean_over_trainings(values)
    means = [np.mean(own) for own in values.values()]
    oracle = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
    assert (found.value, found.seeds) == (pytest.approx(np.mean(means)), 5)


def test_interval_over_searches_covers_the_true_mean_as_often_as_it_says():
    generator, covered, trials = np.random.default_rng(7), 0, 1000
    for _ in range(trials):
        table = generator.normal(size=(5, 1)) + generator.normal(size=(5, 3))
        found = mean_over_trainings(dict(enumerate(table.tolist())))
        covered += found.low <= 0 <= found.high
    assert 0.93 * trials <= covered <= 0.97 * trials  # a bootstrap's are 0.90


def test_with_one_search_the_interval_is_over_its_trainings_and_with_one_training_there_is_none():
    found = mean_over_trainings({3: [0.1, 0.2, 0.4]})
    oracle = stats.ttest_1samp([0.1, 0.2, 0.4], 0).confidence_interval(0.95)
    assert (found.low, found.high, found.seeds) == (pytest.approx(oracle.low), pytest.approx(oracle.high), 1)
    assert mean_over_trainings({3: [0.25]}) == Estimate(0.25, 0.25, 0.25, 1)
    assert show_estimate(Estimate(0.25, 0.25, 0.25, 1)) == "0.250"


def test_trainings_are_paired_by_search_and_seed():
    one = {0: [0.5, 0.7], 1: [0.6, 0.9], 2: [0.1, 0.1]}
    other = {0: [0.4, 0.6], 1: [0.5, 0.8], 3: [0.9, 0.9]}
    found = paired_trainings(one, other)  # 0.1 better each time, whatever differs between searches and seeds
    assert (found.value, found.low, found.high, found.seeds) == (*[pytest.approx(0.1)] * 3, 2)
    assert paired_trainings(one, one).value == 0
    assert found.scaled(10).low == pytest.approx(1)


def test_trainings_that_cannot_be_paired_are_refused():
    with pytest.raises(StudyError, match=r"seeds are \[0\]; expected some of \[1\]"):
        paired_trainings({0: [1.0]}, {1: [1.0]})
    with pytest.raises(StudyError, match="different numbers of trainings"):
        paired_trainings({0: [1.0]}, {0: [1.0, 2.0]})
    with pytest.raises(StudyError, match=r"trainings of the searches are \[1, 2\]"):
        mean_over_trainings({0: [1.0], 1: [1.0, 2.0]})
    with pytest.raises(StudyError, match=r"trainings of the searches are \[\]"):
        mean_over_trainings({})
