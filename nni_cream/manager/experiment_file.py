"""An experiment file in NNI's format: read it, check it, try it out, before anything is started."""

from __future__ import annotations

import dataclasses
import difflib
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni.experiment.config import ExperimentConfig
from nni.experiment.config.utils import unset_base_path

from nni_cream import config as configuration
from nni_cream.errors import ConfigError
from nni_cream.manager.assessor import RetrainAssessorArgsValidator
from nni_cream.manager.plan import ExperimentPlan, combinations
from nni_cream.manager.processes import TrialCheck
from nni_cream.manager.tuner_arguments import resolve_experiment
from nni_cream.options import unexpected

__all__ = ["ASSESSOR", "TUNER", "expected_trials", "load_experiment", "platform", "try_out"]

TUNER = "nni_cream.manager.tuner.CreamTuner"
ASSESSOR = "nni_cream.manager.assessor.RetrainAssessor"
# Files that were copied from version 0.1 name the addresses of then; nni_cream/experiment/ keeps them alive.
_TUNERS = (TUNER, "nni_cream.experiment.tuner.CreamTuner")
_ASSESSORS = (ASSESSOR, "nni_cream.experiment.assessor.RetrainAssessor")


def load_experiment(path: str | Path) -> ExperimentConfig:
    """Read and check an experiment file.

    Parameters
    ----------
    path
        YAML file in NNI's format whose tuner is CreamTuner.

    Returns
    -------
    ExperimentConfig
        NNI's own configuration object.

    Raises
    ------
    ConfigError
        If the file is missing, not YAML, not accepted by NNI, or the arguments of the tuner are not right; all that is
        wrong with the latter is listed.
    """
    content = configuration.read_yaml(path)
    problems = [*_unknown_keys(content), *_wrong_kinds(content)]
    if problems:
        raise ConfigError(f"{path}: {configuration.describe_problems(problems)}")
    try:
        config = ExperimentConfig.load(path)
        canonical = config.canonical_copy()
    except (AttributeError, AssertionError, TypeError, ValueError, RuntimeError) as error:
        # NNI checks some of it with bare assertions, whose line says what was expected.
        reason = str(error) or str(traceback.extract_tb(error.__traceback__)[-1].line)
        raise ConfigError(f"{path}: is an experiment that NNI does not accept: {reason}") from error
    finally:
        unset_base_path()  # NNI itself forgets to where it fails, and then reads no other file in this process
    problems = [*_algorithm_problems(canonical), *_assessor_problems(canonical.assessor), *_sent_keys(canonical)]
    if problems:
        raise ConfigError(f"{path}: " + "\n".join(problems))
    return config


def _unknown_keys(content: Mapping[str, Any]) -> list[str]:
    # NNI itself ignores case and underscores in keys.
    known = {field.name.replace("_", ""): _camel_case(field.name) for field in dataclasses.fields(ExperimentConfig)}
    problems = []
    for key in content:
        plain = str(key).replace("_", "").lower()
        if plain not in known:
            near = difflib.get_close_matches(plain, known, n=1)
            expected = known[near[0]] if near else "one that NNI knows"
            problems.append(f"{key} is no key of this file; expected {expected}.")
    return problems


def _wrong_kinds(content: Mapping[str, Any]) -> list[str]:
    """Find what NNI would stumble over without saying where."""
    kinds = {
        "tuner": (dict, f"a mapping, such as {{className: {TUNER}, codeDirectory: ., classArgs: ...}}"),
        "trainingservice": ((dict, list), "a mapping, such as {platform: local}"),
        "trialcommand": (str, "a command, such as python3 -m nni_cream.manager.trial"),
    }
    problems = []
    for key, value in content.items():
        kind, expected = kinds.get(str(key).replace("_", "").lower(), (object, ""))
        if not isinstance(value, kind) or value == "":  # type: ignore[arg-type]  # a type or a tuple of types
            problems.append(unexpected(key, value, expected))
    return problems


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _algorithm_problems(config: ExperimentConfig) -> list[str]:
    tuner: Any = config.tuner
    if tuner.class_name not in _TUNERS:
        return [unexpected("tuner.className", tuner.class_name or tuner.name, TUNER)]
    return _problems(resolve_experiment, tuner.class_args or {}, config.search_space)


def _assessor_problems(assessor: Any) -> list[str]:
    if assessor is None:
        return []
    if assessor.class_name not in _ASSESSORS:
        key, value = ("name", assessor.name) if assessor.name else ("className", assessor.class_name)
        instead = f"className: {ASSESSOR}, codeDirectory: ., classArgs: {{name: {assessor.name or 'Medianstop'}}}"
        return [
            f"assessor.{key} is {value!r}; expected {{{instead}}}. Other assessors compare search with retrain trials, "
            "and may stop a search."
        ]
    return _problems(RetrainAssessorArgsValidator().validate_class_args, **assessor.class_args or {})


def _sent_keys(config: ExperimentConfig) -> list[str]:
    """Find private keys that NNI would copy to every machine, with the code of the trials."""
    service: Any = config.training_service
    problems = []
    for part in service if isinstance(service, list) else [service]:
        code = Path(part.trial_code_directory).resolve()
        for index, machine in enumerate(getattr(part, "machine_list", ())):
            key = machine.ssh_key_file
            if key is not None and Path(key).resolve().is_relative_to(code):
                problems.append(
                    f"trainingService.machineList[{index}].sshKeyFile is {str(key)!r}; expected a file outside "
                    f"trialCodeDirectory ({code}), which NNI copies to every machine. Move the key, or name another "
                    "trialCodeDirectory."
                )
    return problems


def _problems(check: Any, *arguments: Any, **named: Any) -> list[str]:
    try:
        check(*arguments, **named)
    except ConfigError as error:
        return [str(error)]
    return []


def platform(config: ExperimentConfig) -> str:
    """Return the name of the training service, ``hybrid`` if there are several."""
    service: Any = config.training_service
    return "hybrid" if isinstance(service, list) else str(service.platform)


def expected_trials(config: ExperimentConfig) -> int:
    """Return how many trials the experiment will have if each board is large enough and none fails."""
    resolved, varied = _resolve(config)
    return len(combinations(varied)) + int(resolved["retrain"]["top"])


def _resolve(config: ExperimentConfig) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    canonical = config.canonical_copy()
    return resolve_experiment(canonical.tuner.class_args, canonical.search_space)


def try_out(config: ExperimentConfig, check: TrialCheck) -> None:
    """Build space, strategy and data as a trial on this machine would, so that a mistake shows before anything starts.

    It is done in a process of its own, in the folder and with the import path of a trial. On other training services it
    is left out: there the user's modules and data need only be where the trials run. Raises what
    :meth:`~nni_cream.manager.processes.TrialCheck.run` raises.

    Parameters
    ----------
    config
        The experiment.
    check
        That process; it has ended when this function returns.
    """
    if platform(config) != "local":
        check.cancel()
        return
    plan = ExperimentPlan(*_resolve(config))
    searches = [trial.parameters["config"] for trial in plan.searches]
    check.run(config.canonical_copy().trial_code_directory, searches)
