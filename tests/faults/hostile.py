"""Malformed inputs for each kind of file that the program reads, made from a valid one with a seed.

``benchmarks/hostile_files.py`` runs thousands of them, ``tests/faults/test_hostile_files.py`` some tens.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import random
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch import nn

from nni_cream.config import FINAL, RANK, RETRAIN, SEARCH, TRUTH
from nni_cream.errors import CreamError, FileError
from nni_cream.manager.experiment_file import load_experiment
from nni_cream.manager.final_metric import check_final, unpack_final
from nni_cream.manager.plan import ExperimentPlan, Job
from nni_cream.manager.rest_client import metric
from nni_cream.results.checkpoints.checkpoint_files import check_readable
from nni_cream.results.epoch_files import check_checkpoint
from nni_cream.training import load_weights
from tests.test_json_reader import BEST, BOARD, KINDS, RETRAINED, changed, places, write

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LEFT = object()
"""What is left out."""

_ATTACKS: tuple[Any, ...] = (
    LEFT, None, True, -1, 0, 2, 10**400, 1e308, 0.5, float("inf"), float("-inf"), float("nan"), "", "1", [], [[]],
    {}, {"": None}, "\x1b[2J\x00", "[bold]x", "../../x", "/etc/passwd", "os:system", "nni_cream_no_such_module:Class",
    "\ud800", "\u202e", "x" * 100_000, [0] * 10_000, {str(number): number for number in range(1000)},
)  # fmt: skip


class Bomb:
    """Runs a command in whoever unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/nni_cream_was_hacked",)


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def wrong_value(content: Any, rng: random.Random) -> Any:
    """Change one to three values of a content, or add a key."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        way = rng.choice(list(places(content)))
        new = rng.choice((*_ATTACKS, _deep(40), _deep(300)))
        if new is LEFT and way:
            content = _without(content, way)
        elif rng.random() < 0.1 and isinstance(content, dict):
            content = {**content, rng.choice(("", "extra", "__class__", "\x1b")): None if new is LEFT else new}
        else:
            content = changed(content, way, None if new is LEFT else new)
        if not isinstance(content, dict | list):
            return content
    return content


def _without(content: Any, way: tuple[Any, ...]) -> Any:
    content = copy.copy(content)
    if len(way) == 1:
        del content[way[0]]
    else:
        content[way[0]] = _without(content[way[0]], way[1:])
    return content


def wrong_bytes(valid: bytes, rng: random.Random) -> bytes:
    """Damage a file as bytes."""
    place = rng.randrange(len(valid) + 1)
    before, after = valid[:place], valid[place:]
    text = valid.decode("utf-8", "replace")
    return rng.choice(
        (
            lambda: before,  # truncated
            lambda: b"\xef\xbb\xbf" + valid,
            lambda: before + b"\x00" * rng.choice((1, 1000)) + after,
            lambda: text.encode("utf-16"),
            lambda: before + bytes([rng.randrange(256)]) + after[1:],
            lambda: before + b"\xff\xfe" + after,
            lambda: before + valid + after,
            lambda: before + b"[" * 10_000 + after,
            lambda: before + b'{"a":' * 10_000 + after,
            lambda: before + b"9" * 10_000 + after,
            lambda: before + b"1e999999" + after,
            lambda: before + b"x" * 1_000_000 + after,
            lambda: before + b"NaN, -Infinity" + after,
            lambda: b"",
            lambda: rng.randbytes(1000),
        )
    )()


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
_MERGES = "a: &a {p: 1, q: 2}\n" + "".join(
    f"{after}: &{after} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
_YAML = (
    _BOMB, _MERGES, "a: &a [*a]\n", "a: !!python/object/apply:os.system ['touch /tmp/nni_cream_was_hacked']\n",
    "a: !!python/name:os.system\n", "a: !unknown x\n", "a: 1\na: 2\n", "? [a, b]\n: c\n", "? {a: b}\n: c\n",
    "a: 2001-99-99\n",     "a: 0x" + "f" * 5000 + "\n", "a: 1:" + "59:" * 300 + "59\n", "<<: 3\n", "- a\n",
    "a: *missing\n", "a: !!binary '%%'\n",
    "a: !!timestamp x\n", "a: !!int x\n", "a: !!float x\n", "a: !!set {x, y}\n", "a: !!omap [x]\n",
    "a: !!pairs x\n", "a: !!bool x\n",
    "%YAML 9.9\n---\na: 1\n", "--- a\n--- b\n", "a: |\n" + "  x\n" * 10_000, "=: 1\n", "a: !!int ''\n", "a: !!null x\n",
)  # fmt: skip


def _dumped(content: Any) -> str:
    # The one in C is ten times as fast, and only makes the inputs.
    text: str = yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    return text


def wrong_yaml(content: Any, rng: random.Random) -> bytes:
    """Damage a YAML file: its values, its bytes, or with YAML's own means."""
    if rng.random() < 0.5:
        content = wrong_value(content, rng)
        try:
            return _dumped(content).encode("utf-8", "surrogatepass")
        except (RecursionError, UnicodeError):
            return json.dumps(content).encode()
    text = _dumped(content)
    if rng.random() < 0.5:
        return wrong_bytes(text.encode(), rng)
    extra = rng.choice(_YAML)
    if rng.random() < 0.3:
        return extra.encode()
    lines = text.splitlines(keepends=True)
    line = rng.randrange(len(lines) + 1)
    return "".join([*lines[:line], extra, *lines[line:]]).encode()


