"""Run a study from its file to a folder of results: first the missing trainings, then tables and pictures.

Each study writes ``records.jsonl``, one line for each training. Everything else is made from it. An interrupted study
resumes, and one with complete records only rewrites its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nni_cream.errors import FileError, StudyError
from nni_cream.files import write_json, write_text
from nni_cream.from_config import fit_space
from nni_cream.studies import final_study
from nni_cream.studies.final_study import FinalRow
from nni_cream.studies.jobs import Job, Records, Work, run_jobs, shared_of
from nni_cream.studies.parts import load_parts
from nni_cream.studies.plots import (
    draw_differences,
    draw_final,
    draw_scatter,
    draw_searches,
    draw_truth,
    have_matplotlib,
)
from nni_cream.studies.ranking import rank_study
from nni_cream.studies.ranking.rank_study import Row, Variant
from nni_cream.studies.ranking.whole_searches import check_whole
from nni_cream.studies.report import as_markdown, choice_cells, curve_cells, every_rank_cells, final_cells, search_cells
from nni_cream.studies.truths import truth
from nni_cream.studies.truths.truth import Truth

__all__ = ["Running", "run_final", "run_rank", "run_truth"]

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Running:
    """How to run a study.

    Parameters
    ----------
    out
        Folder of its results.
    workers
        Processes, each with one CPU thread; 0 runs nothing and writes the tables of the existing records.
    console
        Where to show progress; ``None`` shows nothing.
    command
        The user's command line, for the results.
    name
        Stem of the result files. Several studies may share a folder and its records.
    """

    out: Path
    workers: int = 1
    console: Console | None = None
    command: str = ""
    name: str = "study"

    def open(self, shared: Mapping[str, Any]) -> Records:
        """Open the folder's records, those of an earlier run if there are any.

        Raises :class:`~nni_cream.errors.CreamError` if the folder holds other files or another study, or there is
        nothing to report.
        """
        path = self.out / RECORDS
        if not self.workers:
            self._check_there(path)
        try:
            if self.out.exists() and not path.exists() and any(self.out.iterdir()):
                raise FileError(
                    f"{self.out}: holds files but no {RECORDS} of a study. Name a new or empty folder with --out."
                )
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.out}: cannot be used as a folder: {error.strerror or error}") from error
        records = Records(path, shared)
        if self.workers:
            records.begin()
        return records

    def recorded_space(self) -> dict[str, Any]:
        """Return the space of the records, empty if they name none; raise as :meth:`open` where there are none."""
        path = self.out / RECORDS
        self._check_there(path)
        space = shared_of(path).get("space")
        return space if isinstance(space, dict) else {}

    def _check_there(self, path: Path) -> None:
        if not path.exists():
            raise StudyError(
                f"{self.out}: holds no {RECORDS} of a study, so there is nothing to report. Run the study first, "
                "without --report, or name its folder with --out."
            )

    def file(self, ending: str) -> Path:
        """Return the path of one of the study's own files."""
        return self.out / f"{self.name}{ending}"

    def run(self, work: Work, jobs: Sequence[Job], records: Records, title: str) -> None:
        """Run the missing jobs, with a progress bar."""
        missing = records.missing(jobs)  # also where nothing is to be run: other settings by one name are an error
        if not self.workers:
            return
        with self._bar(title, len(jobs), len(jobs) - len(missing)) as done:
            run_jobs(work, jobs, records, self.workers, done)

    @contextmanager
    def _bar(self, title: str, total: int, done: int) -> Iterator[Callable[[Job, dict[str, Any]], None]]:
        if self.console is None:
            yield lambda job, result: None
            return
        console, talks = self.console, self.console.is_terminal
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=console, disable=not talks) as bar:
            task = bar.add_task(title, total=total, completed=done)

            def advance(job: Job, result: dict[str, Any]) -> None:
                bar.update(task, advance=1)
                if not talks:
                    console.print(f"{job.key}: {result['seconds']:.0f} s")

            yield advance

    def made_by(self, records: Records) -> dict[str, Any]:
        """Return how the results were made: command, date and versions."""
        return {"command": self.command, "date": records.last_date, "versions": records.versions}


