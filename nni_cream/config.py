"""What a user may write in a search configuration: one table of keys that checks, documents and gives the defaults.

The same keys stand in the YAML file of ``nni-cream search`` and in ``tuner.classArgs`` of an NNI experiment. Neither
torch nor NNI is imported here, so that a mistake is reported within a moment.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from schema import And, Or, Schema, SchemaError, Use

from nni_cream.errors import ConfigError

__all__ = [
    "KEYS",
    "Key",
    "describe_problems",
    "dump",
    "load",
    "read_yaml",
    "reference",
    "resolve",
    "resolve_search_space",
]

_SECTIONS = {
    "search": "the search: training of the supernet, and the arguments of CreamStrategy",
    "trainer": "handed to Lightning's Trainer, for the search and for retraining",
    "retrain": "training of the board's best entries from new weights (NNI experiments only)",
}
_NAMED = {
    "space": "Search space: a name, or a mapping with `name` and the arguments of that space. Your own class: "
    "`package.module:Class`.",
    "data": "Images: a name, or a mapping with `name` and the arguments of that loader.",
}
_NAMED_EXPECTED = "a name, or a mapping with 'name' and the arguments, such as {name: digits, seed: 0}"
_IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


@dataclass(frozen=True)
class Rule:
    """What a value has to be: a check of the ``schema`` package, and the same in words."""

    check: Schema
    expected: str

    def __or__(self, other: Rule) -> Rule:
        """Accept what either accepts."""
        return Rule(Schema(Or(self.check, other.check)), f"{self.expected}, or {other.expected}")


@dataclass(frozen=True)
class Key:
    """One key of a section.

    Parameters
    ----------
    name
        Dotted, such as ``search.epochs``.
    default
        Value where the user gives none.
    rule
        What a value has to be.
    description
        One sentence for the configuration reference.
    """

    name: str
    default: Any
    rule: Rule
    description: str


def _as_number(value: Any) -> float:
    # YAML 1.1 reads 1e-4, without a dot, as a text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _whole(low: int) -> Rule:
    check: Any = And(int, lambda value: not isinstance(value, bool) and value >= low)
    return Rule(Schema(check), f"a whole number of at least {low}")


def _number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    def inside(value: float) -> bool:
        return (value > low if above else value >= low) and (value < high if below else value <= high)

    words = f"a number {'above' if above else 'of at least'} {low:g}"
    if math.isfinite(high):
        words += f" and {'below' if below else 'at most'} {high:g}"
    return Rule(Schema(And(Use(_as_number), inside)), words)


def _one_of(*values: Any) -> Rule:
    check: Any = And(lambda value: any(value == known and type(value) is type(known) for known in values))
    return Rule(Schema(check), f"one of {', '.join(map(str, values))}")


def _is_range(value: Any) -> bool:
    if not (isinstance(value, list | tuple) and len(value) == 2):
        return False
    low, high = (bound if bound is None else _as_number(bound) for bound in value)
    return low is None or high is None or low <= high


_NOTHING = Rule(Schema(None), "null")
_FLAG = Rule(Schema(bool), "true or false")
_IMPORTABLE = Rule(Schema(And(str, _IMPORT_PATH.match)), "your own function as package.module:function")
_RANGE = Rule(
    Schema(And(_is_range, Use(lambda pair: [bound if bound is None else _as_number(bound) for bound in pair]))),
    "[low, high] with low <= high, null for no bound",
)
_FRACTION = Rule(
    Schema(And(float, lambda value: 0 <= value < 1)), "a fraction of the training, at least 0.0 and below 1.0"
)
_DEVICES = Rule(Schema(And([int], len)), "a list of device indices")
_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true")


def _training_keys(section: str) -> tuple[Key, ...]:
    """Return the settings of one training, of the supernet or an architecture; the defaults are those of ``Recipe``."""
    keys = (
        ("epochs", 30, _whole(1), "Passes over the training images."),
        ("batch_size", 64, _whole(2), "Images a training step."),
        ("learning_rate", 0.1, _number(0, above=True), "Highest learning rate of SGD; it follows a cosine."),
        ("momentum", 0.9, _number(0, 1, below=True), "Momentum of SGD."),
        ("nesterov", True, _FLAG, "Whether the momentum is Nesterov's."),
        ("weight_decay", 5e-4, _number(0), "Decay of convolution and linear weights."),
        ("warmup_fraction", 0.1, _number(0, 1, below=True), "Share of all steps in which the learning rate rises."),
        ("label_smoothing", 0.0, _number(0, 1, below=True), "Share of the target spread over all classes."),
        ("augment", "none", _one_of("none", "shift", "shift+flip"), "Random changes of the training images."),
    )
    return tuple(Key(f"{section}.{name}", *rest) for name, *rest in keys)  # type: ignore[arg-type]


KEYS: tuple[Key, ...] = (
    *_training_keys("search"),
    Key("search.seed", 0, _whole(0), "Decides weights, order of the images, paths and teachers."),
    Key("search.board_size", 10, _whole(1), "K, the entries of the prioritized path board."),
    Key("search.matching", "meta", _one_of("meta", "random", "best", "none"),
        "Who picks the teacher from the board: the meta network, chance, its rank, or nobody (plain SPOS)."),
    Key("search.cost", "macs", _one_of("macs", "params") | _IMPORTABLE,
        "What a path costs: multiply-adds of one image, parameters, or your `function(network, inputs)`."),
    Key("search.cost_range", None, _RANGE | _NOTHING, "Only paths within these costs are sampled."),
    Key("search.margin", 0.05, _number(0, 1),
        "Gap in accuracy from which on a candidate may be dearer than the weakest entry."),
    Key("search.warmup", 1 / 6, _whole(0) | _FRACTION, "Training before the board starts: epochs, or a share of all."),
    Key("search.score_images", 2048, _whole(1), "Validation images (the same for all) that score a candidate."),
    Key("search.score_interval", 10, _whole(1), "Training steps between two candidates once the board is full."),
    Key("search.score_batch_size", 256, _whole(2), "Images at once while scoring."),
    Key("search.rescore_interval", 1, _whole(1), "Epochs between two rescorings of the whole board."),
    Key("search.probe_images", 4, _whole(1), "Images on which the meta network compares two paths."),
    Key("search.meta_interval", 200, _whole(1), "Training steps between two updates of the meta network."),
    Key("search.meta_learning_rate", 1e-4, _number(0, above=True), "Learning rate of the meta network."),
    Key("search.distillation", "soft_cross_entropy", _one_of("soft_cross_entropy", "mean_squared_error") | _IMPORTABLE,
        "Loss between the student's and the teacher's output."),
    Key("search.score", "top1", _one_of("top1", "negative_squared_error") | _IMPORTABLE,
        "What a candidate is scored by; higher is better."),
    Key("trainer.accelerator", "auto", _one_of("auto", "cpu", "gpu", "mps", "tpu"), "Hardware to train on."),
    Key("trainer.devices", 1, _whole(1) | _DEVICES | _one_of("auto"), "How many devices, or which."),
    Key("trainer.strategy", "auto", _one_of("auto", "ddp", "ddp_find_unused_parameters_true"),
        "How several devices share the work."),
    Key("trainer.precision", "32-true", _one_of(*_PRECISIONS), "Floating point format of the training."),
    Key("trainer.gradient_clip_val", None, _number(0, above=True) | _NOTHING, "Largest gradient norm (or value)."),
    Key("trainer.gradient_clip_algorithm", "norm", _one_of("norm", "value"), "What is clipped."),
    Key("trainer.accumulate_grad_batches", 1, _whole(1), "Batches whose gradients make one step."),
    Key("trainer.threads", None, _whole(1) | _NOTHING,
        "CPU threads of the process, null for one a core; 1 suits small networks and several trials at once."),
    Key("trainer.tensorboard", False, _FLAG,
        "Whether the figures of each epoch are also written for TensorBoard (needs the extra `tensorboard`)."),
    Key("retrain.top", 3, _whole(0), "How many entries, over all boards, are trained from new weights."),
    Key("retrain.seed", 0, _whole(0), "Decides weights and order of the images."),
    *_training_keys("retrain"),
)  # fmt: skip


def load(path: str | Path) -> dict[str, Any]:
    """Read and check the YAML file of a search.

    Parameters
    ----------
    path
        File that the user wrote.

    Returns
    -------
    dict
        The configuration with every key present; see :func:`resolve`.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or breaks a rule; all broken rules are listed.
    """
    content = read_yaml(path)
    try:
        return resolve(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that has to hold a mapping.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    ConfigError
        If the file is missing, cannot be read, is not YAML or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter two: an impossible date, endless nesting
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {_show(content)}; expected a mapping, such as 'space: digits'")
    return content


def resolve(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Check a configuration and fill in the defaults.

    Parameters
    ----------
    content
        What the user wrote: ``space``, ``data`` and the sections.
    prefix
        Put before each key in messages, such as ``tuner.classArgs.``.

    Returns
    -------
    dict
        ``space`` and ``data`` as ``{name, arguments}``, and ``search``, ``trainer`` and ``retrain`` with all their
        keys; plain JSON values, so that it can travel as the parameters of a trial.

    Raises
    ------
    ConfigError
        With every problem: its key, the value, what was expected, and the nearest key for an unknown one.
    """
    problems: list[str] = []
    known = [*_NAMED, *_SECTIONS]
    problems += [_unknown(key, known, prefix) for key in content if key not in known]
    resolved: dict[str, Any] = {name: _resolve_named(name, content, prefix, problems) for name in _NAMED}
    for section in _SECTIONS:
        resolved[section] = _resolve_section(section, content.get(section), prefix, problems)
    if not problems:
        problems += _contradictions(resolved["search"], prefix)
    if problems:
        raise ConfigError(describe_problems(problems))
    return resolved


