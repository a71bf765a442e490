"""A malformed file ends in our own error, in little time and memory, and runs nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from nni_cream.config import SEARCH, read_yaml
from nni_cream.errors import ConfigError, CreamError, FileError
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import load_board
from nni_cream.training import load_weights
from tests.faults.hostile import ALL, Bomb, attack
from tests.test_json_reader import BEST

COUNT = 60
HACKED = Path("/tmp/nni_cream_was_hacked")


@pytest.mark.parametrize("kind", ALL)
def test_malformed_files_are_read_or_refused_by_name(tmp_path: Path, kind: str) -> None:
    HACKED.unlink(missing_ok=True)
    for seed in range(COUNT):
        outcome = attack(ALL[kind], seed, tmp_path)
        assert outcome.own, f"seed {seed}: {outcome.error}: {outcome.message}"
        assert outcome.mebibytes < 200, f"seed {seed}"
    assert not HACKED.exists()


@pytest.mark.parametrize("read", [load_best, load_board, SEARCH.load, lambda path: load_weights(nn.Linear(2, 2), path)])
@pytest.mark.parametrize("special", ["pipe", "loop", "nothing", "folder", "device"])
def test_special_file_is_refused_at_once(tmp_path: Path, read: object, special: str) -> None:
    path = tmp_path / "file"
    if special == "pipe":
        os.mkfifo(path)
    elif special == "folder":
        (path / "best.json").mkdir(parents=True)
        (path / "board.json").mkdir()
    else:
        path.symlink_to({"loop": path, "nothing": tmp_path / "gone", "device": Path("/dev/zero")}[special])
    with pytest.raises(CreamError, match="file"):
        read(path)  # type: ignore[operator]


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yml"
    names = "abcdefghi"
    lists = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(names)]
    path.write_text("\n".join(["a: &a [x, x]", *lists]))
    with pytest.raises(ConfigError, match=r"bomb\.yml: is not YAML: it has more than 10000 values or 32 levels"):
        read_yaml(path)
    merges = [f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in pairwise(names)]
    path.write_text("\n".join(["a: &a {p: 1, q: 2}", *merges]))
    with suppress(ConfigError):  # newer versions of PyYAML merge each key once
        assert read_yaml(path)["i"] == {"p": 1, "q": 2}
    path.write_text("a: &a x\nb: [" + "*a, " * 101 + "]")
    with pytest.raises(ConfigError, match="more than 100 aliases"):
        read_yaml(path)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused_long_before_the_limit_of_recursion(tmp_path: Path, opening: str) -> None:
    path = tmp_path / "deep.yml"
    path.write_text("a: " + opening * 5000)
    with pytest.raises(ConfigError, match=r"deep\.yml: is not YAML: it has more than 32 levels"):
        read_yaml(path)


def test_key_given_twice_is_refused_and_a_merged_one_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("search:\n  epochs: 1\n  seed: 0\n  epochs: 2\n")
    with pytest.raises(ConfigError, match="key 'epochs' is given twice in the mapping that begins in line 2"):
        read_yaml(path)
    path.write_text("a: &a {p: 1, q: 2}\nb: {<<: *a, q: 3}\n")
    assert read_yaml(path)["b"] == {"p": 1, "q": 3}
    path.write_text("a: &a {p: 1}\nb: &b {<<: *a, p: 2}\nc: {<<: *b, p: 3}\n")
    assert read_yaml(path)["c"] == {"p": 3}
    path = tmp_path / "best.json"
    path.write_text(json.dumps(BEST).replace('"seed": 0', '"seed": 0, "seed": 1'))
    with pytest.raises(FileError, match=r"best\.json: is no JSON \(key 'seed' is given twice in one object\)"):
        load_best(path)


def test_yaml_tag_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(f"a: !!python/object/apply:os.system ['touch {tmp_path}/hacked']")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        read_yaml(path)
    assert not (tmp_path / "hacked").exists()


def test_large_files_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("a: " + yaml.safe_dump(list(range(20_000))))
    with pytest.raises(ConfigError, match="more than 32768 bytes"):
        read_yaml(path)
    path = tmp_path / "best.json"
    path.write_text("[" + "[]," * 500_001 + "[]]")
    with pytest.raises(FileError, match="1000000 values"):
        load_best(path)
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(FileError, match="expected at most"):
        load_best(path)


def test_pickle_and_zip_bomb_are_not_loaded_as_weights(tmp_path: Path) -> None:
    HACKED.unlink(missing_ok=True)
    path = tmp_path / "weights.pt"
    for write in (lambda: path.write_bytes(pickle.dumps(Bomb())), lambda: torch.save({"a": Bomb()}, path)):
        write()
        with pytest.raises(FileError, match=r"weights\.pt"):
            load_weights(nn.Linear(2, 2), path)
    assert not HACKED.exists()
    stream = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), stream)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", b"\x00" * 10_000_000)
    path.write_bytes(stream.getvalue())
    with pytest.raises(FileError, match="unpacks to more bytes than it has"):
        load_weights(nn.Linear(2, 2), path)


@pytest.mark.parametrize("legacy", [True, False])
def test_long_name_of_a_class_is_refused_before_torch_searches_its_message(tmp_path: Path, legacy: bool) -> None:
    path, stream = tmp_path / "weights.pt", io.BytesIO()
    torch.save({"a": Bomb()}, stream, _use_new_zipfile_serialization=not legacy)
    long = b"cposix\nsystem" + b"m" * 1_000_000
    if legacy:
        path.write_bytes(stream.getvalue().replace(b"cposix\nsystem", long))
    else:
        with zipfile.ZipFile(stream) as before, zipfile.ZipFile(path, "w") as after:
            for name in before.namelist():
                after.writestr(name, before.read(name).replace(b"cposix\nsystem", long))
    with pytest.raises(FileError, match="the name of a class in it has 10000"):
        load_weights(nn.Linear(2, 2), path)
