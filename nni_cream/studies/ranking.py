"""How well supernets of several variants of a search rank architectures that a truth knows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nni_cream.errors import StudyError
from nni_cream.studies.correlation import MEASURES, Estimate, measure_ranking, paired_difference
from nni_cream.studies.jobs import Job, Records
from nni_cream.studies.supernets import score_supernet
from nni_cream.studies.truth import Truth

__all__ = ["BUDGETS", "Row", "Variant", "equal_time", "make_variants", "rank_rows", "shared_by_all", "work"]

BUDGETS = ("equal epochs", "equal time")
PRIMARY = "recalibrated"
work = score_supernet


@dataclass(frozen=True)
class Variant:
    """One way to train a supernet.

    Parameters
    ----------
    name
        What the study calls it.
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
        """Return the results there are, by seed."""
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
        Those that have been run, of how many.
    measures
        Treatment of BatchNorm to measure to its estimate.
    differences
        Likewise, less that of the baseline; empty for the baseline itself, or with no seed in common.
    undefined
        Treatment to the reason why there are no figures.
    cost
        CPU seconds of a search, median over the seeds, divided by the baseline's.
    """

    variant: str
    budget: str
    epochs: int
    seeds: tuple[int, ...]
    wanted: int
    measures: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    cost: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every seed has been run."""
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
            "cost_ratio": self.cost,
        }


def shared_by_all(config: Mapping[str, Any], truth: Truth) -> dict[str, Any]:
    """Return what all trainings of a ranking study share.

    Parameters
    ----------
    config
        Resolved file.
    truth
        Whose architectures are scored, those of a half-finished truth included.

    Returns
    -------
    dict
        For :func:`nni_cream.studies.supernets.score_supernet`.
    """
    return {
        "study": "rank",
        "space": config["space"],
        "data": config["data"],
        "judging_images": config["study"]["judging_images"],
        "recalibration_images": config["study"]["recalibration_images"],
        "accelerator": config["trainer"]["accelerator"],
        "paths": [dict(path) for path in truth.architectures],
    }


def make_variants(config: Mapping[str, Any]) -> list[Variant]:
    """List the trainings of a ranking study at equal epochs.

    Parameters
    ----------
    config
        Resolved file.

    Returns
    -------
    list of Variant
        In the order of the file.
    """
    return [_variant(config, name, BUDGETS[0], changes) for name, changes in config["variants"].items()]


def _variant(config: Mapping[str, Any], name: str, budget: str, changes: Mapping[str, Any]) -> Variant:
    settings = {**config["search"], **changes}
    title = name if budget == BUDGETS[0] else f"{name} ({settings['epochs']} epochs)"
    seeds = config["study"]["seeds"]
    return Variant(
        name, budget, {seed: Job(f"{title} seed {seed}", {"search": {**settings, "seed": seed}}) for seed in seeds}
    )


def equal_time(config: Mapping[str, Any], variants: Sequence[Variant], records: Records) -> list[Variant]:
    """List the trainings in which each variant has the time that the dearest one takes at equal epochs.

    Time is that of the processor, so that other work on the machine does not count; it is measured in the trainings at
    equal epochs, and turned into a whole number of epochs.

    Parameters
    ----------
    config
        Resolved file.
    variants
        Of :func:`make_variants`, with their results.
    records
        Their results.

    Returns
    -------
    list of Variant
        The dearest one as it is, all others with more epochs.

    Raises
    ------
    StudyError
        If a variant has no result yet.
    """
    seconds = {variant.name: _seconds(variant, records) for variant in variants}
    missing = [name for name, value in seconds.items() if value is None]
    if missing:
        raise StudyError(f"no training of {', '.join(missing)} has ended yet, so equal time is not known; run it first")
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
    own = [result["search_cpu_seconds"] for result in variant.results(records).values()]
    return statistics.median(own) if own else None


def rank_rows(config: Mapping[str, Any], variants: Sequence[Variant], records: Records, truth: Truth) -> list[Row]:
    """Compare scores with the truth.

    Parameters
    ----------
    config
        Resolved file.
    variants
        Of one budget, the baseline among them.
    records
        Their results; those that are missing make a row incomplete.
    truth
        What scores are compared with: the architectures that it knows with all seeds.

    Returns
    -------
    list of Row
        In the order of the variants; those without a result have no figures.
    """
    baseline = next(item for item in variants if item.name == config["study"]["baseline"])
    return [_row(config, variant, baseline, records, truth) for variant in variants]


def _row(config: Mapping[str, Any], variant: Variant, baseline: Variant, records: Records, truth: Truth) -> Row:
    results, others = variant.results(records), baseline.results(records)
    measures: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    undefined: dict[str, str] = {}
    resamples = config["study"]["resamples"]
    for treatment in next(iter(results.values()))["scores"] if results else ():
        own, other = (_known_scores(found, treatment, truth) for found in (results, others))
        try:
            measures[treatment] = {name: measure_ranking(own, truth.means, name, resamples) for name in MEASURES}
            if variant.name != baseline.name and own.keys() & other.keys():
                differences[treatment] = {
                    name: paired_difference(own, other, truth.means, name, resamples) for name in MEASURES
                }
        except StudyError as error:
            measures.pop(treatment, None)
            undefined[treatment] = str(error)
    seconds, reference = _seconds(variant, records), _seconds(baseline, records)
    cost = None if seconds is None or reference is None else seconds / reference
    return Row(
        variant.name, variant.budget, variant.epochs, tuple(results), len(variant.jobs), measures, differences,
        undefined, cost,
    )  # fmt: skip


def _known_scores(results: Mapping[int, Mapping[str, Any]], treatment: str, truth: Truth) -> dict[int, list[float]]:
    known = truth.known
    return {seed: [result["scores"][treatment][number] for number in known] for seed, result in results.items()}
