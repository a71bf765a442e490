"""Rank correlations against scipy and by hand; intervals against slow, plain versions of the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nni_cream.errors import StudyError
from nni_cream.studies.correlation import (
    MEASURES,
    _Resamples,
    kendall_tau,
    mean_score,
    measure_ranking,
    paired_difference,
    reliability,
    spearman_rho,
    top_regret,
)
from nni_cream.studies.intervals import Estimate, over_seeds

pairs = st.integers(10, 25).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 6), min_size=n, max_size=n) for _ in range(2)))
)


def tau_by_counting(x, y):
    """Kendall's definition of tau-b, pair by pair."""
    concordant = discordant = tied_x = tied_y = 0
    for i in range(len(x)):
        for j in range(i):
            product = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
            concordant += product > 0
            discordant += product < 0
            tied_x += x[i] == x[j]
            tied_y += y[i] == y[j]
    number = len(x) * (len(x) - 1) / 2
    return (concordant - discordant) / np.sqrt((number - tied_x) * (number - tied_y))


def ranks_something(x):
    return len(set(x)) > 1


@given(pairs)
def test_tau_is_kendalls_count_of_pairs(pair):
    x, y = pair
    if ranks_something(x) and ranks_something(y):
        assert kendall_tau(x, y) == pytest.approx(tau_by_counting(x, y), abs=1e-12)


def test_known_rankings():
    truth = [float(number) for number in range(10)]
    assert kendall_tau(truth, truth) == pytest.approx(1)
    assert kendall_tau(truth[::-1], truth) == pytest.approx(-1)
    assert spearman_rho(truth[::-1], truth) == pytest.approx(-1)
    swapped = [1.0, 0.0, *truth[2:]]
    assert kendall_tau(swapped, truth) == pytest.approx(1 - 2 / 45)  # one of 45 pairs the wrong way round
    assert spearman_rho(swapped, truth) == pytest.approx(1 - 6 * 2 / (10 * 99))
    assert mean_score(truth, truth) == 4.5


def test_regret_is_what_the_best_five_miss():
    truth = [0.1 * number for number in range(10)]
    assert top_regret(truth, truth) == 0
    upside_down = [-value for value in truth]
    assert top_regret(upside_down, truth) == pytest.approx(0.9 - 0.4)
    assert top_regret([1.0] * 5 + [0.0] * 5, truth) == pytest.approx(0.5)  # the first of equal scores count


def test_every_measure_of_a_draw_is_that_of_the_drawn_architectures():
    generator = np.random.default_rng(0)
    scores, truth = generator.normal(size=30), generator.normal(size=30)
    scores[:6] = scores[6:12]  # some ties
    other = truth[::-1].copy()
    draws = _Resamples(30, 40)
    oracles = {
        "tau": lambda x, y: stats.kendalltau(x, y).statistic,
        "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
        "regret": lambda x, y: y.max() - y[np.argsort(-x, kind="stable")[:5]].max(),
        "accuracy": lambda x, y: x.mean(),
    }
    assert oracles.keys() == MEASURES.keys()
    for name, oracle in oracles.items():
        # The five best of a draw are five architectures, however often each was drawn.
        drawn = [np.unique(rows) if name == "regret" else rows for rows in draws.rows]
        for of in (truth, other, truth):  # the draws keep what they have made of a truth, until there is another
            expected = [oracle(scores[rows], of[rows]) for rows in drawn]
            assert MEASURES[name][1](scores, of, draws) == pytest.approx(expected, abs=1e-12), name


def test_interval_of_scores_without_meaning_holds_zero_and_that_of_good_ones_does_not():
    generator = np.random.default_rng(1)
    truth = generator.normal(size=60).tolist()
    noise = {seed: generator.normal(size=60).tolist() for seed in range(5)}
    good = {seed: (np.array(truth) + 0.3 * generator.normal(size=60)).tolist() for seed in range(5)}
    of_noise, of_good = measure_ranking(noise, truth), measure_ranking(good, truth)
    assert of_noise.low < 0 < of_noise.high
    assert of_good.low > 0.4
    assert of_good.low < of_good.value < of_good.high
    assert of_good.seeds == 5
    assert of_good.value == pytest.approx(np.mean([kendall_tau(own, truth) for own in good.values()]))


def test_interval_covers_the_true_tau_about_as_often_as_it_says():
    # Normal variables with correlation r have tau 2 / pi * arcsin(r) (Kendall 1949).
    generator, r, covered, trials = np.random.default_rng(2), 0.6, 0, 200
    expected = 2 / np.pi * np.arcsin(r)
    for _ in range(trials):
        truth = generator.normal(size=50)
        scores = r * truth + np.sqrt(1 - r * r) * generator.normal(size=50)
        estimate = measure_ranking({0: scores.tolist()}, truth.tolist(), resamples=300)
        covered += estimate.low <= expected <= estimate.high
    assert 0.88 * trials <= covered <= trials


def test_interval_is_over_seeds_as_well_as_architectures():
    truth = [float(number) for number in range(12)]
    backwards = [-value for value in truth]
    estimate = measure_ranking({0: truth, 1: backwards}, truth)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.0, -1.0, 1.0))
    # Whatever architectures are drawn, the difference is -2 or 0: Student's interval of these two figures.
    difference = paired_difference({0: truth, 1: backwards}, {0: truth, 1: truth}, truth)
    oracle = stats.ttest_1samp([0.0, -2.0], 0).confidence_interval(0.95)
    assert (difference.value, difference.low, difference.high) == pytest.approx((-1.0, oracle.low, oracle.high))


