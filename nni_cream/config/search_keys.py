"""The file of a search: the same keys stand in the YAML of ``nni-cream search`` and in ``tuner.classArgs`` of NNI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nni_cream.config.layout import Key, Layout, describe_problems, validate
from nni_cream.config.rules import (
    DEVICES,
    FLAG,
    FRACTION,
    IMPORTABLE,
    NOTHING,
    PRECISIONS,
    RANGE,
    RANGES,
    SIZES,
    TEXT,
    number,
    one_of,
    several,
    show,
    whole,
)
from nni_cream.errors import ConfigError

__all__ = ["KEYS", "SEARCH", "loader_keys", "resolve_search_space", "trainer_keys", "training_keys"]

_SECTIONS = {
    "search": "the search: training of the supernet, and the arguments of CreamStrategy",
    "latency": "how the cost `latency` is measured, or where it has been measured",
    "trainer": "handed to Lightning's Trainer, for the search and for retraining",
    "loader": "how images get from the disk to the device",
    "retrain": "training of the board's best entries from new weights (NNI experiments only)",
}
_NAMED = {
    "space": "Search space: a name, or a mapping with `name` and the arguments of that space. Your own class: "
    "`package.module:Class`.",
    "data": "Images: a name, or a mapping with `name` and the arguments of that loader.",
}


def training_keys(section: str) -> tuple[Key, ...]:
    """Return the settings of one training, of the supernet or an architecture; the defaults are those of ``Recipe``."""
    keys = (
        ("epochs", 30, whole(1), "Passes over the training images."),
        ("batch_size", 64, whole(2), "Images a training step."),
        ("learning_rate", 0.1, number(0, above=True), "Highest learning rate of SGD; it follows a cosine."),
        ("momentum", 0.9, number(0, 1, below=True), "Momentum of SGD."),
        ("nesterov", True, FLAG, "Whether the momentum is Nesterov's."),
        ("weight_decay", 5e-4, number(0), "Decay of convolution and linear weights."),
        ("warmup_fraction", 0.1, number(0, 1, below=True), "Share of all steps in which the learning rate rises."),
        ("label_smoothing", 0.0, number(0, 1, below=True), "Share of the target spread over all classes."),
        ("augment", "none", one_of("none", "shift", "shift+flip"), "Random changes of the training images."),
    )
    return tuple(Key(f"{section}.{name}", *rest) for name, *rest in keys)  # type: ignore[arg-type]


def trainer_keys() -> tuple[Key, ...]:
    """Return the section that is handed to Lightning's Trainer, the same in every file."""
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
        Key("trainer.tensorboard", False, FLAG,
            "Whether the figures of each epoch are also written for TensorBoard (needs the extra `tensorboard`)."),
    )  # fmt: skip


def loader_keys() -> tuple[Key, ...]:
    """Return the section about how images get to the device, the same in every file."""
    return (
        Key("loader.workers", 0, whole(0),
            "Processes that read and decode images; 0 for images that are in memory, one a CPU core for files."),
        Key("loader.prefetch", 2, whole(1), "Batches that each of them keeps ready."),
        Key("loader.persistent", True, FLAG, "Whether they stay from epoch to epoch."),
        Key("loader.pin_memory", False, FLAG, "Whether batches lie where a GPU fetches them faster."),
    )  # fmt: skip


_COST = one_of("macs", "params", "latency") | IMPORTABLE


def _latency_keys() -> tuple[Key, ...]:
    """Return the settings of ``cost: latency``; the defaults are those of ``LatencySettings``."""
    return (
        Key("latency.device", "auto", TEXT,
            "`auto` (a GPU if there is one, else the CPU), `cpu`, `cuda`, or the name of the device in your table."),
        Key("latency.table", None, TEXT | NOTHING,
            "JSON file of `nni-cream latency`, or of your own; null to measure when the search starts."),
        Key("latency.batch_size", None, whole(1) | NOTHING, "Images at once; null for 1, or for what the table says."),
        Key("latency.threads", None, whole(1) | NOTHING,
            "Threads of the CPU; null for those of the process, or for what the table says."),
        Key("latency.warmup", 3, whole(0), "Runs of each block before the clock counts."),
        Key("latency.repeats", 11, whole(1), "Runs that the clock counts; the latency is their median."),
        Key("latency.paths", 30, whole(3), "Random whole networks that fit the table, and as many that check it."),
        Key("latency.image_sizes", None, SIZES | NOTHING,
            "Sides in pixels to measure at, with interpolation between them; null for that of the images."),
    )  # fmt: skip


