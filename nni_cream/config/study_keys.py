"""The files of the studies: ``nni-cream study truth``, ``nni-cream rank`` and ``nni-cream study final``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from schema import And, Schema

from nni_cream.config.layout import Key, Layout, describe_problems, keys_of, validate
from nni_cream.config.search_keys import SEARCH
from nni_cream.errors import ConfigError
from nni_cream.options import FLAG, NOTHING, TEXT, Rule, one_of, unexpected, whole
from nni_cream.training.recipe import Recipe

__all__ = ["FINAL", "RANK", "TRUTH", "VARIANTS", "StudyLayout"]

VARIANTS = "variants"
_MERGED = ("teaching", "scoring")  # a variant that gives a mapping changes these keys alone; all others it replaces
_NAMED = {
    "space": "Search space: a name, or a mapping with `name` and the arguments of that space.",
    "data": "Images: a name, or a mapping with `name` and the arguments of that loader.",
}
_NO_SEED = ("search.seed",)  # which seeds, the study says


def _distinct(low: int) -> Rule:
    def fits(values: list[int]) -> bool:
        return len(values) >= low and len(set(values)) == len(values)

    whole_numbers: Any = And([And(int, lambda seed: not isinstance(seed, bool) and seed >= 0)], fits)
    return Rule(Schema(whole_numbers), f"a list of at least {low} different whole numbers of at least 0")


_JUDGING = Key(
    "study.judging_images", 10_000, whole(1),
    "Validation images, the last ones, that no search sees: they judge architectures that were trained alone.",
)  # fmt: skip
_RETIRED = Key(
    "study.retired", {}, Rule(Schema({str: object}), "a mapping of names to values"),
    "For shipped files alone: settings of an earlier version, with which their records were made.",
)  # fmt: skip
_POPULATION = Key(
    "study.population", 50, whole(2), "Paths of a generation of the evolution. The first generation is random."
)
_RESAMPLES = Key("study.resamples", 10_000, whole(100), "How often architectures are drawn for an interval.")
_ACCELERATOR = Key("trainer.accelerator", "cpu", one_of("auto", "cpu", "gpu", "mps"), "Hardware to train on.")
_SECTIONS = {
    "study": "what is compared, and how often",
    "recipe": "how an architecture is trained alone",
    "search": "how a supernet is trained: the keys of a search, but for its seed",
    "trainer": "the hardware",
}


def _sections(*names: str) -> dict[str, str]:
    return {name: _SECTIONS[name] for name in names}


def _search_keys() -> tuple[Key, ...]:
    return tuple(key for key in SEARCH.keys if key.name.startswith("search.") and key.name not in _NO_SEED)


class StudyLayout(Layout):
    """A file with a section ``variants``: names to the keys of ``search`` that each of them sets.

    A variant may also hold ``retired``, settings that no longer exist; they add to ``study.retired``.
    """

    def resolve(self, content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """Check a file and fill in the defaults; see :meth:`Layout.resolve`.

        Parameters
        ----------
        content
            What the user wrote.
        prefix
            Put before each key in messages.

        Returns
        -------
        dict
            With ``variants``: each name to what it changes.

        Raises
        ------
        ConfigError
            With every problem of the section.
        """
        rest = {key: value for key, value in content.items() if key != VARIANTS}
        resolved = super().resolve(rest, prefix)
        problems: list[str] = []
        resolved[VARIANTS] = self._variants(content.get(VARIANTS), resolved["search"], f"{prefix}{VARIANTS}", problems)
        baseline = resolved["study"].get("baseline")
        if not problems and baseline is not None and baseline not in resolved[VARIANTS]:
            expected = f"one of {VARIANTS}: {', '.join(resolved[VARIANTS])}"
            problems.append(unexpected(f"{prefix}study.baseline", baseline, expected))
        if problems:
            raise ConfigError(describe_problems(problems))
        for name, changes in resolved[VARIANTS].items():
            kept = {key: value for key, value in changes.items() if key != "retired"}
            together = {**resolved, "search": {**resolved["search"], **kept, "seed": 0}}
            problems += SEARCH.contradictions(together, f"{prefix}{VARIANTS}.{name}: ")
        if problems:
            raise ConfigError(describe_problems(problems))
        return resolved

    def _variants(
        self, value: Any, search: Mapping[str, Any], where: str, problems: list[str]
    ) -> dict[str, dict[str, Any]]:
        if not isinstance(value, Mapping) or not value:
            problems.append(unexpected(where, value, "names, each with the keys of search that it sets"))
            return {}
        keys = {**SEARCH.section("search"), "retired": _RETIRED}
        del keys["seed"]
        keys = {name: replace(key, name=name) for name, key in keys.items()}
        variants: dict[str, dict[str, Any]] = {}
        for name, changes in value.items():
            if not isinstance(name, str) or not name or not isinstance(changes, Mapping | None):
                problems.append(unexpected(f"{where}.{name}", changes, "keys of search with their values, or {}"))
                continue
            changes = {key: _merged(key, search.get(key), given) for key, given in (changes or {}).items()}
            own = f"{where}.{name}."
            problems += [SEARCH.unknown(key, list(keys), own) for key in changes if key not in keys]
            variants[name] = {key: validate(keys[key], changes[key], own, problems) for key in changes if key in keys}
        return variants


def _merged(key: str, base: Any, given: Any) -> Any:
    """Return what a variant means: a partial mapping of one of ``_MERGED`` is completed from the file's ``search``."""
    whole = key in _MERGED and isinstance(base, Mapping) and isinstance(given, Mapping)
    return {**base, **given} if whole else given