@pytest.mark.integration
@pytest.mark.parametrize(("seeds", "fewest"), [(2, 0.87), (3, 0.91), (5, 0.91)])
def test_interval_of_a_difference_covers_the_truth_with_few_seeds(seeds, fewest):
    # Both methods are right of the same architectures; each supernet has luck of its own, and is wrong of each a bit.
    generator, covered, trials = np.random.default_rng(8), 0, 300
    for _ in range(trials):
        truth = generator.normal(size=30)
        known = truth + generator.normal(size=30)
        own, other = (
            {seed: (0.5 * generator.normal() + known + generator.normal(size=30)).tolist() for seed in range(seeds)}
            for _ in range(2)
        )
        tau, mean = (paired_difference(own, other, truth.tolist(), name, resamples=200) for name in ("tau", "accuracy"))
        covered += (tau.low <= 0 <= tau.high) + (mean.low <= 0 <= mean.high)
    assert fewest <= covered / (2 * trials) <= 0.975


def test_what_a_seed_does_with_each_architecture_counts_once():
    # Of a mean score everything is known by hand: the seeds' variance, and the architectures' by what seeds agree in.
    generator, number = np.random.default_rng(9), 400
    known = generator.normal(size=number)
    scores = [known + 2 * generator.normal(size=number) for _ in range(2)]
    found = measure_ranking({seed: own.tolist() for seed, own in enumerate(scores)}, known.tolist(), "accuracy")
    oracle = over_seeds([own.mean() for own in scores], np.cov(scores)[0, 1] / number, number - 1)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=0.05)
    assert np.cov(scores)[0, 1] < 0.5 * np.var(np.mean(scores, axis=0))


def test_difference_is_paired_by_architecture_and_seed():
    generator = np.random.default_rng(3)
    truth = generator.normal(size=40)
    base = {seed: (truth + generator.normal(size=40)).tolist() for seed in range(4)}
    same = paired_difference(base, base, truth.tolist())
    assert same == Estimate(0.0, 0.0, 0.0, 4)
    assert not same.excludes_zero
    better = {seed: (0.5 * np.array(own) + truth).tolist() for seed, own in base.items()}
    gained = paired_difference(better, base, truth.tolist())
    assert gained.excludes_zero
    expected = np.mean([kendall_tau(better[s], truth) - kendall_tau(base[s], truth) for s in range(4)])
    assert gained.value == pytest.approx(expected)
    lost = paired_difference(base, better, truth.tolist())
    assert (lost.value, lost.low, lost.high) == pytest.approx((-gained.value, -gained.high, -gained.low), abs=0.01)
    wide = measure_ranking(better, truth.tolist()), measure_ranking(base, truth.tolist())
    assert gained.high - gained.low < (wide[0].high - wide[0].low) + (wide[1].high - wide[1].low)


def test_only_common_seeds_are_paired():
    generator = np.random.default_rng(4)
    truth = generator.normal(size=20).tolist()
    one = {seed: generator.normal(size=20).tolist() for seed in (0, 1, 2)}
    other = {seed: generator.normal(size=20).tolist() for seed in (1, 2, 3)}
    assert paired_difference(one, other, truth).seeds == 2
    with pytest.raises(StudyError, match=r"seeds are \[0\]; expected some of \[3\]"):
        paired_difference({0: one[0]}, {3: other[3]}, truth)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([0.5] * 12, list(range(12)), "all 12 scores are 0.5, so they rank nothing: tau is undefined"),
        (list(range(12)), [0.25] * 12, "all 12 accuracies are 0.25"),
        (list(range(9)), list(range(9)), "in common is 9; expected at least 10"),
        (list(range(12)), list(range(11)), "number of scores is 12; expected 11"),
        ([float("nan")] * 12, list(range(12)), "the scores hold values that are not finite"),
    ],
)
def test_what_ranks_nothing_is_said_and_no_nan_comes_out(scores, truth, message):
    for function in (kendall_tau, spearman_rho, top_regret):
        with pytest.raises(StudyError, match=message):
            function(scores, truth)
    with pytest.raises(StudyError, match=f"seed 7: .*{message}"):
        measure_ranking({7: scores}, truth)


def test_reliability_is_spearman_browns():
    generator = np.random.default_rng(5)
    own = generator.normal(size=(5000, 1))
    table = own + generator.normal(size=(5000, 3))  # as much noise as differences: r = 1/2, so 3 r / (1 + 2 r)
    assert reliability(table) == pytest.approx(0.75, abs=0.02)
    assert reliability(np.repeat(own, 2, axis=1)) == pytest.approx(1)
    assert reliability(generator.normal(size=(5000, 3))) == pytest.approx(0, abs=0.1)
    # What it means: the squared correlation of the means with what the noise is added to.
    assert reliability(table) == pytest.approx(np.corrcoef(table.mean(axis=1), own[:, 0])[0, 1] ** 2, abs=0.02)


def test_reliability_needs_seeds_and_architectures():
    with pytest.raises(StudyError, match=r"shape of the accuracies is \(5, 1\); expected at least three architectures"):
        reliability([[1.0]] * 5)
    with pytest.raises(StudyError, match="the accuracies of a seed are all the same"):
        reliability([[1.0, 0.5], [1.0, 0.6], [1.0, 0.7]])
