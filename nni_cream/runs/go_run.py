"""The whole way in this process: search, retrain the best entries, measure the chosen one, export it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from nni_cream.config import RETRAIN, dump
from nni_cream.errors import ConfigError
from nni_cream.export import check_formats
from nni_cream.export.export_folder import MANIFEST
from nni_cream.files import read_json, replacing, write_json
from nni_cream.report import write_report
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.console_tables import describe_path
from nni_cream.results.folder_lock import held
from nni_cream.results.output_folder import OutputFolder, State, WholeFolder
from nni_cream.results.retrained_file import best_of_entry, load_retrained, retrained_rank
from nni_cream.runs.evaluation import evaluate_result
from nni_cream.runs.export_run import Wish, export_result
from nni_cream.runs.rehearsals.rehearsal import devices_here
from nni_cream.runs.retrain_run import run_retraining
from nni_cream.runs.search_run import run_search
from nni_cream.training.timm_parts import check_timm
from nni_cream.versions import package_version

__all__ = ["GoResult", "check_go", "run_go"]

_STAGES = 4
_BALANCED = ("validation_balanced_accuracy", "test_balanced_accuracy")
_FIGURES = ("validation_accuracy", "test_accuracy", *_BALANCED, "epochs")


@dataclass(frozen=True)
class GoResult:
    """Result of the whole way.

    Parameters
    ----------
    best
        The chosen architecture, with its figures after retraining.
    retrained
        All retrained entries, the chosen one first.
    evaluation
        The chosen network on the test images; see :func:`~nni_cream.runs.evaluation.evaluate_result`.
    seconds
        Wall time of this process; after a resume, that of the part since then.
    out
        The output folder.
    """

    best: Best
    retrained: list[dict[str, Any]]
    evaluation: dict[str, Any]
    seconds: float
    out: Path


def check_go(config: Mapping[str, Any], formats: Sequence[str]) -> dict[str, Any]:
    """Check what only shows at the end of the way, before it begins.

    Parameters
    ----------
    config
        Resolved configuration of a search.
    formats
        Of :data:`nni_cream.export.FORMATS`.

    Returns
    -------
    dict
        The resolved configuration of the retrainings.

    Raises
    ------
    CreamError
        If a format or a package is missing here, nothing is to be retrained, or several devices are wanted.
    """
    check_formats(formats)
    check_timm()
    if config["retrain"]["top"] < 1:
        raise ConfigError(
            "retrain.top is 0; expected at least 1, since `nni-cream go` delivers a retrained network. Run `nni-cream "
            "search` for a search alone."
        )
    wanted, _ = devices_here(config["trainer"]["accelerator"], config["trainer"]["devices"])
    if wanted > 1:
        raise ConfigError(
            f"trainer.devices is {config['trainer']['devices']}; expected 1 with `nni-cream go`. Use `nni-cream "
            "search`, `retrain` and `export` one after another to train on several devices."
        )
    return _retrain_config(config)


def _retrain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say the section ``retrain`` in the words of a retraining that can be resumed."""
    retrain, trainer = config["retrain"], dict(config["trainer"])
    batches = trainer.pop("accumulate_grad_batches")
    same = ("seed", "epochs", "learning_rate", "momentum", "weight_decay", "warmup_fraction", "label_smoothing")
    recipe = {
        **{key: retrain[key] for key in same},
        "batch_size": retrain["batch_size"] * batches,
        "optimizer": "sgd" if retrain["nesterov"] else "momentum",
        "augment": retrain["augment"],
        "crop_scale": None,  # the data set's own random changes, as in the search
    }
    if batches > 1:
        trainer["device_batch_size"] = retrain["batch_size"]
    return RETRAIN.resolve({"data": config["data"], "recipe": recipe, "trainer": trainer, "loader": config["loader"]})


def run_go(
    config: Mapping[str, Any],
    out: str | Path,
    *,
    formats: Sequence[str] = ("code", "onnx"),
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
    command: str | None = None,
) -> GoResult:
    """Search, retrain the board's best entries, measure the chosen network and export it, all in one folder.

    Each stage keeps its own files, so that a resumed run continues within the stage that was interrupted.

    Parameters
    ----------
    config
        Resolved configuration of a search (:func:`nni_cream.config.load`); its section ``retrain`` says how many
        entries are retrained, and how.
    out
        Output folder.
    formats
        What is exported, of :data:`nni_cream.export.FORMATS`.
    resume
        Continue an unfinished run in the folder, or return the result of a finished one.
    force
        Replace what the folder holds; the result before stays in ``previous/`` until the new one is complete.
    console
        Where to show progress; nowhere without it.
    command
        The command line, for the card of the export.

    Returns
    -------
    GoResult
        The chosen architecture and its figures.

    Raises
    ------
    CreamError
        Of the kind that fits; see the commands of the stages. What the stages before have written stays.
    """
    start = time.perf_counter()
    retraining = check_go(config, formats)
    folder = WholeFolder(out)
    with held(folder):
        state = folder.check(resume=resume, force=force)
        if state is not State.EMPTY and not force:
            folder.check_same_config(config)
        way = _Way(config, retraining, folder, console or Console(quiet=True))
        if state is State.FINISHED and not force:
            way.complete(formats, command)
            return _result(folder, 0.0)
        if state is State.EMPTY or force:
            folder.begin(dump(config), f"nni_cream {package_version('nni_cream')}", force=force)
        with _undone_before_the_first_checkpoint(folder):
            way.go(formats, command)
        return _result(folder, time.perf_counter() - start)


