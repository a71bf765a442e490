"""Makes recipe, strategy and trainer from a configuration, for searches and studies alike."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from nni.nas.evaluator.pytorch import Trainer
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from nni_cream import spaces
from nni_cream.errors import ConfigError, SpaceError
from nni_cream.evaluation_mode import evaluating
from nni_cream.files import read_json
from nni_cream.options import options_of, show
from nni_cream.rng import preserved_rng
from nni_cream.search import BoardEvent, LatencySettings, LatencyTable
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.sampling.samplers import SAMPLERS, PathSampler
from nni_cream.search.settings import SearchSettings
from nni_cream.search.teaching.matchers import MATCHERS, Matcher
from nni_cream.strategy import CreamStrategy
from nni_cream.training import Recipe

__all__ = [
    "Images",
    "cost_names",
    "cpu_threads",
    "fit_space",
    "latency_settings",
    "load_latencies",
    "make_strategy",
    "make_trainer",
    "matcher_of",
    "recipe_of",
    "scored_at_once",
    "shared_by_all",
    "trainer_arguments",
    "validation_batch",
]

_NOT_LIGHTNINGS = (
    "threads", "timeout_seconds", "tensorboard", "checkpoint_every_n_steps", "device_batch_size", "compile",
    "channels_last",
)  # fmt: skip


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return the training recipe of a section, ``search`` or ``retrain``."""
    return Recipe(**{field.name: settings[field.name] for field in fields(Recipe)})


class Images(Protocol):
    """What has to be known of a data set to build a network for it."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""


def fit_space(config: Mapping[str, Any], images: Images) -> dict[str, Any]:
    """Fill in the arguments of a configuration's space that the images decide, and check that they fit the space.

    Parameters
    ----------
    config
        Resolved configuration.
    images
        Its data.

    Returns
    -------
    dict
        The configuration; its ``space`` has all that differs from the defaults.

    Raises
    ------
    SpaceError
        If a given argument is not as the data is, or the space does not take the images.
    """
    name, given = config["space"]["name"], config["space"]["arguments"]
    arguments = spaces.fit_arguments(name, given, images.num_classes, images.input_shape)
    if ":" in name:  # nothing is known of a user's class, not even whether it has such arguments
        _try_space(name, arguments, images)
    return {**config, "space": {"name": name, "arguments": arguments}}


def _try_space(name: str, arguments: Mapping[str, Any], images: Images) -> None:
    """Run one image through one network of a space."""
    with preserved_rng():
        network: Any = CreamStrategy().build(
            lambda: spaces.create(name, **arguments), lambda space: RandomPaths(space, 0).draw()
        )
        try:
            with evaluating(network):
                output = network(torch.zeros(1, *images.input_shape))
        except Exception as error:  # whatever the user's module raises
            raise SpaceError(
                f"space {name!r} does not take the images of the data, of shape {images.input_shape}: "
                f"{type(error).__name__}: {error}. Change the space, or channels and size of the images."
            ) from error
    if isinstance(output, torch.Tensor) and output.ndim == 2 and output.shape[1] != images.num_classes:
        raise SpaceError(
            f"space {name!r} gives {output.shape[1]} logits; expected {images.num_classes}, the classes of the data. "
            "Change the space, or the data."
        )


def cost_names(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the costs of the ``search`` section, the primary one first."""
    costs = settings["cost"] if isinstance(settings["cost"], list) else [settings["cost"]]
    return [str(cost.rpartition(":")[2]) for cost in costs]


def make_strategy(
    settings: Mapping[str, Any],
    listeners: Iterable[Callable[[BoardEvent], None]] = (),
    latency: Mapping[str, Any] | None = None,
) -> CreamStrategy:
    """Make the strategy of a resolved ``search`` section.

    Parameters
    ----------
    settings
        The section.
    listeners
        Called with every event of the board.
    latency
        The ``latency`` section, resolved.

    Returns
    -------
    CreamStrategy
        Not yet run.

    Raises
    ------
    ConfigError
        If a function named as ``package.module:function`` cannot be imported.
    """
    known = [option.name for option in options_of(SearchSettings)]
    arguments = {name: settings[name] for name in known if name in settings}
    for name in ("distillation", "score"):
        arguments[name] = _imported(name, arguments[name])
    arguments["matching"] = matcher_of(arguments["matching"])
    arguments["sampling"] = _made("sampling", arguments["sampling"], SAMPLERS, PathSampler)
    costs = settings["cost"] if isinstance(settings["cost"], list) else [settings["cost"]]
    arguments["cost"] = [_cost(cost) for cost in costs]
    if latency is not None and "latency" in costs:
        arguments["latency"] = latency_settings(latency)
    return CreamStrategy(**arguments, listeners=listeners)


def matcher_of(matching: str | Mapping[str, Any]) -> Matcher:
    """Make the matcher of ``search.matching``."""
    matcher: Matcher = _made("matching", matching, MATCHERS, Matcher)
    return matcher