def _fitted(config: Mapping[str, Any], running: Running) -> dict[str, Any]:
    """Fill in what the images decide of the space; tables alone need no images, since the records hold that space."""
    if running.workers:
        return fit_space(config, load_parts(config["data"], config["study"]["judging_images"]).splits)
    given, recorded = config["space"], running.recorded_space()
    same = given["name"] == recorded.get("name") and all(
        recorded.get("arguments", {}).get(key) == value for key, value in given["arguments"].items()
    )
    return {**config, "space": recorded if same else given}


def run_truth(config: Mapping[str, Any], running: Running) -> Truth:
    """Train architectures alone, and write NAME.json (and NAME.png if matplotlib is installed).

    Raises :class:`~nni_cream.errors.CreamError` if the configuration, space or data is not usable, or a training
    failed. Earlier results are kept.
    """
    config = _fitted(config, running)
    shared, jobs = truth.truth_jobs(config)
    records = running.open(shared)
    try:
        running.run(truth.work, jobs, records, "architectures trained alone")
    finally:
        found = truth.gather_truth(config, jobs, records, running.made_by(records))
        write_json(running.file(".json"), found.to_json())
    if have_matplotlib() and found.known:
        draw_truth(running.file(".png"), found)
    return found


def run_rank(
    config: Mapping[str, Any], known: Truth, running: Running, *, with_equal_time: bool = False
) -> dict[str, list[Row]]:
    """Train supernets, score the truth's architectures, and write NAME.json, NAME.md and pictures.

    Parameters
    ----------
    config
        Resolved file.
    known
        The truth.
    running
        How to run it.
    with_equal_time
        Whether to train the variants again for equal time.

    Returns
    -------
    dict
        Budget to the rows of its table.

    Raises
    ------
    CreamError
        If truth and configuration do not fit, or a training failed. The tables of existing records are written anyway.
    """
    config = _fitted(config, running)
    images = None
    if running.workers or known.trained_here:
        images = load_parts(config["data"], config["study"]["judging_images"])
    known = known.fitted(config["space"], images)
    if config["study"]["evolution"] is not None:
        check_whole(config["space"], known)
    scored = known.part(config["study"]["scored"])
    records = running.open(rank_study.shared_by_all(config, scored))
    report = _RankReport(config, known, scored, running, records)
    variants = rank_study.make_variants(config)
    try:
        running.run(rank_study.work, _seed_by_seed(variants), records, "supernets, equal epochs")
    finally:
        report.add(variants)
    if with_equal_time:
        longer = rank_study.equal_time(config, variants, records)
        try:
            running.run(rank_study.work, _seed_by_seed(longer), records, "supernets, equal time")
        finally:
            report.add(longer)
    return report.tables


def _seed_by_seed(variants: Sequence[Variant]) -> list[Job]:
    """List all variants with the first seed, then with the next, so that a partial study has common seeds."""
    seeds = dict.fromkeys(seed for variant in variants for seed in variant.jobs)
    return [variant.jobs[seed] for seed in seeds for variant in variants]