@contextmanager
def _undone_before_the_first_checkpoint(folder: WholeFolder) -> Iterator[None]:
    """Leave the folder as it was if the search fails before it has anything to resume from."""
    try:
        yield
    except BaseException:
        if folder.search.state is State.EMPTY:
            folder.abandon()
        raise


def _result(folder: WholeFolder, seconds: float) -> GoResult:
    evaluation = read_json(folder.evaluation, "an evaluation", "Name the output folder of a finished `nni-cream go`.")
    return GoResult(load_best(folder.best), load_retrained(folder.retrained), evaluation, seconds, folder.path)


def _row(best: Best) -> dict[str, Any]:
    figures = best.retrained or {}
    one_shot = {"choices": best.choices, "one_shot_accuracy": best.accuracy, "cost": best.cost}
    return one_shot | {key: value for key, value in figures.items() if key in _FIGURES}


class _Way:
    """The four stages; each finds what the one before has left."""

    def __init__(
        self, config: Mapping[str, Any], retraining: Mapping[str, Any], folder: WholeFolder, console: Console
    ) -> None:
        self._config = config
        self._retraining = retraining
        self._folder = folder
        self._console = console

    def go(self, formats: Sequence[str], command: str | None) -> None:
        folder = self._folder
        entries = self._search()
        found = [self._retrain(number, entry, len(entries)) for number, entry in enumerate(entries, start=1)]
        # Where each class counts the same in the search, it does so here.
        figure = _BALANCED[0] if self._config["search"]["score"] == "balanced_accuracy" else "validation_accuracy"
        ranked = sorted(found, key=partial(retrained_rank, figure=figure))
        chosen = found.index(ranked[0])
        place = folder.entry(chosen + 1)
        write_json(folder.retrained, [_row(best) for best in ranked])
        self._measure(place)
        self._export(place, formats, command)
        with replacing(folder.weights) as temporary:
            shutil.copyfile(place.weights, temporary)
        found[chosen].save(folder.best)
        write_report(folder.path)
        folder.finish()

    def complete(self, formats: Sequence[str], command: str | None) -> None:
        """Write what a finished run still lacks: other formats, or what a kill after its result has left undone."""
        folder = self._folder
        exported = read_json(folder.export / MANIFEST, "an export", "Start again with --force.")
        every = list(dict.fromkeys([*exported["differences"], *formats]))  # what is there stays
        if len(every) > len(exported["differences"]):
            choices, places = load_best(folder.best).choices, (folder.entry(number) for number in count(1))
            self._export(next(place for place in places if load_best(place.best).choices == choices), every, command)
        if not folder.report.exists():
            write_report(folder.path)
        folder.finish()

    def _export(self, place: OutputFolder, formats: Sequence[str], command: str | None) -> None:
        self._tell(4, f"exports as {', '.join(formats)}")
        # The user's own configuration names the code that the results name.
        wish = Wish(self._folder.export, formats, force=True, command=command, trust_code=True)
        export_result(place.path, wish)

    def _tell(self, stage: int, what: str) -> None:
        self._console.print(f"{stage}/{_STAGES} {what}", highlight=False, markup=False)

    def _search(self) -> list[Best]:
        self._tell(1, f"searches for {self._config['search']['epochs']} epochs")
        result = run_search(self._config, self._folder.search.path, resume=True, console=self._console)
        entries = result.board["entries"][: self._config["retrain"]["top"]]
        return [best_of_entry(result.best, entry) for entry in entries]

    def _retrain(self, number: int, entry: Best, entries: int) -> Best:
        what = f"retrains entry {number} of {entries} for {self._retraining['recipe']['epochs']} epochs"
        self._tell(2, f"{what}: {describe_path(entry.choices)}")
        file = self._folder.entry_file(number)
        file.parent.mkdir(exist_ok=True)
        entry.save(file)
        place = self._folder.entry(number).path
        done = run_retraining(file, self._retraining, place, resume=True, trust_code=True, console=self._console)
        return replace(entry, retrained=done.best.retrained)

    def _measure(self, place: OutputFolder) -> None:
        self._tell(3, "measures the chosen network on the test images")
        figures = evaluate_result(place.path, self._retraining, trust_code=True)
        weights = place.weights.relative_to(self._folder.path)  # the folder may move
        write_json(self._folder.evaluation, figures | {"weights": str(weights)})
