"""The report as one HTML file: the parts of the board page, with their data, styles and scripts in it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nni_cream.page import page_part, page_texts
from nni_cream.report.bundle import bundle
from nni_cream.report.diagram import STYLE, draw_architecture
from nni_cream.report.facts import commands, facts, figures, status
from nni_cream.report.result import Kind, Result, Training
from nni_cream.terminal_text import visible

__all__ = ["GENERATOR", "html_page"]

GENERATOR = '<meta name="generator" content="nni-cream report">'
"""A file of ours is known by this line."""

_MARK = re.compile(r"<!-- (\w+) -->")
_LINKED = ("README.md", "network.onnx", "network.py", "network.pt2", "weights.pt", "best.json", "export.json")


def html_page(result: Result, out: Path) -> str:
    """Write the report.

    Parameters
    ----------
    result
        The result.
    out
        Where the file will be: links to an export are relative to its folder.

    Returns
    -------
    str
        HTML that needs no other file and no network.
    """
    texts = page_texts() | page_texts("nni_cream.report")
    style = texts["board.css"] + texts["report.css"] + STYLE
    modules = {name.removesuffix(".js"): text for name, text in texts.items() if name.endswith(".js")}
    script = bundle(modules, "report")
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:"
    parts = {
        "policy": policy,
        "title": _text(f"{result.kind.value.capitalize()} in {result.folder.resolve().name}"),
        "style": style,
        "script": script,
        "data": _json(_data(result)),
        "links": _links(result),
        "notes": "".join(f'<p class="notice">{_text(note)}</p>\n' for note in result.notes),
        "heading": "The detector" if result.kind is Kind.DETECTION else "The chosen architecture",
        "status": _text(status(result)),
        "figures": "".join(_figure(*figure) for figure in figures(result)),
        "architecture": _architecture(result),
        "facts": _pairs(facts(result)),
        "commands": _commands(result),
        "retraining": _retraining(result),
        "search": _search(result),
        "export": _export(result, out),
        "configs": _configs(result),
    }
    # In one go: what is put in is not looked through again.
    return _MARK.sub(lambda found: parts[found[1]], texts["report.html"])


def _text(text: str) -> str:
    return escape(visible(text))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# Parts made of facts --------------------------------------------------------------------------------------------------


def _links(result: Result) -> str:
    parts = {"chosen": "Architecture"}
    if result.trainings:
        parts["retraining"] = "Training curves"
    if result.search is not None:
        parts["search"] = "Search"
    parts["configuration"] = "Configuration"
    return "".join(f'<a href="#{name}">{title}</a>' for name, title in parts.items())


def _figure(title: str, value: str, kind: str) -> str:
    return f'<div><dt>{_text(title)}</dt><dd>{_text(value)}</dd><dd class="kind">{_text(kind)}</dd></div>'


def _pairs(pairs: Iterator[tuple[str, str]]) -> str:
    return "".join(f"<dt>{_text(term)}</dt><dd>{_text(value)}</dd>" for term, value in pairs)


def _commands(result: Result) -> str:
    found = commands(result)
    if not found:
        return ""
    rows = "".join(f"<dt>{_text(purpose)}</dt><dd><code>{_text(line)}</code></dd>" for purpose, line in found)
    return f'<h3 class="next">Next commands</h3><dl class="commands">{rows}</dl>'


def _architecture(result: Result) -> str:
    best = result.best
    if best is None:
        return ""
    if not best.choices:
        return f'<p class="empty">The network {_text(json.dumps(best.space["arguments"]))} has no choices to draw.</p>'
    options = None if result.search is None else result.search.choices
    name = best.space["name"]
    wide, narrow = (
        draw_architecture(best.choices, space=name, options=options, columns=columns, name=kind, alone=False)
        for kind, columns in (("wide", 4), ("narrow", 1))
    )
    return f'<div class="architecture"><div class="wide">{wide}</div><div class="narrow">{narrow}</div></div>'


def _export(result: Result, out: Path) -> str:
    if result.export is None:
        return '<p class="empty">There is no export/ in this folder.</p>' if result.kind is Kind.WHOLE else ""
    folder = result.export.resolve()
    there = [name for name in _LINKED if (folder / name).is_file()]
    to = quote(Path(os.path.relpath(folder, out.resolve().parent)).as_posix())
    links = "".join(f'<li><a href="{to}/{name}">{name}</a></li>' for name in there)
    return f'<h3>Export of the network, with its model card</h3><ul class="links">{links}</ul>'


def _configs(result: Result) -> str:
    if not result.configs:
        return '<p class="empty">There is no config.yml in this folder.</p>'
    return "".join(_folded(name, content) for name, content in result.configs.items())


def _folded(name: str, content: str) -> str:
    text = _text(content.replace("\r\n", "\n"))
    region = f'<div class="scroller tall" role="region" aria-label="{_text(name)}" tabindex="0"><pre>{text}</pre></div>'
    return f"<details><summary>{_text(name)}</summary>{region}</details>"


# Parts that the script fills ------------------------------------------------------------------------------------------

_CURVES = """\
<div class="pair" id="retraining">
  <figure class="card" id="loss">
    <figcaption><h2>Training loss</h2><ul class="key" aria-hidden="true"></ul></figcaption>
    <div class="plot"></div>
    <p class="readout" aria-live="polite"></p>
    <p class="empty" hidden></p>
  </figure>
  <figure class="card" id="validation">
    <figcaption><h2><!-- accuracy --></h2><ul class="key" aria-hidden="true"></ul></figcaption>
    <div class="plot"></div>
    <p class="readout" aria-live="polite"></p>
    <p class="empty" hidden></p>
  </figure>