@dataclass
class _RankReport:
    """The files of a ranking study, with a table for each budget so far."""

    config: Mapping[str, Any]
    known: Truth
    scored: Truth
    running: Running
    records: Records
    tables: dict[str, list[Row]] = field(default_factory=dict)
    choices: dict[str, rank_study.Choices] = field(default_factory=dict)

    def add(self, variants: Sequence[Variant]) -> None:
        """Compare the variants of a budget, and write all files."""
        budget, study = variants[0].budget, (self.config, variants, self.records)
        self.tables[budget] = rows = rank_study.rank_rows(*study, self.scored)
        self.choices[budget] = rank_study.rank_choices(*study, self.known, self.scored)
        write_json(self.running.file(".json"), self._content())
        write_text(self.running.file(".md"), self._document())
        if have_matplotlib() and any(row.measures for row in rows):
            name = budget.replace(" ", "_")
            draw_scatter(self.running.file(f"_scatter_{name}.png"), variants, self.records, self.scored)
            draw_differences(self.running.file(f"_differences_{name}.png"), rows, self.config["study"]["baseline"])
            if self.choices[budget].curves:
                draw_searches(self.running.file(f"_searches_{name}.png"), self.choices[budget])

    def _content(self) -> dict[str, Any]:
        known = self.known
        content = {
            "kind": "rank",
            "complete": known.complete and all(row.complete for own in self.tables.values() for row in own),
            **self.running.made_by(self.records),
            "truth": {"architectures": len(known.known), "complete": known.complete, "data": dict(known.data)},
            "baseline": self.config["study"]["baseline"],
            "tables": {name: [row.to_json() for row in own] for name, own in self.tables.items()},
        }
        choices = {name: [row.to_json() for row in own.rows] for name, own in self.choices.items() if own.rows}
        searches = {name: [row.to_json() for row in own.searches] for name, own in self.choices.items() if own.searches}
        curves = {
            name: {
                among: {search: curve.to_json() for search, curve in curves.items()}
                for among, curves in own.curves.items()
            }
            for name, own in self.choices.items()
            if own.curves
        }
        return {
            **content,
            **({"scored": len(self.scored.known), "choices": choices} if choices else {}),
            **({"whole_searches": searches} if searches else {}),
            **({"regret_over_time": curves} if curves else {}),
        }

    def _document(self) -> str:
        parts = []
        for budget, rows in self.tables.items():
            note = "" if self.known.complete and all(row.complete for row in rows) else " (PARTIAL)"
            parts.append(f"{budget.capitalize()}{note}\n\n")
            parts.append(as_markdown(*every_rank_cells(rows)) + "\n")
            if self.choices[budget].rows:
                parts.append(f"{budget.capitalize()}, choices among {len(self.known.known)} architectures{note}\n\n")
                parts.append(as_markdown(*choice_cells(self.choices[budget].rows)) + "\n")
            if self.choices[budget].searches:
                parts.append(f"{budget.capitalize()}, whole searches at the CPU time of each{note}\n\n")
                parts.append(as_markdown(*search_cells(self.choices[budget].searches)) + "\n")
            for among, curves in self.choices[budget].curves.items():
                parts.append(
                    f"{budget.capitalize()}, CPU time from which the mean regret stays low, among {among}{note}\n\n"
                )
                parts.append(as_markdown(*curve_cells(curves)) + "\n")
        return "".join(parts)


def run_final(config: Mapping[str, Any], running: Running) -> dict[str, list[FinalRow]]:
    """Search with and without a board, train the choices, and write NAME.json, NAME.md and a picture.

    Raises :class:`~nni_cream.errors.CreamError` if the configuration, space or data is not usable, or a training
    failed. The tables of existing records are written anyway.
    """
    config = _fitted(config, running)
    records = running.open(final_study.shared_by_all(config))
    try:
        running.run(final_study.work, [*final_study.search_jobs(config).values()], records, "searches with a board")
        running.run(
            final_study.work, [*final_study.baseline_jobs(config, records).values()], records, "searches without one"
        )
        alone = final_study.retrain_jobs(config, final_study.choices(config, records))
        running.run(final_study.work, [*alone.values()], records, "chosen architectures trained alone")
    finally:
        tables = _report_final(config, running, records)
    return tables


def _report_final(config: Mapping[str, Any], running: Running, records: Records) -> dict[str, list[FinalRow]]:
    chosen = final_study.choices(config, records)
    tables = final_study.final_rows(config, chosen, records)
    rows = [row for own in tables.values() for row in own]
    content = {
        "kind": "final",
        "complete": all(row.complete for row in rows),
        **running.made_by(records),
        "tables": {budget: [row.to_json() for row in own] for budget, own in tables.items()},
        "choices": [asdict(choice) for choice in chosen],
    }
    write_json(running.file(".json"), content)
    write_text(running.file(".md"), _final_document(tables))
    if have_matplotlib() and any(row.means for row in rows):
        draw_final(running.file(".png"), tables)
    return tables


def _final_document(tables: Mapping[str, list[FinalRow]]) -> str:
    return "\n".join(
        f"{budget.capitalize()}{'' if all(row.complete for row in rows) else ' (PARTIAL)'}\n\n"
        f"{as_markdown(*final_cells(rows))}"
        for budget, rows in tables.items()
    )
