"""The regression against a dense solution written out here, and against effects that are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from nni.mutable import Categorical, CategoricalMultiple, Mutable, MutableDict
from scipy import linalg
from scipy.stats import kendalltau

from nni_cream.errors import SearchError
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import encode_path
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.scoring.predictor import PathPredictor
from tests.search.paths.test_active_choices import DeepSpace, DoubledDepth, NestedSpace
from tests.search.small import SPACES

VALUES = {f"layer_{number}": ["skip", "thin", "wide"] for number in range(5)}
SIZE = sum(map(len, VALUES.values()))
Path = dict[str, Any]


def predictor() -> PathPredictor:
    return of_space(MutableDict({label: Categorical(values, label=label) for label, values in VALUES.items()}))


def of_space(space: Mutable) -> PathPredictor:
    return PathPredictor(space.simplify(), Usage(space))


def one_hot(paths: list[Path]) -> np.ndarray:
    return np.array([[float(path[label] == value) for label in VALUES for value in VALUES[label]] for path in paths])


class Steps:
    """Losses with known effects of the choices, a falling trend and noise."""

    def __init__(self, number: int, noise: float = 0.3, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.effects = 0.2 * generator.normal(size=SIZE)
        self.paths = [
            {label: values[generator.integers(len(values))] for label, values in VALUES.items()} for _ in range(number)
        ]
        trend = 1 + 3 * np.exp(-np.arange(number) / 100)
        self.losses = trend + one_hot(self.paths) @ self.effects + noise * generator.normal(size=number)

    def quality(self, paths: list[Path]) -> np.ndarray:
        return -one_hot(paths) @ self.effects


def test_effects_mean_and_standard_deviation_equal_a_dense_solution() -> None:
    steps = Steps(400)
    found = predictor()
    found.observe(steps.paths[:250], steps.losses[:250])
    found.observe(steps.paths[250:], steps.losses[250:])

    targets, weights, kept, mean, variance = [], [], [], 0.0, 0.0
    for number, loss in enumerate(steps.losses, start=1):
        if variance:
            targets.append((loss - mean) / math.sqrt(variance))
            weights.append(float(number))
            kept.append(number - 1)
        away = loss - mean if number > 1 else 0.0
        reach = min(number, max(20, 0.1 * number))
        mean = loss if number == 1 else mean + away / reach
        variance += (away**2 - variance) / reach
    y, w = np.array(targets), np.array(weights) / len(steps.losses)
    inputs = one_hot([steps.paths[place] for place in kept])
    center = np.average(inputs, axis=0, weights=w)
    root = np.sqrt(w)[:, None]
    augmented = np.vstack([root * (inputs - center), math.sqrt(10.0) * np.eye(SIZE)])
    goal = np.concatenate([root[:, 0] * (y - np.average(y, weights=w)), np.zeros(SIZE)])
    effects = np.linalg.lstsq(augmented, goal, rcond=None)[0]
    residuals = y - np.average(y, weights=w) - (inputs - center) @ effects
    inverse = np.linalg.inv(augmented.T @ augmented)
    spent = np.trace(inverse @ (root * (inputs - center)).T @ (root * (inputs - center)))
    observations = w.sum() ** 2 / (w**2).sum()
    noise = math.sqrt(np.average(residuals**2, weights=w) * observations / (observations - spent))
    rows = one_hot(steps.paths[:7]) - center

    prediction = found.predict(steps.paths[:7])
    np.testing.assert_allclose(prediction.mean, -rows @ effects, atol=1e-10)
    np.testing.assert_allclose(prediction.std, noise * np.sqrt(np.diag(rows @ inverse @ rows.T)), rtol=1e-9)

    told = found.to_json()
    contrasts = np.kron(np.eye(len(VALUES)), np.eye(3) - 1 / 3)  # a value less the mean of its label's
    items = [item for own in told["effects"].values() for item in own]
    assert [item["value"] for item in items] == [value for own in VALUES.values() for value in own]
    np.testing.assert_allclose([item["gain"] for item in items], -contrasts @ effects, atol=1e-10)
    stds = noise * np.sqrt(np.diag(contrasts @ inverse @ contrasts.T))
    np.testing.assert_allclose([item["std"] for item in items], stds, rtol=1e-9)


def test_known_effects_are_found_under_a_trend_and_noise() -> None:
    steps = Steps(3000)
    found = predictor()
    found.observe(steps.paths, steps.losses)
    others = Steps(200, seed=1).paths
    assert kendalltau(found.predict(others).mean, steps.quality(others)).statistic > 0.9
    effects = found.effects()
    for label, values in VALUES.items():
        best = max(values, key=lambda value, label=label: steps.quality([{**others[0], label: value}])[0])
        assert values[int(np.argmax(effects[label]))] == best


@pytest.mark.parametrize("wild", [1e4, -1e4, 1e300])
def test_one_wild_loss_spoils_nothing(wild: float) -> None:
    steps, others = Steps(1000), Steps(200, seed=1).paths
    losses = [*steps.losses]
    losses[500] = wild
    found = predictor()
    found.observe(steps.paths, losses)
    assert found.informed
    assert kendalltau(found.predict(others).mean, steps.quality(others)).statistic > 0.8


def test_standard_deviation_is_that_of_the_error() -> None:
    ratios = []
    for seed in range(12):
        steps = Steps(500, noise=1.0, seed=seed)
        found = predictor()
        found.observe(steps.paths, steps.losses)
        others = Steps(40, seed=seed + 100).paths
        prediction = found.predict(others)
        scale = np.std(steps.losses[250:])
        error = prediction.mean - steps.quality(others) / scale
        ratios.extend((error - error.mean()) / prediction.std)
    assert 0.6 < np.std(ratios) < 1.6


def test_a_prior_of_size_adds_half_a_standard_deviation_of_the_prediction_for_one_of_the_size() -> None:
    steps = Steps(400)
    plain, sized = predictor(), predictor()
    table = CostTable(7.0, {label: {"skip": 0, "thin": 3, "wide": 10 + place} for place, label in enumerate(VALUES)})
    sized.sizes = table
    assert sized.sizes == [cost for place in range(5) for cost in (0, 3, 10 + place)]
    for each in (plain, sized):
        each.observe(steps.paths, steps.losses)
    others = Steps(300, seed=1).paths
    # Spreads over the steps, the later ones counting more; the first two have no target.
    weights = np.arange(3, 401)
    over_steps = plain.predict(steps.paths[2:]).mean
    sizes = np.array([table(path) for path in steps.paths[2:]])

    def spread(values: np.ndarray) -> float:
        return math.sqrt(np.average((values - np.average(values, weights=weights)) ** 2, weights=weights))

    away = np.array([table(path) for path in others]) - np.average(sizes, weights=weights)
    expected = plain.predict(others).mean + 0.5 * spread(over_steps) / spread(sizes) * away
    np.testing.assert_allclose(sized.predict(others).mean, expected, rtol=1e-9)
    assert (sized.predict(others).std == plain.predict(others).std).all()
    assert sized.informed == plain.informed
    gains = sized.effects()
    for label, values in VALUES.items():  # a prediction is the sum of its effects, but for a constant
        one = {**others[0], label: values[0]}
        means = sized.means([{**one, label: value} for value in values])
        np.testing.assert_allclose(np.array(gains[label]) - gains[label][0], means - means[0], atol=1e-9)


@pytest.mark.parametrize("sizes", [None, [4.0] * SIZE])
def test_where_all_paths_have_one_size_there_is_no_prior(sizes: list[float] | None) -> None:
    steps = Steps(300)
    plain, sized = predictor(), predictor()
    for each in (plain, sized):
        each.observe(steps.paths, steps.losses)
    sized.sizes = sizes
    np.testing.assert_allclose(sized.means(steps.paths), plain.means(steps.paths), atol=1e-6)


def test_scale_and_sign_of_the_loss_do_not_matter() -> None:
    steps = Steps(300)
    found, scaled = predictor(), predictor()
    found.observe(steps.paths, steps.losses)
    scaled.observe(steps.paths, 1000 * steps.losses - 5000)
    np.testing.assert_allclose(scaled.predict(steps.paths).mean, found.predict(steps.paths).mean, atol=1e-6)


def test_saved_and_restored_it_goes_on_as_before() -> None:
    steps = Steps(300)
    whole, first, second = predictor(), predictor(), predictor()
    whole.observe(steps.paths, steps.losses)
    first.observe(steps.paths[:120], steps.losses[:120])
    second.load_state_dict(first.state_dict())
    first.observe(steps.paths[120:], steps.losses[120:])
    second.observe(steps.paths[120:], steps.losses[120:])
    for other in (first, second):
        assert (other.predict(steps.paths).mean == whole.predict(steps.paths).mean).all()


@pytest.mark.parametrize("name", {**SPACES, "deep": DeepSpace, "nested": NestedSpace})
def test_what_a_path_does_not_use_has_no_effect(name: str) -> None:
    space = {**SPACES, "deep": DeepSpace, "nested": NestedSpace}[name]()
    mutables, usage = space.simplify(), Usage(space)
    found = PathPredictor(mutables, usage)
    draws = RandomPaths(space, 0)
    paths = [draws.draw() for _ in range(300)]
    found.observe(paths, np.random.default_rng(0).normal(size=300))
    for path in paths[:20]:
        unused = mutables.keys() - usage.labels(path)
        other = {label: mutables[label].values[-1] if label in unused else path[label] for label in path}
        assert found.predict([path]).mean == found.predict([other]).mean
    assert {label: len(own) for label, own in found.effects().items()} == {
        label: len(mutable.values) for label, mutable in mutables.items()
    }


@pytest.mark.parametrize("space", [DeepSpace, DoubledDepth])
def test_gains_of_what_a_path_uses_sum_up_to_its_prediction(space: type[Any]) -> None:
    space = space()
    found, usage, draws = of_space(space), Usage(space), RandomPaths(space, 0)
    generator = np.random.default_rng(0)
    effects = generator.normal(size=found.size)
    paths = [draws.draw() for _ in range(400)]
    found.observe(paths, [effects[found.columns(path)].sum() + 0.1 * generator.normal() for path in paths])
    gains = {
        label: {json.dumps(item["value"]): item["gain"] for item in own}
        for label, own in found.to_json()["effects"].items()
    }

    def total(path: Path) -> float:
        plain = encode_path(path)
        return sum(gains[label][json.dumps(plain[label])] for label in usage.labels(path))

    rest = found.means(paths) - [total(path) for path in paths]
    np.testing.assert_allclose(rest, rest[0], atol=1e-9)
    assert np.ptp([total(path) for path in paths]) > 1  # and not because all are alike


def test_gain_of_a_depth_is_as_sure_as_the_difference_of_the_mean_networks() -> None:
    found, draws = of_space(DeepSpace()), RandomPaths(DeepSpace(), 0)
    paths = [draws.draw() for _ in range(400)]
    found.observe(paths, np.random.default_rng(0).normal(size=400))
    depths = found.to_json()["effects"]["depth"]
    # Of each depth the mean row of its networks, less that of all depths.
    every = {
        json.dumps(found.columns(path).tolist()): path
        for path in paths
        if path["depth"] in [item["value"] for item in depths]
    }.values()
    rows = {item["value"]: [] for item in depths}
    for path in every:
        row = np.zeros(found.size)
        row[found.columns(path)] = 1
        rows[path["depth"]].append(row)
    means = np.array([np.mean(own, axis=0) for own in rows.values()])
    solution = found._solution
    contrasts = means - means.mean(axis=0)
    stds = solution.noise * np.sqrt(np.diag(contrasts @ linalg.cho_solve(solution.factor, contrasts.T)))
    np.testing.assert_allclose([item["std"] for item in depths], stds, rtol=1e-9)
    np.testing.assert_allclose([item["gain"] for item in depths], -contrasts @ solution.sized, atol=1e-12)


def test_gain_in_a_free_subset_counts_from_a_path_without_the_value() -> None:
    space = MutableDict(
        {
            "any": CategoricalMultiple(["a", "b", "c"], label="any"),
            "two": CategoricalMultiple(["a", "b", "c", "d"], n_chosen=2, label="two"),
        }
    )
    found, generator = of_space(space), np.random.default_rng(0)
    helps = {"a": 0.5, "b": 1.0, "c": 1.5, "d": 2.0}
    paths = [
        {
            "any": [value for value in "abc" if generator.random() < 0.5],
            "two": sorted(generator.choice(list("abcd"), 2, replace=False).tolist()),
        }
        for _ in range(3000)
    ]
    losses = [-sum(helps[value] for own in path.values() for value in own) + generator.normal() / 10 for path in paths]
    found.observe(paths, losses)
    told = found.to_json()["effects"]
    gains = {label: np.array([item["gain"] for item in own]) for label, own in told.items()}
    scale = gains["any"].mean()  # a gain is in standard deviations of a loss
    np.testing.assert_allclose(gains["any"] / scale, [0.5, 1.0, 1.5], atol=0.05)
    np.testing.assert_allclose(gains["two"] / scale, [-0.75, -0.25, 0.25, 0.75], atol=0.05)
    assert found.problem is None
    few = of_space(space)
    few.observe(paths[:6], losses[:6])
    assert few.problem == "6 training steps are no more than the 6 effects to tell apart"


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([1.0, 2.0], "2 training steps are no more than the 10 effects"),
        ([1.5] * 40, "all 40 losses of training steps are alike"),
    ],
)
def test_too_little_to_learn_from_is_said(losses: list[float], problem: str) -> None:
    found = predictor()
    found.observe(Steps(len(losses)).paths, losses)
    assert found.problem is not None
    assert problem in found.problem
    with pytest.raises(SearchError, match="no path can be predicted"):
        found.predict(Steps(1).paths)


def test_what_is_not_known_is_told_with_the_reason() -> None:
    told = predictor().to_json()
    assert told == {"problem": predictor().problem, "effects": {}}


def test_a_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(SearchError, match="loss of a step is nan"):
        predictor().observe(Steps(1).paths, [math.nan])
    steps, found, other = Steps(200), predictor(), predictor()
    found.observe(steps.paths, steps.losses)
    before = found.means(steps.paths)
    with pytest.raises(SearchError, match="loss of a step is inf"):
        found.observe(steps.paths[:2], [100.0, math.inf])  # the first one counts
    other.load_state_dict(found.state_dict())
    assert (found.means(steps.paths) == other.means(steps.paths)).all()
    assert (found.means(steps.paths) != before).any()


def test_value_that_no_path_had_is_not_told() -> None:
    steps = Steps(400)
    within = [place for place, path in enumerate(steps.paths) if path["layer_2"] != "wide"]
    found = predictor()
    found.sizes = [float(value == "wide") for values in VALUES.values() for value in values]
    found.observe([steps.paths[place] for place in within], [steps.losses[place] for place in within])
    told = found.to_json()["effects"]
    assert [item["value"] for item in told["layer_2"]] == ["skip", "thin", "wide"]
    assert (told["layer_2"][2]["gain"], told["layer_2"][2]["std"]) == (None, None)
    assert sum(item["gain"] for item in told["layer_2"][:2]) == pytest.approx(0)
    assert all(item["std"] > 0 for item in told["layer_1"])