def describe_problems(problems: list[str]) -> str:
    """Put all problems into one message."""
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems:", *problems])


def _contradictions(search: Mapping[str, Any], prefix: str) -> Iterator[str]:
    warmup, epochs = search["warmup"], search["epochs"]
    if isinstance(warmup, int) and warmup >= epochs:
        yield (
            f"{prefix}search.warmup: {warmup} epochs; expected fewer than search.epochs ({epochs}), since the board "
            "would stay empty"
        )


def _resolve_named(name: str, content: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    value = content.get(name)
    if isinstance(value, str):
        value = {"name": value}
    if name not in content:
        problems.append(f"{prefix}{name}: is missing; expected {_NAMED_EXPECTED}")
    elif not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        problems.append(f"{prefix}{name}: {_show(value)}; expected {_NAMED_EXPECTED}")
    else:
        return {"name": value["name"], "arguments": _arguments(name, value, prefix, problems)}
    return {}


def _arguments(name: str, value: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    arguments = {key: item for key, item in value.items() if key != "name"}
    if list(arguments) == ["arguments"] and isinstance(arguments["arguments"], Mapping):
        arguments = dict(arguments["arguments"])  # the form in which a resolved configuration is written
    for key, item in arguments.items():
        try:
            json.dumps(item, allow_nan=False)
        except (TypeError, ValueError):
            problems.append(f"{prefix}{name}.{key}: {_show(item)}; expected numbers, texts, lists or mappings")
    return copy.deepcopy(arguments)


def _resolve_section(section: str, value: Any, prefix: str, problems: list[str]) -> dict[str, Any]:
    keys = {key.name.removeprefix(f"{section}."): key for key in KEYS if key.name.startswith(f"{section}.")}
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        problems.append(f"{prefix}{section}: {_show(value)}; expected a mapping with keys such as {next(iter(keys))}")
        return {}
    problems += [_unknown(name, list(keys), f"{prefix}{section}.") for name in value if name not in keys]
    resolved = {name: copy.deepcopy(key.default) for name, key in keys.items()}
    for name in keys.keys() & value.keys():
        resolved[name] = _validate(keys[name], value[name], prefix, problems)
    return resolved


def _validate(key: Key, value: Any, prefix: str, problems: list[str]) -> Any:
    try:
        return key.rule.check.validate(value)
    except SchemaError:
        problems.append(f"{prefix}{key.name}: {_show(value)}; expected {key.rule.expected}")
        return None


def _unknown(key: Any, known: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    elsewhere = [item.name for item in KEYS if item.name.endswith(f".{key}")]
    if not near and elsewhere:
        hint = f"did you mean {elsewhere[0]!r}?"
    return f"{prefix}{key}: unknown key; {hint}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
            f"{prefix}: {_show(space)}; expected at least one key of search, such as "
            "{seed: {_type: choice, _value: [0]}}"
        )
    keys = {key.name.removeprefix("search."): key for key in KEYS if key.name.startswith("search.")}
    problems = [_unknown(name, list(keys), f"{prefix}.") for name in space if name not in keys]
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
        problems.append(f"{where}: {_show(choice)}; expected {{_type: choice, _value: [...]}} with at least one value")
        return []
    found: list[str] = []
    checked = [_validate(key, value, "", found) for value in values]
    problems += [f"{where}._value: {problem.removeprefix(f'{key.name}: ')}" for problem in found]
    problems += [
        f"{where}._value: {_show(value)} stands there twice; expected different values"
        for index, value in enumerate(checked)
        if not found and value in checked[:index]
    ]
    return checked


def dump(config: Mapping[str, Any]) -> str:
    """Return a resolved configuration as YAML that :func:`load` reads again."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def reference() -> str:
    """Return the configuration reference: one Markdown table for each section, made from :data:`KEYS`."""
    return "\n".join(_reference_lines())


def _reference_lines() -> Iterator[str]:
    yield from ("## Top level", "", "| Key | Expected | What it is |", "| --- | --- | --- |")
    for name, description in _NAMED.items():
        yield f"| `{name}` | {_NAMED_EXPECTED} | {description} |"
    for section, title in _SECTIONS.items():
        yield f"| `{section}` | a mapping (may be left out) | See [below](#section-{section}): {title}. |"
    for section, title in _SECTIONS.items():
        yield from ("", f"(section-{section})=", f"## `{section}`", "", f"{title[0].upper()}{title[1:]}.", "")
        yield from ("| Key | Default | Expected | What it is |", "| --- | --- | --- | --- |")
        for key in KEYS:
            if key.name.startswith(f"{section}."):
                yield f"| `{key.name}` | `{_default(key.default)}` | {key.rule.expected} | {key.description} |"
    yield ""


def _default(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