</div>
"""

_SEARCH_HEAD = """\
<section class="selector" id="search" aria-label="The search">
  <p><strong>The search.</strong> All accuracies from here on are one-shot:
    measured with the supernet's shared weights.</p>
  <dl id="tiles" class="tiles"></dl>
</section>
"""


def _retraining(result: Result) -> str:
    curves = _CURVES.replace("<!-- accuracy -->", result.validation.capitalize()) if result.trainings else ""
    rows = (
        page_part("retrained") if result.kind is not Kind.DETECTION and (result.trainings or result.retrained) else ""
    )
    return curves + rows


def _search(result: Result) -> str:
    return "" if result.search is None else _SEARCH_HEAD + page_part("search")


# Data -----------------------------------------------------------------------------------------------------------------


def _data(result: Result) -> dict[str, Any]:
    search = result.search
    settings: Mapping[str, Any] = {}
    if search is not None:
        settings = search.settings
    elif result.best is not None:
        settings = {"cost": result.best.cost_name}
    return {
        "settings": settings,
        "validation": result.validation,
        "trainings": [_training(result, training) for training in result.trainings],
        "retrained": [{**row, **_named(result, row["choices"], n)} for n, row in enumerate(result.retrained, 1)],
        "search": None
        if search is None
        else {
            "settings": settings,
            "records": search.records,
            "board": search.board,
            "complete": search.complete,
            "choices": search.choices,
        },
    }


def _training(result: Result, training: Training) -> dict[str, Any]:
    key = training.accuracy_key
    epochs = [
        {"epoch": line["epoch"], "loss": line.get("train_loss"), "accuracy": None if key is None else line.get(key)}
        for line in training.figures
        if "epoch" in line
    ]
    return {"name": training.name, "chosen": result.is_chosen(training.choices), "epochs": epochs}


def _named(result: Result, choices: Mapping[str, Any], number: int) -> dict[str, Any]:
    names = (training.name for training in result.trainings if training.choices == choices)
    name = next(names, f"entry {number}")
    return {"name": name, "chosen": result.is_chosen(choices)}


def _json(value: Any) -> str:
    """Write JSON that cannot end the element around it. What is no number in JSON becomes null."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
