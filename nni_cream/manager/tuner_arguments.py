"""Arguments of the tuner and search space of an experiment file, checked together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nni import ClassArgsValidator

from nni_cream import config
from nni_cream.errors import ConfigError
from nni_cream.manager.plan import combinations

__all__ = ["CLASS_ARGS", "CreamTunerArgsValidator", "resolve_experiment"]

CLASS_ARGS = "tuner.classArgs."


class CreamTunerArgsValidator(ClassArgsValidator):
    """NNI's check of ``tuner.classArgs``, against the table of :mod:`nni_cream.config`."""

    def validate_class_args(self, **kwargs: Any) -> None:
        """Check the arguments of :class:`~nni_cream.manager.tuner.CreamTuner`.

        Parameters
        ----------
        **kwargs
            What the user wrote.

        Raises
        ------
        ConfigError
            With every problem.
        """
        devices = config.resolve(kwargs, CLASS_ARGS)["trainer"]["devices"]
        if devices != 1 and not (isinstance(devices, list) and len(devices) == 1):
            raise ConfigError(
                f"{CLASS_ARGS}trainer.devices is {devices!r}; expected 1, since a trial trains on one device. Run "
                "several trials at once (trialConcurrency, trialGpuNumber), or train on several devices with "
                "`nni-cream search`."
            )


def resolve_experiment(class_args: Mapping[str, Any], search_space: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Check the tuner's arguments and the search space, each and against one another.

    Parameters
    ----------
    class_args
        ``tuner.classArgs``.
    search_space
        ``searchSpace``, in NNI's format.

    Returns
    -------
    tuple
        The resolved configuration, and the varied keys of ``search`` with their values.

    Raises
    ------
    ConfigError
        With every problem.
    """
    problems: list[str] = []
    resolved: dict[str, Any] = {}
    varied: dict[str, list[Any]] = {}
    try:
        CreamTunerArgsValidator().validate_class_args(**class_args)
        resolved = config.resolve(class_args, CLASS_ARGS)
    except ConfigError as error:
        problems.append(str(error))
    try:
        varied = config.resolve_search_space(search_space)
    except ConfigError as error:
        problems.append(str(error))
    if not problems:
        problems += _contradictions(class_args, resolved, varied)
    if problems:
        raise ConfigError("\n".join(problems))
    return resolved, varied


def _contradictions(
    class_args: Mapping[str, Any], resolved: Mapping[str, Any], varied: Mapping[str, list[Any]]
) -> Iterator[str]:
    for key in varied:
        if key in (class_args.get("search") or {}):
            yield f"searchSpace.{key} is set in {CLASS_ARGS}search.{key}, too; expected it in one of the two."
    searches = [{**resolved["search"], **combination} for combination in combinations(varied)]
    for search in searches:
        try:
            config.resolve({**resolved, "search": search}, f"searchSpace with {CLASS_ARGS}")
        except ConfigError as error:
            yield str(error)
    places, top = sum(search["board_size"] for search in searches), resolved["retrain"]["top"]
    if top > places:
        yield f"{CLASS_ARGS}retrain.top is {top}; expected at most {places}, the entries of all boards together."