def wrong_json(name: str, content: Any, rng: random.Random) -> bytes:
    """Damage a file of JSON, or of JSON lines."""
    if rng.random() < 0.6:
        content = wrong_value(content, rng)
        lines = name.endswith(".jsonl") and isinstance(content, list)
        texts = [json.dumps(line) + "\n" for line in content] if lines else [json.dumps(content)]
        return "".join(texts).encode()
    valid = (
        "".join(json.dumps(line) + "\n" for line in content) if name.endswith(".jsonl") else json.dumps(content)
    ).encode()
    if rng.random() < 0.15:  # a key twice
        return valid.replace(b'{"', b'{"format": 1, "format": 2, "', 1)
    return wrong_bytes(valid, rng)


def wrong_torch(content: Any, rng: random.Random) -> bytes:
    """Damage a file of torch: its values, its bytes, its archive, or with a pickle that runs code."""
    stream = io.BytesIO()
    way = rng.random()
    if way < 0.4:
        content = wrong_value(content, rng)
    elif way < 0.5:
        content = {**content, "bomb": Bomb()}
    if way > 0.95:
        pickle.dump(content if rng.random() < 0.5 else Bomb(), stream)
        return stream.getvalue()
    torch.save(content, stream, _use_new_zipfile_serialization=rng.random() < 0.8)
    valid = stream.getvalue()
    if way < 0.5:
        return valid
    return _zip_bomb(valid) if way < 0.55 and zipfile.is_zipfile(io.BytesIO(valid)) else wrong_bytes(valid, rng)


