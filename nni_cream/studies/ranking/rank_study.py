"""Measure how well the supernets of several variants rank the architectures of a truth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nni_cream.errors import StudyError
from nni_cream.search.scoring.predictor import PRIOR_OF_SIZE
from nni_cream.studies.correlation import MEASURES, measure_ranking, paired_difference
from nni_cream.studies.intervals import Estimate, over_seeds
from nni_cream.studies.jobs import Job, Records, with_retired
from nni_cream.studies.outcomes import RECORDED, SUPERNET, primary, training_seconds
from nni_cream.studies.ranking.choice_rules import MACS_ALONE, ChoiceRow, WholeTruth, choice_rows
from nni_cream.studies.ranking.predictions import predict
from nni_cream.studies.ranking.scored_supernet import score_supernet
from nni_cream.studies.ranking.whole_searches import RegretCurve, WholeSearchRow, regret_curves, whole_search_rows
from nni_cream.studies.truths.truth import Truth

__all__ = [
    "BUDGETS",
    "PREDICTED",
    "Choices",
    "Row",
    "Variant",
    "equal_time",
    "make_variants",
    "rank_choices",
    "rank_rows",
    "shared_by_all",
    "work",
]

BUDGETS = ("equal epochs", "equal time")
PREDICTED = {
    "predicted": "predictor",
    "predicted, without size": "predictor without its prior of size",
    "with size": "scores with the predictor's prior of size",
}
"""In place of a treatment of BatchNorm: what ranks instead of one-shot scores, with which the baseline is compared."""
work = score_supernet


@dataclass(frozen=True)
class Variant:
    """One way to train a supernet.

    Parameters
    ----------
    name
        Its name in the study.
    budget
        One of ``BUDGETS``.
    jobs
        A training for each seed.
    """

    name: str
    budget: str
    jobs: Mapping[int, Job]

    @property
    def epochs(self) -> int:
        """Epochs of each training."""
        return int(next(iter(self.jobs.values())).arguments["search"]["epochs"])

    def results(self, records: Records) -> dict[int, dict[str, Any]]:
        """Return the results that exist, by seed."""
        found = records.results(list(self.jobs.values()))
        return {seed: found[job.key] for seed, job in self.jobs.items() if job.key in found}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    variant
        Name.
    budget
        One of ``BUDGETS``.
    epochs
        Epochs of each training.
    seeds
        Seeds with a result.
    wanted
        Number of seeds in the study.
    measures
        BatchNorm treatment to measure to its estimate.
    differences
        The same minus that of the baseline. Empty for the baseline, or without a common seed.
    undefined
        Treatment to the reason for missing figures.
    unpaired
        Treatment to the reason for missing differences.
    cost
        CPU seconds of a training divided by the baseline's, seed by seed. ``None`` without a common seed.
    """

    variant: str
    budget: str
    epochs: int
    seeds: tuple[int, ...]
    wanted: int
    measures: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    unpaired: Mapping[str, str] = field(default_factory=dict)
    cost: Estimate | None = None

    @property
    def complete(self) -> bool:
        """Whether every seed has a result."""
        return len(self.seeds) == self.wanted

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""

        def plain(table: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
            return {name: {key: item.to_json() for key, item in own.items()} for name, own in table.items()}

        return {
            "variant": self.variant,
            "budget": self.budget,
            "epochs": self.epochs,
            "seeds": list(self.seeds),
            "complete": self.complete,
            "measures": plain(self.measures),
            "differences": plain(self.differences),
            "undefined": dict(self.undefined),
            "unpaired": dict(self.unpaired),
            "cost_ratio": None if self.cost is None else self.cost.to_json(),
        }


def shared_by_all(config: Mapping[str, Any], truth: Truth) -> dict[str, Any]:
    """Return what all trainings of a ranking study share; it scores the architectures of a partial truth, too."""
    return {
        "study": "rank",
        "space": config["space"],
        "data": config["data"],
        "judging_images": config["study"]["judging_images"],
        "recalibration_images": config["study"]["recalibration_images"],
        "accelerator": config["trainer"]["accelerator"],
        "paths": [dict(path) for path in truth.architectures],
        **({"record_steps": True} if config["study"]["record_steps"] else {}),
    }


def make_variants(config: Mapping[str, Any]) -> list[Variant]:
    """List the variants at equal epochs, in the order of the file."""
    return [_variant(config, name, BUDGETS[0], changes) for name, changes in config["variants"].items()]


def _variant(config: Mapping[str, Any], name: str, budget: str, changes: Mapping[str, Any]) -> Variant:
    retired = with_retired({**config["study"]["retired"], **changes.get("retired", {})})
    settings = {**config["search"], **{key: value for key, value in changes.items() if key != "retired"}}
    title = name if budget == BUDGETS[0] else f"{name} ({settings['epochs']} epochs)"
    study = config["study"]
    whole: dict[str, Any] = {}
    if study["evolution"] is not None:
        searches = {"paths": study["evolution"], "population": study["population"]}
        whole = {"searches": searches} if name == study["baseline"] else {"finalise": True}
    arguments = {seed: {"search": {**settings, "seed": seed}, **whole, **retired} for seed in study["seeds"]}
    fields = RECORDED if study["record_steps"] else SUPERNET
    return Variant(name, budget, {seed: Job(f"{title} seed {seed}", own, fields) for seed, own in arguments.items()})


def equal_time(config: Mapping[str, Any], variants: Sequence[Variant], records: Records) -> list[Variant]:
    """List the variants, each with the time that the slowest one takes at equal epochs.

    Time is CPU time, so that other work on the machine does not count. It is measured in the trainings at equal epochs,
    with a final validation where there is one, and converted to whole epochs.

    Raises :class:`~nni_cream.errors.StudyError` if a variant has no result yet.
    """
    seconds = {variant.name: _seconds(variant, records) for variant in variants}
    missing = [name for name, value in seconds.items() if value is None]
    if missing:
        raise StudyError(
            f"no training of {', '.join(missing)} has ended yet; expected one, for equal time. Run it first."
        )
    longest = max(value for value in seconds.values() if value is not None)
    longer = []
    for variant in variants:
        own = seconds[variant.name]
        assert own is not None
        epochs = round(variant.epochs * longest / own)
        changes = {**config["variants"][variant.name], "epochs": epochs}
        longer.append(
            Variant(variant.name, BUDGETS[1], variant.jobs)
            if epochs == variant.epochs
            else _variant(config, variant.name, BUDGETS[1], changes)
        )
    return longer


def _seconds(variant: Variant, records: Records) -> float | None:
    results = variant.results(records).values()
    own = [training_seconds(result) + result.get("finalising_cpu_seconds", 0.0) for result in results]
    return statistics.median(own) if own else None


def rank_rows(config: Mapping[str, Any], variants: Sequence[Variant], records: Records, truth: Truth) -> list[Row]:
    """Compare the scores of variants of one budget with the architectures that the truth knows with all seeds.

    Missing results make a row incomplete. The last row is ``MACS_ALONE``.
    """
    baseline = next(item for item in variants if item.name == config["study"]["baseline"])
    scores = {variant.name: _known_scores(config, variant, records, truth) for variant in variants}
    one_shot = scores[baseline.name].get(primary(scores[baseline.name]), {})
    rows = []
    for variant in variants:
        others = {} if variant is baseline else scores[baseline.name]
        others = {**others, **dict.fromkeys(PREDICTED, one_shot)}
        found = _compare(config, truth, scores[variant.name], others, tuple(MEASURES))
        rows.append(_row(variant, baseline, records, found))
    macs = [truth.macs[number] for number in truth.known]
    same = {treatment: dict.fromkeys(own, macs) for treatment, own in scores[baseline.name].items()}
    others = {**scores[baseline.name], **dict.fromkeys(PREDICTED, one_shot)}
    found = _compare(config, truth, same, others, ("tau", "spearman", "regret"))
    return [*rows, Row(MACS_ALONE, baseline.budget, 0, (), 0, **found)]


@dataclass(frozen=True)
class Choices:
    """What the trained supernets would choose of a whole truth; empty without recorded steps.

    Parameters
    ----------
    rows
        Of scores, predictions and boards.
    searches
        Of whole searches at equal time.
    curves
        Regret over time: key of :data:`~nni_cream.studies.ranking.whole_searches.AMONG` -> search -> curve.
    """

    rows: Sequence[ChoiceRow] = ()
    searches: Sequence[WholeSearchRow] = ()
    curves: Mapping[str, Mapping[str, RegretCurve]] = field(default_factory=dict)


def rank_choices(
    config: Mapping[str, Any], variants: Sequence[Variant], records: Records, truth: Truth, scored: Truth
) -> Choices:
    """Compare what variants and rules would choose of a whole truth; whole searches only at equal epochs.

    These have times of their own. A plain training that has spent the time of a search leaves none to an evolution.
    """
    if not config["study"]["record_steps"]:
        return Choices()
    results = {variant.name: variant.results(records) for variant in variants}
    baseline, space, whole = config["study"]["baseline"], config["space"], WholeTruth(truth, scored)
    rows = choice_rows(results, baseline, space, whole)
    if variants[0].budget != BUDGETS[0]:
        return Choices(rows)
    return Choices(
        rows,
        whole_search_rows(results, baseline, space, whole),
        regret_curves(results, baseline, space, whole),
    )


_Scores = dict[str, dict[int, list[float]]]
"""Treatment of BatchNorm to seed to the scores of the known architectures."""


def _compare(
    config: Mapping[str, Any], truth: Truth, own: _Scores, others: _Scores, measures: Sequence[str]
) -> dict[str, Any]:
    """Return the fields of a row, by treatment. ``others`` are the baseline's scores, empty for itself."""
    resamples = config["study"]["resamples"]
    found: dict[str, Any] = {name: {} for name in ("measures", "differences", "undefined", "unpaired")}
    for treatment, scores in own.items():
        other = others.get(treatment, {})
        # A prediction is no accuracy, whose mean could say something.
        names = [name for name in measures if name != "accuracy" or treatment not in PREDICTED]
        try:
            found["measures"][treatment] = {
                name: measure_ranking(scores, truth.means, name, resamples) for name in names
            }
        except StudyError as error:
            found["undefined"][treatment] = str(error)
            continue
        try:
            if scores.keys() & other.keys():
                found["differences"][treatment] = {
                    name: paired_difference(scores, other, truth.means, name, resamples) for name in names
                }
        except StudyError as error:
            found["unpaired"][treatment] = f"baseline, {error}"
    return found


def _row(variant: Variant, baseline: Variant, records: Records, found: Mapping[str, Any]) -> Row:
    own, other = variant.results(records), baseline.results(records)
    ratios = [training_seconds(own[seed]) / training_seconds(other[seed]) for seed in own if seed in other]
    cost = over_seeds(ratios) if ratios else None
    return Row(variant.name, variant.budget, variant.epochs, tuple(own), len(variant.jobs), **found, cost=cost)


def _known_scores(config: Mapping[str, Any], variant: Variant, records: Records, truth: Truth) -> _Scores:
    scores: _Scores = {}
    macs = np.array([truth.macs[number] for number in truth.known])
    for seed, result in variant.results(records).items():
        every = dict(result["scores"])
        if config["study"]["record_steps"]:
            trained = result["trained"]
            every["predicted"] = predict(config["space"], trained, truth.architectures)
            if trained.get("sizes") is not None:
                without = {**trained, "sizes": None}
                every["predicted, without size"] = predict(config["space"], without, truth.architectures)
        for treatment, own in every.items():
            if len(own) != len(truth.architectures):
                key, expected = f"scores.{treatment}", f"scores of {len(truth.architectures)} architectures"
                raise records.broken(variant.jobs[seed], key, f"a list of {len(own)}", expected)
            scores.setdefault(treatment, {})[seed] = [own[number] for number in truth.known]
        if "predicted, without size" in every:
            one_shot = np.array(scores[primary(result["scores"])][seed])
            scores.setdefault("with size", {})[seed] = _with_size(one_shot, macs)
    return scores


def _with_size(scores: NDArray[np.float64], macs: NDArray[np.float64]) -> list[float]:
    """Add the predictor's prior of size: so many standard deviations of the scores for one of the multiply-adds."""
    spread = macs.std()
    return [*map(float, scores + PRIOR_OF_SIZE * scores.std() * (macs - macs.mean()) / spread)] if spread else [*scores]