KEYS: tuple[Key, ...] = (
    *training_keys("search"),
    Key("search.seed", 0, whole(0), "Decides weights, order of the images, paths and teachers."),
    Key("search.board_size", 10, whole(1), "K, the entries of the prioritized path board."),
    Key("search.matching", "meta", one_of("meta", "random", "best", "none"),
        "Who picks the teacher from the board: the meta network, chance, its rank, or nobody (plain SPOS)."),
    Key("search.cost", "macs", _COST | several(_COST),
        "What a path costs: multiply-adds of one image, parameters, seconds, or your `function(network, inputs)`; the "
        "first of several is the primary one."),
    Key("search.cost_range", None, RANGE | NOTHING | RANGES, "Only paths within these costs are sampled."),
    Key("search.margin", 0.05, number(0, 1),
        "Gap in accuracy from which on a candidate may be dearer than the weakest entry."),
    Key("search.warmup", 1 / 6, whole(0) | FRACTION, "Training before the board starts: epochs, or a share of all."),
    Key("search.score_images", 2048, whole(2), "Validation images (the same for all) that score a candidate."),
    Key("search.score_interval", None, whole(1) | NOTHING,
        "Training steps between two candidates once the board is full; null for as many as add a tenth to the cost."),
    Key("search.candidates", "promising", one_of("promising", "latest"),
        "Which path since the last candidate is the next: that of the lowest training loss, or of the latest step."),
    Key("search.score_batch_size", None, whole(2) | NOTHING,
        "Images at once while scoring; null for two training batches, at most 256."),
    Key("search.rescore_interval", 1, whole(1) | NOTHING,
        "Epochs between two rescorings of the board; null for never."),
    Key("search.rescore_entries", None, whole(1) | NOTHING,
        "Most entries in one rescoring, in turns; null for as many as add a tenth to the cost."),
    Key("search.rejection_confidence", 0.9999, number(0.5, 1, above=True, below=True) | NOTHING,
        "Scoring stops when a candidate, with this probability, cannot get onto the board; null: when it is certain."),
    Key("search.probe_images", 4, whole(2), "Images on which the meta network compares two paths."),
    Key("search.meta_interval", 200, whole(1), "Training steps between two updates of the meta network."),
    Key("search.meta_learning_rate", 1e-4, number(0, above=True), "Learning rate of the meta network."),
    Key("search.match_weight", 0.5, number(0, 1, above=True, below=True),
        "Weight of the teacher where nobody learns it, and what the meta network starts near."),
    Key("search.match_input", "probabilities", one_of("probabilities", "logits"),
        "What the meta network compares of two paths' outputs, under soft_cross_entropy."),
    Key("search.joint_loss", "add", one_of("mix", "add"),
        "How the two losses make one: the paper's [rho KD + (2 - rho) CE] / 2, or CE + rho KD."),
    Key("search.distillation", "soft_cross_entropy", one_of("soft_cross_entropy", "mean_squared_error") | IMPORTABLE,
        "Loss between the student's and the teacher's output."),
    Key("search.distillation_temperature", 1.0, number(0, above=True),
        "What both outputs are divided by in soft_cross_entropy; the loss is multiplied by its square."),
    Key("search.distillation_start", 0.5, whole(0) | FRACTION | NOTHING,
        "Training before there are teachers: epochs, or a share of all; never before the end of search.warmup."),
    Key("search.distillation_gate", True, FLAG,
        "Whether to distil only where the teacher scores higher than the student on the training batch."),
    Key("search.teacher_weights", "average", one_of("current", "average"),
        "Weights that teachers run with: those of the moment, or their average (needs search.ema_decay)."),
    Key("search.teacher_threshold", 0.0, number(0, 1, below=True),
        "With meta, teachers whose match weight is below this are left out, and not run at all."),
    Key("search.sampling", "uniform", one_of("uniform", "fair", "board"),
        "How paths are drawn: uniformly, every value of a choice equally often, or half of them near board entries."),
    Key("search.score", "top1", one_of("top1", "negative_squared_error") | IMPORTABLE,
        "What a candidate is scored by; higher is better."),
    Key("search.recalibration_images", 8192, whole(2),
        "Training images on which BatchNorm of the board's entries is estimated anew for their final validation."),
    Key("search.ema_decay", 0.99, number(0, 1, above=True, below=True) | NOTHING,
        "Decay of an average of the supernet's weights for the final validation and the weights that are kept."),
    *_latency_keys(),
    *trainer_keys(),
    *loader_keys(),
    Key("retrain.top", 3, whole(0), "How many entries, over all boards, are trained from new weights."),
    Key("retrain.seed", 0, whole(0), "Decides weights and order of the images."),
    *training_keys("retrain"),
)  # fmt: skip


