"""Draw the rooms of the package and their imports: docs/architecture.md and docs/images/architecture.svg.

Both come from the imports as they are. Run `python docs/architecture.py` after a change of the rooms; a test compares
the files with the code. Arrows that follow from others are left out of the picture; the table has them all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs/architecture.md", ROOT / "docs/images/architecture.svg"
WIDE, HIGH, GAP, ROW = 104, 34, 16, 78
Graph = dict[str, set[str]]


def rooms(package: str) -> Graph:
    """Return each room (folder or module) directly in a package, and the rooms that it imports."""
    graph = grimp.build_graph("nni_cream", exclude_type_checking_imports=True)
    found: Graph = {room: set() for room in sorted(graph.find_children(package))}
    for room in found:
        inside = {room} | graph.find_descendants(room)
        imported = {other for module in inside for other in graph.find_modules_directly_imported_by(module)}
        found[room] = {
            other for other in found if other != room and imported & ({other} | graph.find_descendants(other))
        }
    return found


def reachable(graph: Graph, room: str) -> set[str]:
    """Return all rooms that a room depends on, however indirectly."""
    return graph[room].union(*(reachable(graph, other) for other in graph[room]))


def reduced(graph: Graph) -> Graph:
    """Leave out the arrows that follow from others."""
    return {
        room: {one for one in others if not any(one in reachable(graph, other) for other in others)}
        for room, others in graph.items()
    }


def height(graph: Graph, room: str) -> int:
    """Return the longest way from a room down to one that imports nothing."""
    return max((1 + height(graph, other) for other in graph[room]), default=0)


def picture(graphs: Mapping[str, Graph]) -> str:
    """Draw one graph below the other, as SVG."""
    parts: list[str] = []
    top = width = 0
    for title, graph in graphs.items():
        levels = {room: height(graph, room) for room in graph}
        rows = [[room for room in graph if levels[room] == level] for level in range(max(levels.values()), -1, -1)]
        width = max(width, max(len(row) for row in rows) * (WIDE + GAP) + GAP)
        parts.append(f'<text x="{GAP}" y="{top + 20}" class="title">{escape(title)}</text>')
        place = {
            room: (GAP + index * (WIDE + GAP), top + 36 + number * ROW)
            for number, row in enumerate(rows)
            for index, room in enumerate(row)
        }
        for room, others in reduced(graph).items():
            for other in sorted(others):
                (x, y), (to_x, to_y) = place[room], place[other]
                parts.append(f'<path d="M{x + WIDE / 2} {y + HIGH} L{to_x + WIDE / 2} {to_y - 3}" class="arrow"/>')
        for room, (x, y) in place.items():
            name = escape(room.rpartition(".")[2])
            parts.append(f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="6"/>')
            parts.append(f'<text x="{x + WIDE / 2}" y="{y + HIGH / 2 + 4}" class="room">{name}</text>')
        top += 36 + len(rows) * ROW
    style = (
        "rect{fill:#eef3fb;stroke:#3b6ea5}.arrow{stroke:#8a97a8;fill:none;marker-end:url(#tip)}"
        "text{font:12px sans-serif;fill:#1b2a3a}.room{text-anchor:middle}.title{font-weight:bold}"
    )
    tip = '<marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7" orient="auto">'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}">'
    return "\n".join(
        [head, f'<style>{style}</style><defs>{tip}<path d="M0 0L6 3L0 6z" fill="#8a97a8"/></marker></defs>',
         '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>', *parts, "</svg>\n"]
    )  # fmt: skip


def purpose(room: str) -> str:
    """Return the first line of a room's docstring."""
    path = ROOT / room.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (
        (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0].replace("|", "\\|")
    )


def page(graphs: Mapping[str, Graph]) -> str:
    """Write the page: the picture, and a table of each graph."""
    lines = [
        "# Architecture",
        "",
        "<!-- Made by `python docs/architecture.py`. Do not edit. -->",
        "",
        "A search space goes in, and the board's best path comes out. Each room below knows only its own business.",
        "Imports point one way, from the command line down to the errors. The contracts in `pyproject.toml` hold this.",
        "",
        "![Rooms and their imports](images/architecture.svg)",
    ]
    for title, graph in graphs.items():
        lines += ["", f"## {title}", "", "| Room | Purpose | Imports |", "| --- | --- | --- |"]
        for room in sorted(graph, key=lambda room: (-height(graph, room), room)):
            imported = ", ".join(f"`{other.rpartition('.')[2]}`" for other in sorted(graph[room]))
            lines.append(f"| `{room.rpartition('.')[2]}` | {purpose(room)} | {imported} |")
    return "\n".join([*lines, ""])


def drawn() -> dict[Path, str]:
    """Return both files as the imports have them now."""
    graphs = {"The package": rooms("nni_cream"), "The method, `nni_cream.search`": rooms("nni_cream.search")}
    return {PAGE: page(graphs), PICTURE: picture({title.replace("`", ""): graph for title, graph in graphs.items()})}


if __name__ == "__main__":
    for file, content in drawn().items():
        file.write_text(content, encoding="utf-8")
        print(file.relative_to(ROOT), file=sys.stderr)
