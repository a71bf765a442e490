"""Early stopping of retrain trials, by the rule of one of NNI's assessors.

NNI hands its assessor the intermediate results of *every* trial. A search trial's ``default`` is the board's best
one-shot accuracy, a retrain trial's the validation accuracy of one network: an assessor that compares the two stops
trials by mistake, and a stopped search takes the whole experiment with it.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nni import ClassArgsValidator
from nni.assessor import Assessor, AssessResult
from nni.tools.package_utils import AlgoMeta, create_builtin_class_instance, get_all_algo_meta
from nni.tools.package_utils.tuner_factory import create_validator_instance
from schema import SchemaError

from nni_cream.config import describe_problems
from nni_cream.errors import ConfigError

__all__ = ["RetrainAssessor", "RetrainAssessorArgsValidator"]

_logger = logging.getLogger(__name__)

_PREFIX = "assessor.classArgs."


class RetrainAssessorArgsValidator(ClassArgsValidator):
    """NNI's check of ``assessor.classArgs``: the name, and what NNI's own validator of that assessor says."""

    def validate_class_args(self, **kwargs: Any) -> None:
        """Check the arguments of :class:`RetrainAssessor`.

        Parameters
        ----------
        **kwargs
            What the user wrote.

        Raises
        ------
        ConfigError
            With every problem, each with its key.
        """
        problems = list(_problems(kwargs))
        if problems:
            raise ConfigError(describe_problems(problems))


class RetrainAssessor(Assessor):
    """Lets one of NNI's assessors stop retrain trials, and keeps all other trials away from it.

    Every trial says in its intermediate results what its role is. Search trials, and trials that do not say, always get
    the answer ``Good``, and the assessor learns nothing of them.

    Parameters
    ----------
    name
        The assessor, by its name in NNI: ``Medianstop``, ``Curvefitting``, or one that was registered with ``nnictl
        algo register``.
    **class_args
        Its own arguments, such as ``start_step``.

    Raises
    ------
    ConfigError
        With every problem of the arguments.
    """

    def __init__(self, name: str, **class_args: Any) -> None:
        RetrainAssessorArgsValidator().validate_class_args(name=name, **class_args)
        self._assessor: Assessor = create_builtin_class_instance(name, class_args, "assessors")
        self._retrain_trials: set[str] = set()

    def assess_trial(self, trial_job_id: str, trial_history: list[Any]) -> AssessResult:
        """Ask the assessor about a retrain trial.

        Parameters
        ----------
        trial_job_id
            NNI's id of the trial.
        trial_history
            Its intermediate results so far, at least one.

        Returns
        -------
        AssessResult
            ``Bad`` if the assessor wants this retrain trial to stop, ``Good`` in every other case.
        """
        latest = trial_history[-1]
        if not isinstance(latest, Mapping) or latest.get("role") != "retrain":
            return AssessResult.Good
        self._retrain_trials.add(trial_job_id)
        # Curvefitting returns None where its fit fails, at which NNI's dispatcher would end the whole experiment.
        verdict = self._assessor.assess_trial(trial_job_id, trial_history)
        if verdict is AssessResult.Bad or verdict is False:
            _logger.info("retrain trial %s is stopped after %d epochs", trial_job_id, len(trial_history))
            return AssessResult.Bad
        return AssessResult.Good

    def trial_end(self, trial_job_id: str, success: bool) -> None:
        """Tell the assessor of a retrain trial's end.

        Parameters
        ----------
        trial_job_id
            NNI's id of the trial.
        success
            Whether it went through to its end.
        """
        if trial_job_id in self._retrain_trials:
            self._retrain_trials.remove(trial_job_id)
            self._assessor.trial_end(trial_job_id, success)


def _problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    assessors: list[AlgoMeta] = [meta for meta in get_all_algo_meta() if meta.algo_type == "assessor"]
    known = {meta.name.lower(): meta for meta in assessors}
    name = arguments.get("name")
    if not isinstance(name, str) or name.lower() not in known:
        found = f"is {name!r}" if "name" in arguments else "is missing"
        yield f"{_PREFIX}name {found}; expected one of {', '.join(meta.name for meta in assessors)}."
        return
    try:
        parameters = _parameters(known[name.lower()].class_name)
    except (ImportError, AttributeError) as error:
        yield f"{_PREFIX}name is {name!r}; expected an assessor that can be imported: {error}"
        return
    own = {key: value for key, value in arguments.items() if key != "name"}
    yield from _unknown_keys(name, own, parameters)
    if own.get("optimize_mode") == "minimize":
        yield f"{_PREFIX}optimize_mode is 'minimize'; expected 'maximize', since retrain trials report an accuracy."
    yield from _problems_of_values(name, own, parameters)


def _parameters(class_name: str) -> Mapping[str, inspect.Parameter]:
    module, _, name = class_name.rpartition(".")
    return inspect.signature(pkgutil.resolve_name(f"{module}:{name}")).parameters


def _unknown_keys(name: str, arguments: dict[str, Any], parameters: Mapping[str, inspect.Parameter]) -> Iterator[str]:
    """Say which arguments the assessor does not have, and leave them out."""
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in list(arguments):
        if key not in parameters and not takes_any:
            del arguments[key]
            near = difflib.get_close_matches(key, parameters, n=1)
            expected = near[0] if near else f"one of {', '.join(parameters) or 'none'}"
            yield f"{_PREFIX}{key} is no argument of {name}; expected {expected}."


def _problems_of_values(
    name: str, arguments: dict[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> Iterator[str]:
    """Say what NNI's validator has against the values. It stops at the first one, so it is asked again without that."""
    validator = create_validator_instance("assessors", name)
    wrong: set[str] = set()
    while (objection := _objection(validator, arguments)) is not None and objection[0] not in wrong:
        key, message = objection
        wrong.add(key)
        if key in arguments:
            message = f"{key} is {arguments.pop(key)!r}; expected another value (NNI: {message.rstrip('!')})."
        yield f"{_PREFIX}{message}"
    for key, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if needed and key not in arguments and key not in wrong:
            yield f"{_PREFIX}{key} is missing; expected an argument of {name}."


def _objection(validator: ClassArgsValidator | None, arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return key and text of what a validator finds first; ``None`` if it finds nothing."""
    if validator is None:
        return None
    try:
        validator.validate_class_args(**arguments)
    except SchemaError as error:
        message = str(error.code).splitlines()[-1]
        named = re.search(r"[Kk]ey:? '(\w+)'", "\n".join(map(str, error.autos)))
        key = named.group(1) if named else ""
        return key, message if key in arguments else f"{key} is missing; expected a value." if key else message
    return None