def _contradictions(resolved: Mapping[str, Any], prefix: str) -> Iterator[str]:
    search = resolved["search"]
    warmup, epochs = search["warmup"], search["epochs"]
    if isinstance(warmup, int) and warmup >= epochs:
        yield (
            f"{prefix}search.warmup: {warmup} epochs; expected fewer than search.epochs ({epochs}), since the board "
            "would stay empty"
        )
    yield from _contradicting_teachers(search, f"{prefix}search.")
    costs = search["cost"] if isinstance(search["cost"], list) else [search["cost"]]
    yield from _contradicting_ranges([cost.rpartition(":")[2] for cost in costs], search["cost_range"], prefix)


def _contradicting_teachers(search: Mapping[str, Any], prefix: str) -> Iterator[str]:
    distillation, start, epochs = search["distillation"], search["distillation_start"], search["epochs"]
    if distillation != "soft_cross_entropy":
        for name, neutral in (("distillation_temperature", 1.0), ("match_input", "probabilities")):
            if search[name] != neutral:
                yield (
                    f"{prefix}{name}: {show(search[name])}; expected {neutral}, since {prefix}distillation is "
                    f"{distillation}: only soft_cross_entropy works with probabilities"
                )
    if search["teacher_weights"] == "average" and search["ema_decay"] is None:
        yield f"{prefix}teacher_weights: average; expected {prefix}ema_decay with it, such as 0.99, or current"
    if start is None:
        return
    if isinstance(start, int) and start >= epochs:
        yield (
            f"{prefix}distillation_start: {start} epochs; expected fewer than search.epochs ({epochs}), since "
            "there would be no teachers"
        )


def _contradicting_ranges(names: list[str], ranges: Any, prefix: str) -> Iterator[str]:
    where = f"{prefix}search.cost_range"
    if isinstance(ranges, dict):
        for name in ranges:
            if name not in names:
                yield f"{where}: {name!r} is no cost of this search; expected one of search.cost ({', '.join(names)})"
    elif ranges is not None and len(names) > 1 and (len(ranges) != len(names) or not _are_pairs(ranges)):
        yield f"{where}: {show(ranges)}; expected a range for each of search.cost ({', '.join(names)})"
    elif ranges is not None and len(names) == 1 and _are_pairs(ranges) and len(ranges) != 1 and any(ranges):
        yield f"{where}: {show(ranges)}; expected one range, since search.cost is {names[0]} alone"


def _are_pairs(ranges: list[Any]) -> bool:
    return all(item is None or isinstance(item, list) for item in ranges)


SEARCH = Layout(_NAMED, _SECTIONS, KEYS, _contradictions)


def resolve_search_space(space: Any, prefix: str = "searchSpace") -> dict[str, list[Any]]:
    """Check the ``searchSpace`` of an NNI experiment: which keys of ``search`` to vary, over which values.

    Parameters
    ----------
    space
        NNI's format, each key with ``_type: choice``.
    prefix
        How messages call it.

    Returns
    -------
    dict
        Key of ``search`` -> its values, checked as those of the configuration are.

    Raises
    ------
    ConfigError
        With every problem.
    """
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(
            f"{prefix}: {show(space)}; expected at least one key of search, such as "
            "{seed: {_type: choice, _value: [0]}}"
        )
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
        problems.append(f"{where}: {show(choice)}; expected {{_type: choice, _value: [...]}} with at least one value")
        return []
    found: list[str] = []
    checked = [validate(key, value, "", found) for value in values]
    problems += [f"{where}._value: {problem.removeprefix(f'{key.name}: ')}" for problem in found]
    problems += [
        f"{where}._value: {show(value)} stands there twice; expected different values"
        for index, value in enumerate(checked)
        if not found and value in checked[:index]
    ]
    return checked