def _imported(key: str, value: str) -> Any:
    """Import the function or class of ``package.module:name``; return any other name unchanged."""
    if ":" not in value:
        return value
    try:
        found = pkgutil.resolve_name(value)
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(
            f"search.{key} is {value!r}; expected package.module:name of something of yours. It cannot be imported "
            f"({type(error).__name__}: {error})."
        ) from error
    if not callable(found):
        raise ConfigError(f"search.{key} is {value!r}, which is {show(found)}; expected a function or a class.")
    return found


def _cost(value: str) -> Any:
    """Return a cost as a metric's name, a user's function, or an object of a user's class."""
    found = _imported("cost", value)
    return found() if isinstance(found, type) else found


def _made(key: str, value: str | Mapping[str, Any], known: Mapping[str, Callable[..., Any]], kind: type) -> Any:
    """Make the object of a name, or of a user's class, with its arguments."""
    name, arguments = (value, {}) if isinstance(value, str) else (value["name"], value.get("arguments", {}))
    make = known[name] if name in known else _imported(key, name)
    if not (isinstance(make, type) and issubclass(make, kind)):
        raise ConfigError(f"search.{key} is {name!r}; expected a subclass of {kind.__name__}.")
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        names = ", ".join(inspect.signature(make).parameters) or "none"
        raise ConfigError(
            f"search.{key} is {name!r} with {dict(arguments)}; expected arguments among: {names} ({error})."
        ) from error
    return make(**arguments)


def make_trainer(
    settings: Mapping[str, Any], epochs: int, root: Path, callbacks: list[pl.Callback], **more: Any
) -> pl.Trainer:
    """Make Lightning's trainer of a search or a retraining.

    Parameters
    ----------
    settings
        The ``trainer`` section.
    epochs
        Passes over the training images.
    root
        Folder for the files of Lightning.
    callbacks
        What else is to happen.
    **more
        Further arguments of the trainer, which win; ``strategy`` where each step moves all weights.

    Returns
    -------
    pytorch_lightning.Trainer
        One that NNI can record.

    Raises
    ------
    ConfigError
        If Lightning does not accept the settings.
    """
    try:
        trainer: pl.Trainer = Trainer(
            **{**trainer_arguments(settings), "strategy": _path_strategy(settings), **more},
            max_epochs=epochs,
            callbacks=callbacks,
            default_root_dir=str(root),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"trainer is {dict(settings)}; expected settings that Lightning accepts: {error}") from error
    return trainer


def _path_strategy(settings: Mapping[str, Any]) -> str:
    # A step trains one path, and leaves the weights of all others without a gradient. Each process keeps its own
    # statistics of BatchNorm: scores do not use them, and sending them before each step would take its time.
    return _distributed(settings, find_unused_parameters=True, broadcast_buffers=False)


def shared_by_all(settings: Mapping[str, Any]) -> str:
    """Return the name of the strategy where each step moves all weights, as in a retraining."""
    unused = settings["strategy"] == "ddp_find_unused_parameters_true"
    return _distributed(settings, find_unused_parameters=unused)


def _distributed(settings: Mapping[str, Any], **arguments: Any) -> str:
    """Register a DDP strategy with these arguments, since NNI can record a name, and return it."""
    devices, strategy = settings["devices"], str(settings["strategy"])
    if devices == "auto":  # Lightning takes all GPUs, and one process on a CPU
        several = settings["accelerator"] != "cpu" and torch.cuda.device_count() > 1
    else:
        several = len(devices) > 1 if isinstance(devices, list) else devices != 1
    if strategy == "auto" and not several:
        return strategy
    timeout = settings["timeout_seconds"]
    name = "_".join(["nni_cream_ddp", *(key for key, value in arguments.items() if value), f"{timeout:g}s"])
    if name not in StrategyRegistry:
        StrategyRegistry.register(name, DDPStrategy, timeout=timedelta(seconds=timeout), **arguments)
    return name


def trainer_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the ``trainer`` section that Lightning's Trainer takes."""
    return {key: value for key, value in settings.items() if key not in _NOT_LIGHTNINGS}


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Compute with this many threads inside; ``None`` leaves the number to torch."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number or before)
        yield
    finally:
        torch.set_num_threads(before)


def validation_batch(images: int, settings: Mapping[str, Any]) -> int:
    """Return a batch size that leaves no single image, for BatchNorm's sake."""
    smallest = scored_at_once(settings)
    return next((size for size in range(smallest, smallest + images) if images % size != 1), smallest)


def load_latencies(path: str | Path) -> LatencyTable:
    """Read the JSON file of a latency table; raise ``FileError`` if it is missing or no table."""
    content = read_json(Path(path), "a latency table", "`nni-cream latency CONFIG.yml --out FILE` makes one.")
    return LatencyTable.from_json(content, path)


def latency_settings(section: Mapping[str, Any]) -> LatencySettings:
    """Make the strategy's settings of the resolved ``latency`` section, with its table read."""
    table = None if section["table"] is None else load_latencies(section["table"])
    return LatencySettings(**{**section, "table": table})


def scored_at_once(settings: Mapping[str, Any]) -> int:
    """Return how many images a network takes at once without gradients, given the ``search`` section."""
    return int(min(256, 2 * settings["batch_size"]))