def _zip_bomb(valid: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as before, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in before.infolist():
            bomb.writestr(entry.filename, before.read(entry.filename))
        bomb.writestr("archive/data/99", b"\x00" * 5_000_000)
    return stream.getvalue()


@dataclass(frozen=True)
class Kind:
    """One kind of input: its name on the disk, how to make a wrong one, and how the program reads it."""

    file: str
    damage: Callable[[random.Random], bytes]
    read: Callable[[Path], Any]


class _Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def _checkpoint() -> dict[str, Any]:
    return {
        "state_dict": _Module().state_dict(), "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {}}], "epoch": 1, "global_step": 4, "pytorch-lightning_version": pl.__version__,
    }  # fmt: skip


def _sealed(content: bytes) -> bytes:
    # As somebody would do who knows the format: the checksum is no signature.
    return content + b"sha256:" + hashlib.sha256(content).hexdigest().encode()


def _received(path: Path) -> Any:
    # The manager sends the text of a text, whatever a trial wrote.
    return unpack_final(metric({"data": json.dumps(path.read_text(errors="replace"))}))


def _searched(path: Path) -> None:
    plan = ExperimentPlan(SEARCH.resolve({"space": "digits", "data": "digits"}), {})
    problems = plan.restore([Job(plan.searches[0].parameters, "SUCCEEDED", _received(path))])
    if problems:
        raise FileError(problems[0])
    plan.chosen()
    assert plan.trials


def _retrained(path: Path) -> None:
    check_final("retrain", _received(path))


def _yaml_kind(file: str, load: Callable[[Path], Any]) -> Kind:
    content = yaml.safe_load((EXPERIMENTS / file).read_text())
    return Kind(file, lambda rng: wrong_yaml(content, rng), load)


def _json_kind(name: str) -> Kind:
    file, content, read = KINDS[name]
    return Kind(file, lambda rng: wrong_json(file, content, rng), read)


ALL: dict[str, Kind] = {
    "search configuration": _yaml_kind("search_fashion.yml", SEARCH.load),
    "retrain configuration": _yaml_kind("retrain_fashion.yml", RETRAIN.load),
    "truth configuration": _yaml_kind("truth_fashion.yml", TRUTH.load),
    "rank configuration": _yaml_kind("rank_fashion.yml", RANK.load),
    "final configuration": _yaml_kind("final_fashion.yml", FINAL.load),
    "experiment": _yaml_kind("cream_experiment.yml", load_experiment),
    **{
        name: _json_kind(name)
        for name in KINDS
        if name not in ("board of a search", "search metric", "retrain metric")
    },
    "search result of a trial": Kind(
        "metric.json", lambda rng: wrong_json("", {"best": BEST, "board": BOARD}, rng), _searched
    ),
    "retrain result of a trial": Kind("metric.json", lambda rng: wrong_json("", RETRAINED, rng), _retrained),
    "weights": Kind(
        "weights.pt",
        lambda rng: wrong_torch(nn.Linear(2, 2).state_dict(), rng),
        lambda path: load_weights(nn.Linear(2, 2), path),
    ),
    "checkpoint": Kind(
        "last.ckpt",
        lambda rng: _sealed(wrong_torch(_checkpoint(), rng)),
        lambda path: check_checkpoint(check_readable(path), _Module()),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    error: str
    """Class of the error, ``accepted`` if there was none."""
    message: str
    own: bool
    """Whether the error is one of ours that names the file, or there was none."""
    seconds: float
    """Of the processor, which do not count what else the machine does."""
    mebibytes: float
    """By how much the memory of this process peaked above what it was."""
    size: int


def attack(kind: Kind, seed: int, folder: Path) -> Outcome:
    """Let the program read the input of a seed from a folder, which holds nothing else that matters."""
    path = folder / kind.file
    before = kind.damage(random.Random(seed))
    path.write_bytes(before)
    resident = _forget_peak()
    began = time.process_time()
    error: BaseException | None = None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            kind.read(path)
    except Exception as caught:  # noqa: BLE001 - every class of error is a finding
        error = caught
    seconds, peak = time.process_time() - began, _memory("VmHWM")
    assert path.read_bytes() == before, "reading changed the file"
    named = any(place in str(error) for place in (str(folder), " trial: "))
    own = error is None or (isinstance(error, CreamError) and named)
    name = "accepted" if error is None else type(error).__name__
    return Outcome(name, str(error), own, seconds, max(0.0, (peak - resident) / 1024), len(before))


def _forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(key: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


__all__ = ["ALL", "Bomb", "Kind", "Outcome", "attack", "write"]
