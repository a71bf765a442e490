"""A performance predictor that costs nothing: a regression of the losses of the training steps on their paths.

Each training step measures one path on one batch. One such loss says little, since the batch decides most of it. A
regression over all of them tells what each choice adds, and so predicts paths that were never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from nni.mutable import CategoricalMultiple, LabeledMutable
from nni.mutable.annotation import Constraint
from numpy.typing import NDArray
from scipy import linalg

from nni_cream.errors import SearchError
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path, encode_path, encode_value

__all__ = ["PRIOR_OF_SIZE", "PathPredictor", "Prediction"]

_Array = NDArray[np.float64]
_RIDGE = 10.0  # of the prototype's studies (METHOD.md); anything from 3 to 30 ranks alike
# Large paths learn more slowly, so their losses understate them. Chosen on tuning seeds of two data sets
# (docs/evidence.md).
PRIOR_OF_SIZE = 0.5
"""Standard deviations of a prediction for one of the size."""
_TREND_SHARE, _TREND_STEPS = 0.1, 20  # how far back the mean looks that stands for the trend
_WILD = 10.0  # spreads from the trend; a loss further away says that a step went wrong, not how good its path is
_SUMS = ("products", "inputs", "targets")


@dataclass(frozen=True)
class Prediction:
    """Predicted quality of some paths.

    Parameters
    ----------
    mean
        Shape (paths,). The higher the better; in standard deviations of a step's loss, less the trend of all paths.
    std
        Posterior standard deviation of the same, shape (paths,). It takes old losses for noisier than late ones. Where
        they are not, it is about a sixth too large.
    """

    mean: _Array
    std: _Array


@dataclass(frozen=True)
class _Solution:
    effects: _Array
    sized: _Array  # with the prior of size
    products: _Array
    weight: float
    factor: tuple[_Array, bool]
    center: _Array
    noise: float

    def std(self, rows: _Array) -> _Array:
        """Return the posterior standard deviation of the sums of effects that rows weigh, shape (rows,)."""
        variances = (rows * linalg.cho_solve(self.factor, rows.T).T).sum(axis=1)
        return np.asarray(self.noise * np.sqrt(np.maximum(variances, 0.0)))


class PathPredictor:
    """Bayesian linear regression, in closed form, of a step's task loss on the choices of its path.

    loss = trend + sum of the effects of the choices in use + noise. The trend is the mean of the last steps. Losses are
    divided by their spread, so it does not matter what loss it is. A loss counts as ten spreads from the trend at most.
    A step counts in proportion to its number: old weights gave the old losses. Only main effects: pairs of choices fit
    the losses better, and rank the truth worse.

    With :attr:`sizes`, predictions have a prior: of two paths with the same losses, the larger one is better.

    Parameters
    ----------
    mutables
        Label -> its mutable, a choice of one value or of several; those of the space. Constraints have no effect.
    usage
        The labels that a path uses. What it leaves unused has no effect.
    ridge
        Precision of the prior of each effect, in observations.
    """

    def __init__(
        self,
        mutables: Mapping[str, LabeledMutable],
        usage: Usage,
        ridge: float = _RIDGE,
    ) -> None:
        self._choices = choices = {
            str(label): item for label, item in mutables.items() if not isinstance(item, Constraint)
        }
        self._values = {label: [encode_value(value, label) for value in choices[label].values] for label in choices}
        # Label -> how many of its values a path has; ``None`` for any number.
        self._several = {
            label: item.n_chosen for label, item in choices.items() if isinstance(item, CategoricalMultiple)
        }
        self._usage = usage
        self._ridge = ridge
        self._column = {
            (label, position): number
            for number, (label, position) in enumerate(
                (label, position) for label, own in self._values.items() for position in range(len(own))
            )
        }
        size = self.size = len(self._column)
        self._products: _Array = np.zeros((size, size))
        self._inputs: _Array = np.zeros(size)
        self._targets: _Array = np.zeros(size)
        # Weight, its square, target, its square, all summed; then mean and variance of the last losses.
        self._scalars: _Array = np.zeros(6)
        self._steps = 0
        self._sizes: list[float] | None = None

    @property
    def sizes(self) -> list[float] | None:
        """What each column adds to the size of a path; ``None`` without a prior of size."""
        return self._sizes

    @sizes.setter
    def sizes(self, sizes: CostTable | Sequence[float] | None) -> None:
        if isinstance(sizes, CostTable):
            sizes = [sizes.columns[label][self._choices[label].values[place]] for label, place in self._column]
        self._sizes = None if sizes is None else [*map(float, sizes)]
        self.__dict__.pop("_solution", None)

    def observe(self, paths: Sequence[Path], losses: Sequence[float]) -> None:
        """Take what training steps have measured.

        Parameters
        ----------
        paths
            The path of each step, in the order of the steps.
        losses
            The task loss of each step.

        Raises
        ------
        SearchError
            If a loss is not finite.
        """
        self.learn([self.columns(path) for path in paths], losses)

    def learn(self, columns: Sequence[NDArray[np.intp]], losses: Sequence[float]) -> None:
        """Do the same for paths that are given by their :meth:`columns`."""
        self.__dict__.pop("_solution", None)
        for own, loss in zip(columns, losses, strict=True):
            if not math.isfinite(loss):
                raise SearchError(
                    f"the loss of a step is {loss}; expected a finite number. Lower the learning rate or clip "
                    "gradients."
                )
            self._add(own, loss)

    def columns(self, path: Path) -> _Columns:
        """Return the numbers of the columns that a path sets to one."""
        plain = encode_path(path)
        columns = [
            self._column[label, self._values[label].index(value)]
            for label in map(str, self._usage.labels(path))
            for value in (plain[label] if label in self._several else [plain[label]])
        ]
        return np.array(columns, dtype=np.intp)

    def _add(self, columns: _Columns, loss: float) -> None:
        self._steps += 1
        target = self._less_trend(loss)
        if target is None:
            return
        weight = float(self._steps)
        self._products[columns[:, None], columns] += weight
        self._inputs[columns] += weight
        self._targets[columns] += weight * target
        self._scalars[:4] += (weight, weight**2, weight * target, weight * target**2)

    def _less_trend(self, loss: float) -> float | None:
        """Return the loss less the mean of the last ones, over their spread; ``None`` while there is no spread."""
        mean, variance = self._scalars[4:]
        reach = min(self._steps, max(_TREND_STEPS, _TREND_SHARE * self._steps))
        away = loss - mean if self._steps > 1 else 0.0
        # The spread is that of before, so that one wild loss cannot hide itself.
        spread = math.sqrt(variance) if variance > (1e-6 * mean) ** 2 else None
        if spread is not None:
            away = max(-_WILD * spread, min(_WILD * spread, away))
        self._scalars[4] = loss if self._steps == 1 else mean + away / reach
        self._scalars[5] = variance + (away**2 - variance) / reach
        return None if spread is None else away / spread

    @property
    def problem(self) -> str | None:
        """Why nothing can be predicted; ``None`` if it can."""
        # Of values of which a path has a given number, one follows from the others.
        free = sum(len(own) - (not self._is_any_number(label)) for label, own in self._values.items())
        if self._steps <= free:
            return f"{self._steps} training steps are no more than the {free} effects to tell apart"
        if not self._scalars[0]:
            return f"all {self._steps} losses of training steps are alike"
        return None

    def predict(self, paths: Sequence[Path]) -> Prediction:
        """Predict paths.

        Parameters
        ----------
        paths
            Any paths of the space.

        Returns
        -------
        Prediction
            In their order.

        Raises
        ------
        SearchError
            If nothing can be predicted (:attr:`problem`).
        """
        if self.problem:
            raise SearchError(f"no path can be predicted: {self.problem}; expected more. Train for longer.")
        solution = self._solution
        rows = np.zeros((len(paths), len(self._inputs)))
        for row, path in zip(rows, paths, strict=True):
            row[self.columns(path)] = 1.0
        rows -= solution.center
        return Prediction(-(rows @ solution.sized), solution.std(rows))

    def means(self, paths: Sequence[Path]) -> _Array:
        """Return the predicted quality of paths alone, shape (paths,)."""
        return self.predict(paths).mean

    @property
    def informed(self) -> bool:
        """Whether what is predicted is more than noise: paths differ by more than the error of a prediction."""
        if self.problem:
            return False
        solution = self._solution
        # Over the paths that were trained: variance of the predictions, and mean variance of their errors.
        spread = solution.effects @ solution.products @ solution.effects / solution.weight
        error = solution.noise**2 * np.trace(linalg.cho_solve(solution.factor, solution.products)) / solution.weight
        return bool(spread > error)

    def effects(self) -> dict[str, list[float]]:
        """Return what each value of each label adds to the prediction of the paths that use the label.

        Returns
        -------
        dict
            Label -> the effect of each value, in the order of the space, in standard deviations of a step's loss. The
            higher the better. Two paths that use different labels differ by more than single values, so the mean over
            the values of a label is part of it.

        Raises
        ------
        SearchError
            If nothing can be predicted (:attr:`problem`).
        """
        if self.problem:
            raise SearchError(f"no effect is known: {self.problem}; expected more. Train for longer.")
        return {
            label: [-float(self._solution.sized[self._column[label, place]]) for place in range(len(values))]
            for label, values in self._values.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return what each choice adds to a path, as plain values.

        Returns
        -------
        dict
            ``problem``, why nothing is known, or ``None``; ``effects``: label -> for each value ``value``, ``gain`` and
            its posterior standard deviation ``std``. A gain is the effect of a value and of what it brings into use, as
            the mean over the choices there. It counts from the mean over the values that were observed. Where a path
            may have any number of the values, it counts from a path without this one. Of values that were not observed,
            both are ``None``.
        """
        if self.problem:
            return {"problem": self.problem, "effects": {}}
        solution, found, rows = self._solution, {}, self._with_followers()
        for label, values in self._values.items():
            own = [self._column[label, place] for place in range(len(values))]
            # A value that no path had, as one beyond the cost range, is known by its size alone.
            seen = [column for column in own if self._inputs[column]]
            contrasts = rows[seen]
            if seen and not self._is_any_number(label):
                contrasts = contrasts - contrasts.mean(axis=0)
            gains, stds = -(contrasts @ solution.sized), solution.std(contrasts)
            known = dict(zip(seen, zip(map(float, gains), map(float, stds), strict=True), strict=True))
            found[label] = [
                {"value": value, **dict(zip(("gain", "std"), known.get(column, (None, None)), strict=True))}
                for value, column in zip(values, own, strict=True)
            ]
        return {"problem": None, "effects": found}

    def _is_any_number(self, label: str) -> bool:
        return self._several.get(label, 1) is None

    def _with_followers(self) -> _Array:
        """Return each column with those that it brings into use, shape (columns, columns)."""
        rows = np.eye(self.size)
        if not self._usage.groups:
            return rows
        means = {label: self._mean_row(label) for label in self._values}
        sums, counts = np.zeros_like(rows), np.zeros(self.size)
        for group in self._usage.groups:
            for case in group.distinct:
                chosen = [
                    self._column[label, self._choices[label].values.index(case.chosen[label])]
                    for label in case.deciders
                ]
                row = sum((means[label] for label in case.followers), np.zeros(self.size))
                row[chosen] += 1.0
                sums[chosen] += row
                counts[chosen] += 1.0
        decides = counts > 0
        rows[decides] = sums[decides] / counts[decides, None]
        return rows

    def _mean_row(self, label: str) -> _Array:
        """Return the mean row of the values of a label that were observed."""
        row = np.zeros(self.size)
        seen = [
            column for place in range(len(self._values[label])) if self._inputs[column := self._column[label, place]]
        ]
        if seen:
            number = self._several.get(label, 1)
            row[seen] = 0.5 if number is None else number / len(seen)
        return row

    @cached_property
    def _solution(self) -> _Solution:
        weight, squares, targets, target_squares = self._scalars[:4]
        center = self._inputs / weight
        # The latest step has the weight 1, so that the ridge counts observations.
        scale = 1.0 / self._steps
        products = scale * (self._products - weight * np.outer(center, center))
        moments = scale * (self._targets - center * targets)
        regular = products + self._ridge * np.eye(len(center))
        factor = linalg.cho_factor(regular)
        effects = linalg.cho_solve(factor, moments)
        residual = scale * (target_squares - targets**2 / weight) - 2 * effects @ moments + effects @ products @ effects
        spent = float(np.trace(linalg.cho_solve(factor, products)))
        observations = weight**2 / squares
        degrees = max(1.0, observations - spent)
        noise = math.sqrt(max(0.0, residual / (scale * weight) * observations / degrees))
        return _Solution(effects, self._sized(effects, products), products, scale * weight, factor, center, noise)

    def _sized(self, effects: _Array, products: _Array) -> _Array:
        """Return effects of which the size has its part, in the spreads of both over the paths that were trained."""
        if self._sizes is None:
            return effects
        sizes = np.array(self._sizes)
        predicted, size = (float(own @ products @ own) for own in (effects, sizes))
        if size <= 1e-9 * np.trace(products) * np.square(sizes).max():  # all paths have one size, but for rounding
            return effects
        return effects - PRIOR_OF_SIZE * math.sqrt(max(0.0, predicted) / size) * sizes

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as tensors, and the sizes."""
        sums = {name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in (*_SUMS, "scalars")}
        return {**sums, "steps": self._steps, "sizes": self.sizes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over saved sums."""
        for name in (*_SUMS, "scalars"):
            getattr(self, f"_{name}")[...] = state[name].numpy()
        self._steps = state["steps"]
        # A search that is resumed after its last step has no batch, of which the sizes would follow.
        self.sizes = state.get("sizes")
        self.__dict__.pop("_solution", None)


_Columns = NDArray[np.intp]
