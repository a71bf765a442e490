"""The file of a search: the same keys in the YAML of ``nni-cream search`` and in NNI's ``tuner.classArgs``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nni_cream.config.layout import Key, Layout, describe_problems, keys_of, validate
from nni_cream.errors import ConfigError
from nni_cream.options import DEVICES, FLAG, NOTHING, PRECISIONS, number, one_of, unexpected, whole
from nni_cream.search.settings import LatencyOptions, SearchSettings
from nni_cream.training.loader_options import Loading
from nni_cream.training.recipe import Recipe

__all__ = ["KEYS", "SEARCH", "resolve_search_space", "trainer_keys"]

_SECTIONS = {
    "search": "the search: training of the supernet, and the arguments of CreamStrategy",
    "latency": "how the cost `latency` is measured, or where it has been measured",
    "trainer": "handed to Lightning's Trainer, for the search and for retraining",
    "loader": "how images get from the disk to the device",
    "retrain": "training of the board's best entries from new weights (`nni-cream go` and experiments)",
}
_NAMED = {
    "space": "Search space: a name, or a mapping with `name` and the arguments of that space. Your own class: "
    "`package.module:Class`.",
    "data": "Images: a name, or a mapping with `name` and the arguments of that loader.",
}


def trainer_keys() -> tuple[Key, ...]:
    """Return the section for Lightning's Trainer, the same in every file."""
    return (
        Key("trainer.accelerator", "auto", one_of("auto", "cpu", "gpu", "mps", "tpu"), "Hardware to train on."),
        Key("trainer.devices", 1, whole(1) | DEVICES | one_of("auto"), "How many devices, or which."),
        Key("trainer.strategy", "auto", one_of("auto", "ddp", "ddp_find_unused_parameters_true"),
            "How several devices share the work."),
        Key("trainer.precision", "32-true", one_of(*PRECISIONS), "Floating point format of the training."),
        Key("trainer.gradient_clip_val", None, number(0, above=True) | NOTHING, "Largest gradient norm (or value)."),
        Key("trainer.gradient_clip_algorithm", "norm", one_of("norm", "value"), "What is clipped."),
        Key("trainer.accumulate_grad_batches", 1, whole(1), "Batches whose gradients make one step."),
        Key("trainer.threads", None, whole(1) | NOTHING,
            "CPU threads of the process, null for one a core; 1 suits small networks and several trials at once."),
        Key("trainer.checkpoint_every_n_steps", None, whole(1) | NOTHING,
            "Optimizer steps between two checkpoints within an epoch, null for one checkpoint an epoch."),
        Key("trainer.timeout_seconds", 600.0, number(1),
            "Several devices: how long one waits for another before all end with an error."),
        Key("trainer.tensorboard", False, FLAG,
            "Whether the figures of each epoch are also written for TensorBoard (needs the extra `tensorboard`)."),
    )  # fmt: skip


KEYS: tuple[Key, ...] = (
    *keys_of(Recipe, "search"),
    *keys_of(SearchSettings, "search"),
    *keys_of(LatencyOptions, "latency"),
    *trainer_keys(),
    *keys_of(Loading, "loader"),
    Key("retrain.top", 3, whole(0), "How many entries, over all boards, are trained from new weights."),
    Key("retrain.seed", 0, whole(0), "Decides weights and order of the images."),
    *keys_of(Recipe, "retrain"),
)  # fmt: skip


def _contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    search = resolved["search"]
    warmup, epochs = search["warmup"], search["epochs"]
    if isinstance(warmup, int) and warmup >= epochs:
        yield (
            f"{prefix}search.warmup is {warmup} epochs; expected fewer than search.epochs ({epochs}), since the board "
            "would stay empty."
        )
    yield from _contradicting_teachers(search, f"{prefix}search.teaching.")
    costs = search["cost"] if isinstance(search["cost"], list) else [search["cost"]]
    yield from _contradicting_ranges([cost.rpartition(":")[2] for cost in costs], search["cost_range"], prefix)


def _contradicting_teachers(search: Mapping[str, Any], prefix: str) -> Iterator[str]:
    teaching, epochs = search["teaching"], search["epochs"]
    if search["distillation"] != "soft_cross_entropy" and teaching["temperature"] != 1:
        expected = f"1.0, since search.distillation {search['distillation']} has no temperature"
        yield unexpected(f"{prefix}temperature", teaching["temperature"], expected)
    if teaching["weights"] == "average" and search["ema_decay"] is None:
        yield f"{prefix}weights is average; expected search.ema_decay with it, such as 0.99, or current."
    start = teaching["start"]
    if isinstance(start, int) and start >= epochs:
        yield (
            f"{prefix}start is {start} epochs; expected fewer than search.epochs ({epochs}), since there would be no "
            "teachers."
        )


def _contradicting_ranges(names: list[str], ranges: Any, prefix: str) -> Iterator[str]:
    where, listed = f"{prefix}search.cost_range", ", ".join(names)
    if isinstance(ranges, dict):
        for name in ranges:
            if name not in names:
                yield f"{where}.{name} is no cost of this search; expected one of search.cost ({listed})."
    elif ranges is not None and len(names) > 1 and (len(ranges) != len(names) or not _are_pairs(ranges)):
        yield unexpected(where, ranges, f"a range for each of search.cost ({listed})")
    elif ranges is not None and len(names) == 1 and _are_pairs(ranges) and len(ranges) != 1 and any(ranges):
        yield unexpected(where, ranges, f"one range, since search.cost is {listed} alone")


def _are_pairs(ranges: list[Any]) -> bool:
    return all(item is None or isinstance(item, list) for item in ranges)


SEARCH = Layout(_NAMED, _SECTIONS, KEYS, _contradictions)


def resolve_search_space(space: Any, prefix: str = "searchSpace") -> dict[str, list[Any]]:
    """Check the ``searchSpace`` of an NNI experiment: the keys of ``search`` to vary, with their values.

    Parameters
    ----------
    space
        NNI's format, each key with ``_type: choice``.
    prefix
        Its name in messages.

    Returns
    -------
    dict
        Key of ``search`` -> its values, checked like those of the configuration.

    Raises
    ------
    ConfigError
        With every problem.
    """
    if not isinstance(space, Mapping) or not space:
        expected = "at least one key of search, such as {seed: {_type: choice, _value: [0]}}"
        raise ConfigError(unexpected(prefix, space, expected))
    keys = SEARCH.section("search")
    problems = [SEARCH.unknown(name, list(keys), f"{prefix}.") for name in space if name not in keys]
    resolved: dict[str, list[Any]] = {}
    for name in space:
        if name in keys:
            resolved[name] = _choices(keys[name], space[name], f"{prefix}.{name}", problems)
    if problems:
        raise ConfigError(describe_problems(problems))
    return resolved


def _choices(key: Key, choice: Any, where: str, problems: list[str]) -> list[Any]:
    values = choice.get("_value") if isinstance(choice, Mapping) and choice.get("_type") == "choice" else None
    if not isinstance(values, list) or not values:
        problems.append(unexpected(where, choice, "{_type: choice, _value: [...]} with at least one value"))
        return []
    found: list[str] = []
    names = [f"{where}._value[{index}]" for index in range(len(values))]
    checked = [validate(replace(key, name=name), value, "", found) for name, value in zip(names, values, strict=True)]
    problems += found
    problems += [
        unexpected(name, values[index], "a value that is not in the list already")
        for index, name in enumerate(names)
        if not found and checked[index] in checked[:index]
    ]
    return checked
