"""The pictures of a result as files, drawn by matplotlib; the architecture alone needs nothing but Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nni_cream.argument_checks import is_number
from nni_cream.errors import ExportError, FileError
from nni_cream.files import replacing, write_text
from nni_cream.report.diagram import draw_architecture
from nni_cream.report.own_file import MARK, check_own
from nni_cream.report.result import Result, read_result
from nni_cream.report.search_figures import Gains, SearchFigures, one_shot, search_figures, write_score
from nni_cream.results.console_tables import COST_TITLES
from nni_cream.results.output_folder import PLOTS

__all__ = ["FORMATS", "Pictures", "write_pictures"]

FORMATS = ("svg", "png")
_DPI = 150
_SURE = 2  # standard deviations: a gain below that may be noise
_BEST, _FRONT, _QUIET = "#1d5fc4", "#c2570c", "#64748b"
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Pictures:
    """What was drawn.

    Parameters
    ----------
    files
        The files, in the order of the report.
    missing
        Name of each picture that was not drawn -> why.
    """

    files: list[Path] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def write_pictures(folder: Path, out: Path | None = None, form: str = "svg") -> Pictures:
    """Draw what an output folder holds: progress, cost, choices, architecture, retraining.

    Parameters
    ----------
    folder
        Output folder of ``nni-cream search``, ``retrain``, ``run``, ``go`` or ``detect train``.
    out
        Folder for the pictures; earlier ones are replaced. Default: ``plots/`` in the folder.
    form
        ``svg`` or ``png``; the architecture is always SVG.

    Returns
    -------
    Pictures
        The files, and what is missing.

    Raises
    ------
    ExportError
        If matplotlib is missing.
    FileError
        If the folder holds no result or nothing to draw, one of its files is broken, or a picture would replace a file
        that is none.
    """
    result = read_result(folder)
    _figure_class()  # before anything is written
    target = folder / PLOTS if out is None else out
    drawn = {name: draw(result) for name, draw in _DRAWERS.items()}
    missing = {name: found for name, found in drawn.items() if isinstance(found, str)}
    paths = {
        name: target / f"{name}.{'svg' if name == 'architecture' else form}" for name in drawn if name not in missing
    }
    if not paths:
        raise FileError(f"{folder}: holds nothing to draw: {'; '.join(missing.values())}. Wait for its first epoch.")
    for path in paths.values():
        check_own(path, MARK.encode(), "picture")
    _make_folder(target)
    for name, path in paths.items():
        drawn[name](path)  # type: ignore[operator]  # the others are in missing
    return Pictures(list(paths.values()), missing)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be made: {error.strerror or error}. Name another with --out.") from error


_Drawn = Callable[[Path], None] | str
"""Writes a picture to a file, or says why there is none."""


# Each picture ---------------------------------------------------------------------------------------------------------


def _progress(result: Result) -> _Drawn:
    if result.search is None:
        return "there is no search in this folder"
    figures = search_figures(result.search)
    if not figures.progress:
        return "no epoch with an entry on the board is known"
    formats = _Formats(result.search.settings)
    title = "Best, mean and worst over time"
    epochs, *lines = zip(*figures.progress, strict=True)
    told = f"Best {formats.score} of the board: {formats.write(lines[0][-1])} after epoch {epochs[-1]}."

    def draw(path: Path) -> None:
        with _picture(path, title, told) as (figure, _):
            axis = figure.subplots()
            axis.fill_between(epochs, lines[2], lines[0], color=_BEST, alpha=0.08, linewidth=0)
            marker = "o" if len(epochs) == 1 else ""
            for name, values, style, color in zip(
                ("best", "mean", "worst"), lines, ("-", "--", ":"), (_BEST, "#18212f", _FRONT), strict=True
            ):
                axis.plot(epochs, values, style, marker=marker, color=color, label=name)
            axis.set(xlabel="epoch", ylabel=formats.score, title=title)
            axis.xaxis.get_major_locator().set_params(integer=True)
            formats.accuracies(axis.yaxis)
            axis.legend()

    return draw


def _cost(result: Result) -> _Drawn:
    if result.search is None:
        return "there is no search in this folder"
    figures = search_figures(result.search)
    if not figures.scored:
        return "no scored path is known"
    formats = _Formats(result.search.settings)
    title = f"{formats.score.capitalize()} against cost of every scored path"
    cheapest, dearest = figures.front[0], figures.front[-1]
    told = (
        f"{len(figures.scored)} scored paths. Pareto front of {len(figures.front)}: "
        f"from {formats.write(cheapest[1])} at {cheapest[0]:g} "
        f"to {formats.write(dearest[1])} at {dearest[0]:g} {formats.cost}."
    )

    def draw(path: Path) -> None:
        with _picture(path, title, told) as (figure, _):
            axis = figure.subplots()
            _draw_cloud(axis, figures)
            axis.set(xlabel=f"{formats.cost} of one image", ylabel=formats.score, title=title)
            formats.costs(axis.xaxis)
            formats.accuracies(axis.yaxis)
            axis.legend()

    return draw


def _draw_cloud(axis: Any, figures: SearchFigures) -> None:
    axis.plot(*zip(*figures.scored, strict=True), "s", color=_QUIET, markersize=3, alpha=0.6, label="scored")
    axis.step(
        *zip(*figures.front, strict=True), where="post", marker="D", markersize=4, color=_FRONT, label="Pareto front"
    )
    if figures.board:
        ring = {"markersize": 9, "markerfacecolor": "none", "color": _BEST}
        axis.plot(*zip(*figures.board, strict=True), "o", label="on the board", **ring)
    if figures.rejected:
        floor = [0.01] * len(figures.rejected)
        marks = {"markersize": 7, "color": "#b3341c", "alpha": 0.5, "transform": axis.get_xaxis_transform()}
        axis.plot(figures.rejected, floor, "|", label="rejected early", **marks)


def _choices(result: Result) -> _Drawn:
    if result.search is None:
        return "there is no search in this folder"
    figures = search_figures(result.search)
    if figures.unknown is not None:
        return f"the worth of the choices is not known: {figures.unknown}"
    title = "Which operation helps where"
    known = (abs(gain) for group in figures.gains for row in group.gains for gain in row if not math.isnan(gain))
    most = max(known, default=0.0) or 1.0
    told = "What each value adds to a path's quality, in standard deviations of a training step's loss. " + " ".join(
        f"{label}: best {_best_value(group, own)}."
        for group in figures.gains
        for label, own in _rows(group)
        if not all(map(math.isnan, own))
    )
    rows = [len(group.labels) for group in figures.gains]
    width = max(1.0 + 0.14 * max(map(len, group.labels)) + 1.15 * len(group.values) for group in figures.gains)

    def draw(path: Path) -> None:
        with _picture(path, title, told, (max(6.4, width), 1.2 + sum(0.34 * count + 0.9 for count in rows))) as (
            figure,
            maps,
        ):
            axes = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": rows})
            for (axis,), group in zip(axes, figures.gains, strict=True):
                _draw_gains(axis, group, most, maps)
            note = "gain in standard deviations of a training step's loss; grey italics may be noise"
            figure.suptitle(f"{title}\n", fontsize=12)
            figure.text(0.5, 0.99, f"\n\n{note}", ha="center", va="top", fontsize=8, color=_QUIET)

    return draw


def _rows(group: Gains) -> Iterator[tuple[str, list[float]]]:
    yield from zip(group.labels, group.gains, strict=True)


def _best_value(group: Gains, gains: Sequence[float]) -> str:
    return group.values[gains.index(max(gain for gain in gains if not math.isnan(gain)))]


def _draw_gains(axis: Any, group: Gains, most: float, maps: Any) -> None:
    colours = maps.LinearSegmentedColormap.from_list("gains", ["#e3a57e", "#ffffff", "#86a9dd"])
    axis.imshow(group.gains, cmap=colours, vmin=-most, vmax=most, aspect="auto")
    axis.set_xticks(range(len(group.values)), group.values)
    axis.set_yticks(range(len(group.labels)), group.labels)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)
    for row, (gains, stds) in enumerate(zip(group.gains, group.stds, strict=True)):
        for column, (gain, std) in enumerate(zip(gains, stds, strict=True)):
            if math.isnan(gain):  # no path had it
                axis.text(column, row, "–", ha="center", va="center", fontsize=8, color=_QUIET)
                continue
            sure = abs(gain) > _SURE * std
            look = {"color": "#18212f"} if sure else {"color": _QUIET, "style": "italic"}
            axis.text(column, row, f"{gain:+.2f}".replace("-", "−"), ha="center", va="center", fontsize=8, **look)


def _architecture(result: Result) -> _Drawn:
    best = result.best
    if best is None:
        return "no architecture is chosen yet"
    if not best.choices:
        return "the network has no choices"
    options = None if result.search is None else result.search.choices
    text = draw_architecture(best.choices, space=best.space["name"], options=options)
    return lambda path: write_text(path, text)


def _retraining(result: Result) -> _Drawn:
    trainings = [training for training in result.trainings if training.figures]
    if not trainings:
        return "the curves of no training are known"
    title = "Training by the full recipe"
    told = f"Training loss and validation of {', '.join(training.name for training in trainings)}, epoch by epoch."

    def draw(path: Path) -> None:
        with _picture(path, title, told, (10.0, 4.0)) as (figure, _):
            panels = figure.subplots(1, 2)
            for index, training in enumerate(trainings):
                chosen = " (chosen)" if len(trainings) > 1 and result.is_chosen(training.choices) else ""
                look = {"linestyle": _STYLES[index % len(_STYLES)], "color": f"C{index % 10}"}
                for axis, key in zip(panels, ("train_loss", training.accuracy_key or ""), strict=True):
                    curve = [(line["epoch"], line[key]) for line in training.figures if is_number(line.get(key))]
                    if curve:
                        marker = "o" if len(curve) == 1 else ""
                        axis.plot(*zip(*curve, strict=True), marker=marker, label=f"{training.name}{chosen}", **look)
            _finish_curves(panels, result)
            figure.suptitle(title, fontsize=12)

    return draw


def _finish_curves(panels: Any, result: Result) -> None:
    from matplotlib.ticker import PercentFormatter

    for axis, name in zip(panels, ("training loss", result.validation), strict=True):
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.lines:
            axis.legend(fontsize=8)
    if panels[1].lines:
        panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        panels[1].text(0.5, 0.5, "no validation images", ha="center", transform=panels[1].transAxes, color=_QUIET)


_DRAWERS: Mapping[str, Callable[[Result], _Drawn]] = {
    "progress": _progress,
    "cost": _cost,
    "choices": _choices,
    "architecture": _architecture,
    "retraining": _retraining,
}


# matplotlib -----------------------------------------------------------------------------------------------------------


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ExportError(
            "matplotlib is missing; expected it for pictures. Run pip install 'nni_cream[plots]', or write a report, "
            "which draws without it."
        ) from None
    return Figure


@contextmanager
def _picture(path: Path, title: str, told: str, size: tuple[float, float] = (6.4, 4.2)) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and matplotlib's colours; write the figure when all is drawn."""
    figure_class = _figure_class()
    from matplotlib import colors, rc_context

    # The same result gives the same file: no date, no random identifiers. Letters stay letters.
    with rc_context({"svg.hashsalt": "nni_cream", "svg.fonttype": "none"}):
        figure = figure_class(figsize=size, layout="constrained")
        yield figure, colors
        form = path.suffix.removeprefix(".")
        written = (
            {"Title": title, "Description": told, "Creator": MARK, "Date": None}
            if form == "svg"
            else {"Title": title, "Description": told, "Software": MARK}
        )
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=_DPI, format=form, metadata=written)


class _Formats:
    """How accuracies and costs of a search are written: a user's own score or cost has no known unit."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        cost = settings.get("cost", "cost")
        self._cost = str(cost[0] if isinstance(cost, list) and cost else cost)
        self._settings = settings
        self._is_top1 = settings.get("score", "top1") == "top1"
        self.score = one_shot(settings)
        self.cost = COST_TITLES.get(self._cost, self._cost.rpartition(":")[2])

    def write(self, accuracy: float) -> str:
        return write_score(accuracy, self._settings)

    def accuracies(self, axis: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        if self._is_top1:
            axis.set_major_formatter(PercentFormatter(1.0))

    def costs(self, axis: Any) -> None:
        from matplotlib.ticker import EngFormatter, FuncFormatter

        if self._cost == "latency":
            axis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{1000 * seconds:g}"))
        else:
            axis.set_major_formatter(EngFormatter(sep=""))
