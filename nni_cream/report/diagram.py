"""The chosen architecture as a picture: an SVG file with one block for each layer, first to last."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nni_cream.report.own_file import MARK
from nni_cream.terminal_text import visible

__all__ = ["HUES", "PATTERNS", "STYLE", "draw_architecture"]

HUES = (212, 32, 158, 328, 52, 268, 190, 8)
"""Colours of the operations in their order, as in ``board_views.js``."""
PATTERNS = ("plain", "rising", "level", "dots", "falling", "upright")

_WIDE, _HIGH, _GAP, _ROW_GAP, _EDGE = 190, 54, 28, 26, 10
_LINE = 17  # of the notes below
_OPERATION, _LABEL = 20, 27  # characters that fit into a block
_NO_XML = re.compile("[\ufffe\uffff]")

STYLE = """\
.diagram { --d-ink: #141b26; --d-quiet: #566173; --d-paper: #fff; --d-way: #6c788a;
  --d-fill: 78% 88%; --d-edge: 45% 55%; --d-shade: rgb(20 27 38 / 13%); }
@media (prefers-color-scheme: dark) {
  .diagram { --d-ink: #f2f5fa; --d-quiet: #9ca8ba; --d-paper: #161d27; --d-way: #8c98aa;
    --d-fill: 38% 25%; --d-edge: 38% 48%; --d-shade: rgb(255 255 255 / 12%); }
}
.diagram text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
.diagram .operation { font: 600 13px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  fill: var(--d-ink); }
.diagram .label, .diagram .note { font-size: 11.5px; fill: var(--d-quiet); }
.diagram .unit .label { fill: var(--d-ink); opacity: .8; }
.diagram .end { font-size: 13px; fill: var(--d-ink); }
.diagram .paper { fill: var(--d-paper); }
.diagram .box { fill: hsl(var(--hue) var(--d-fill)); stroke: hsl(var(--hue) var(--d-edge)); }
.diagram .pill { fill: none; stroke: var(--d-way); }
.diagram .way { fill: none; stroke: var(--d-way); stroke-width: 1.5; }
.diagram .tip { fill: var(--d-way); }
.diagram .shade { stroke: var(--d-shade); stroke-width: 2; fill: none; }
.diagram .shade-dot { fill: var(--d-shade); }
""" + "".join(f".diagram .hue-{index} {{ --hue: {hue}; }}\n" for index, hue in enumerate(HUES))
"""Colours of the diagram, light and dark; a page that holds diagrams needs it once."""

_LINES = {
    "rising": '<path d="M-2 2 2 -2M0 8 8 0M6 10 10 6"/>',
    "falling": '<path d="M-2 6 2 10M0 0 8 8M6 -2 10 2"/>',
    "level": '<path d="M0 3H8"/>',
    "upright": '<path d="M3 0V8"/>',
}
_DEPTH = re.compile(r"(.*?)_?depth")
_BLOCK = re.compile(r"_?(?:block|layer|cell)?_?(\d+)")


@dataclass(frozen=True)
class _Layer:
    """One block: its label, the full text of what was chosen, and its marks."""

    label: str
    text: str
    hue: int
    pattern: str


def draw_architecture(
    choices: Mapping[str, Any],
    *,
    space: str,
    options: Mapping[str, Sequence[Any]] | None = None,
    columns: int = 4,
    name: str = "architecture",
    alone: bool = True,
) -> str:
    """Draw an architecture.

    Parameters
    ----------
    choices
        Label -> chosen value, as in ``best.json``, in the order of the space.
    space
        Name of the space, for the title.
    options
        Label -> all its values, where they are known: then colours are those of the board page.
    columns
        Blocks in a row.
    name
        Prefix of the identifiers, which differ between two diagrams of a page.
    alone
        Whether it is a file of its own, with colours and a background.

    Returns
    -------
    str
        SVG, of one or more blocks.
    """
    left_out, depths = _beyond_depth(choices)
    marks = _marks(choices, options or {})
    layers = []
    for label, value in choices.items():
        if label not in left_out and label not in depths:
            texts = _texts(value, (options or {}).get(label))
            hue, pattern = marks.get(texts[0] if texts else "", (0, "plain"))
            layers.append(_Layer(label, " + ".join(texts) or "nothing", hue, pattern))
    notes = _notes(depths, left_out)
    return _svg(layers, notes, _Frame(space, columns, name, alone, len(layers)))


# Reading the choices --------------------------------------------------------------------------------------------------


def _beyond_depth(choices: Mapping[str, Any]) -> tuple[list[str], dict[str, int]]:
    """Return the labels of blocks that the chosen depths leave out, and the depths.

    A space is not imported to draw it, so this goes by names: ``stage_2_depth: 1`` and ``stage_2_block_1``, or
    ``depth: 2`` and ``block_0``. The numbers of the blocks begin at 0 or 1.
    """
    left_out: list[str] = []
    depths: dict[str, int] = {}
    for label, value in choices.items():
        found = _DEPTH.fullmatch(label)
        if found is None or type(value) is not int:
            continue
        numbers = _numbered(found[1], choices)
        first = min(numbers.values(), default=0)
        complete = sorted(numbers.values()) == list(range(first, first + len(numbers)))
        if first <= 1 and complete and 1 <= value <= len(numbers):
            depths[label] = value
            left_out += [block for block, number in numbers.items() if number >= first + value]
    return left_out, depths


def _numbered(stem: str, choices: Mapping[str, Any]) -> dict[str, int]:
    found = {label: _BLOCK.fullmatch(label.removeprefix(stem)) for label in choices if label.startswith(stem)}
    return {label: int(match[1]) for label, match in found.items() if match is not None}


def _texts(value: Any, options: Sequence[Any] | None) -> list[str]:
    """Write what was chosen; a list is several options, unless it is one of them."""
    if isinstance(value, list) and value not in (options or ()):
        return [_text(item) for item in value]
    return [_text(value)]


def _text(option: Any) -> str:
    return option if isinstance(option, str) else json.dumps(option, separators=(",", ":"))


def _marks(choices: Mapping[str, Any], options: Mapping[str, Sequence[Any]]) -> dict[str, tuple[int, str]]:
    """Return place of the colour and pattern of each option, numbered as the board page numbers them."""
    known = [_text(option) for label in options for option in options[label]]
    chosen = [text for label, value in choices.items() for text in _texts(value, options.get(label))]
    texts = dict.fromkeys([*known, *chosen])
    return {
        text: (index % len(HUES), PATTERNS[(index + index // len(HUES)) % len(PATTERNS)])
        for index, text in enumerate(texts)
    }


def _notes(depths: Mapping[str, int], left_out: Sequence[str]) -> list[str]:
    notes = []
    if depths:
        notes.append(f"Depths: {', '.join(f'{label} {depth}' for label, depth in depths.items())}.")
    if left_out:
        notes.append(f"Beyond these depths, so not in the network: {', '.join(left_out)}.")
    return notes


# Drawing --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """How the blocks are laid out; two more of them are the ends."""

    space: str
    columns: int
    name: str
    alone: bool
    layers: int

    @property
    def width(self) -> int:
        columns = min(self.columns, self.layers + 2)
        return columns * _WIDE + (columns - 1) * _GAP + 2 * _EDGE

    @property
    def height(self) -> int:
        rows = -(-(self.layers + 2) // self.columns)
        return rows * _HIGH + (rows - 1) * _ROW_GAP + 2 * _EDGE

    def corner(self, place: int) -> tuple[int, int]:
        """Return the upper left corner of a block."""
        row, column = divmod(place, self.columns)
        return _EDGE + column * (_WIDE + _GAP), _EDGE + row * (_HIGH + _ROW_GAP)


def _svg(layers: Sequence[_Layer], notes: Sequence[str], frame: _Frame) -> str:
    lines = [line for note in notes for line in textwrap.wrap(note, max(20, frame.width // 7))]
    height = frame.height + _LINE * len(lines)
    ids = f"{frame.name}-title {frame.name}-desc"
    told = ", ".join(f"{layer.label}: {layer.text}" for layer in layers)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {height}" width="{frame.width}" '
        f'height="{height}" class="diagram" role="img" aria-labelledby="{ids}">',
        f'<title id="{frame.name}-title">{_xml(f"Architecture from the space {frame.space}")}</title>',
        f'<desc id="{frame.name}-desc">{_xml(" ".join([f"From input to output: {told}.", *notes]))}</desc>',
        f"<metadata>{MARK}</metadata>\n<style>{STYLE}</style>" if frame.alone else "",
        _definitions(frame.name, {layer.pattern for layer in layers}),
        f'<rect class="paper" width="{frame.width}" height="{height}"/>' if frame.alone else "",
        *(_way(frame, place) for place in range(1, len(layers) + 2)),
        _end(frame, 0, "input"),
        *(_block(frame, place, layer) for place, layer in enumerate(layers, 1)),
        _end(frame, len(layers) + 1, "output"),
    ]
    for index, line in enumerate(lines):
        y = frame.height + _LINE * (index + 1) - 6
        parts.append(f'<text class="note" x="{_EDGE}" y="{y}">{_xml(line)}</text>')
    return "\n".join([*(part for part in parts if part), "</svg>\n"])


def _definitions(name: str, patterns: set[str]) -> str:
    return f"<defs>{''.join(_pattern_lines(name, patterns))}</defs>"


def _pattern_lines(name: str, patterns: set[str]) -> Iterator[str]:
    for pattern in PATTERNS:
        if pattern in patterns and pattern != "plain":
            drawn = _LINES.get(pattern)
            inner = f'<g class="shade">{drawn}</g>' if drawn else '<circle class="shade-dot" cx="4" cy="4" r="1.6"/>'
            size = 'width="8" height="8" patternUnits="userSpaceOnUse"'
            yield f'<pattern id="{name}-{pattern}" {size}>{inner}</pattern>'


def _block(frame: _Frame, place: int, layer: _Layer) -> str:
    x, y = frame.corner(place)
    box = f'x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="7"'
    middle = x + _WIDE // 2
    shade = "" if layer.pattern == "plain" else f'<rect {box} fill="url(#{frame.name}-{layer.pattern})"/>'
    return (
        f'<g class="unit hue-{layer.hue}"><title>{_xml(f"{layer.label}: {layer.text}")}</title>'
        f'<rect class="box" {box}/>{shade}'
        f'<text class="label" text-anchor="middle" x="{middle}" y="{y + 20}">{_xml(_short(layer.label, _LABEL))}</text>'
        f'<text class="operation" text-anchor="middle" x="{middle}" y="{y + 39}">'
        f"{_xml(_short(_last_name(layer.text), _OPERATION))}</text></g>"
    )


def _last_name(text: str) -> str:
    """Leave out the module of a class or function, ``torch.nn.Identity``."""
    return text.rpartition(".")[2] if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text) else text


def _short(text: str, most: int) -> str:
    # The end of a long name tells more than its middle: stage_2_block_1, conv_bn_relu_5x5.
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]}…{line[len(line) - (most - most // 2 - 1) :]}"


def _end(frame: _Frame, place: int, text: str) -> str:
    x, y = frame.corner(place)
    width, high = 96, 32
    # The first one ends where the way begins, the last one begins where it ends; below one another, in the middle.
    left = x + (_WIDE - width) // 2
    if frame.columns > 1:
        left = x + _WIDE - width if place == 0 else x
    top = y + (_HIGH - high) // 2
    return (
        f'<rect class="pill" x="{left}" y="{top}" width="{width}" height="{high}" rx="16"/>'
        f'<text class="end" text-anchor="middle" x="{left + width // 2}" y="{top + 21}">{text}</text>'
    )


def _way(frame: _Frame, place: int) -> str:
    """Draw the arrow that leads to a block, from the one before."""
    x, y = frame.corner(place)
    before_x, before_y = frame.corner(place - 1)
    inset = (_HIGH - 32) // 2  # an end is less high than a block
    if y == before_y:
        middle = y + _HIGH // 2
        return (
            f'<path class="way" d="M{before_x + _WIDE} {middle}H{x - 6}"/>'
            f'<path class="tip" d="M{x} {middle}l-8 -4.5v9z"/>'
        )
    start = before_y + _HIGH - (inset if place == 1 else 0)
    last = place == frame.layers + 1
    target = x + (48 if last and frame.columns > 1 else _WIDE // 2)
    top = y + (inset if last else 0)
    between = before_y + _HIGH + _ROW_GAP // 2
    return (
        f'<path class="way" d="M{before_x + _WIDE // 2} {start}V{between}H{target}V{top - 6}"/>'
        f'<path class="tip" d="M{target} {top}l-4.5 -8h9z"/>'
    )


def _xml(text: str) -> str:
    """Write any text so that XML holds it: escaped, and its control characters spelled out."""
    return escape(_NO_XML.sub("?", visible(text)))