TRUTH = Layout(
    _NAMED,
    _sections("study", "recipe", "trainer"),
    (
        Key("study.architectures", 60, whole(1) | TEXT,
            "How many to draw uniformly (seed 0), or a JSON file with a list of them."),
        _JUDGING,
        Key("study.seeds", [0, 1, 2], _distinct(2), "Of weights and order of the images; each gives one training."),
        *keys_of(Recipe, "recipe"),
        _ACCELERATOR,
    ),
)  # fmt: skip
"""Of ``nni-cream study truth``."""


def _rank_contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    study = resolved["study"]
    if study["evolution"] is not None and not study["record_steps"]:
        yield (
            f"{prefix}study.evolution is {study['evolution']} and {prefix}study.record_steps false; expected true, "
            "since whole searches are compared with the predictor's choice, too"
        )


RANK = StudyLayout(
    _NAMED,
    _sections("study", "search", "trainer"),
    (
        _JUDGING,
        Key("study.seeds", [0, 1, 2, 3, 4], _distinct(1), "Of the supernets; each variant is trained with each."),
        Key("study.baseline", "spos", TEXT, "The variant that all others are compared with, seed by seed."),
        Key("study.recalibration_images", 1024, whole(2) | NOTHING,
            "Training images on which BatchNorm of an architecture is estimated anew before it is scored; null: scores "
            "with the statistics of each batch alone."),
        Key("study.scored", None, whole(10) | NOTHING,
            "How many of the truth's architectures, drawn with seed 0, get one-shot scores; null for all."),
        Key("study.record_steps", False, FLAG,
            "Keep path and loss of each training step; then the tables also rank by the predictor."),
        Key("study.evolution", None, whole(1) | NOTHING,
            "How many paths an evolution, and a random search, score on each supernet of the baseline, to compare "
            "whole searches at equal time; null for neither. Needs `record_steps`."),
        _POPULATION,
        _RESAMPLES,
        _RETIRED,
        *_search_keys(),
        _ACCELERATOR,
    ),
    _rank_contradictions,
)  # fmt: skip
"""Of ``nni-cream rank``."""


def _final_contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    yield from SEARCH.contradictions({**resolved, "search": {**resolved["search"], "seed": 0}}, prefix)


FINAL = Layout(
    _NAMED,
    _sections("study", "recipe", "search", "trainer"),
    (
        _JUDGING,
        Key("study.seeds", [0, 1, 2, 3, 4], _distinct(1), "Of the searches."),
        Key("study.retrain_seeds", [0, 1, 2], _distinct(1), "Of the trainings of each chosen architecture."),
        _POPULATION,
        _RETIRED,
        *keys_of(Recipe, "recipe"),
        *_search_keys(),
        _ACCELERATOR,
    ),
    _final_contradictions,
)  # fmt: skip
"""Of ``nni-cream study final``."""
