"""Experiment files without a clone: listed, copied, and packed into what users install."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from nni_cream.cli import main
from nni_cream.config import TRUTH, read_yaml
from nni_cream.errors import ConfigError, FileError
from nni_cream.starter.examples import Example, copy_example, find_example, list_examples

ROOT = Path(__file__).parents[2]
FILES = {path.name for path in (ROOT / "experiments").iterdir() if path.is_file()}


def test_every_configuration_and_script_is_an_example_with_a_summary() -> None:
    examples = list_examples()
    assert {example.path.name for example in examples} == {name for name in FILES if not name.endswith(".json")}
    assert len({example.name for example in examples}) == len(examples)
    for example in examples:
        assert 20 < len(example.summary) < 220, example.name
        assert not set(example.summary) & set('#\n"'), example.name


def test_summary_is_the_first_sentence_of_the_head() -> None:
    assert find_example("search_digits").summary == (
        "Search on the digits that ship with scikit-learn, in this process: a minute or two on a laptop"
    )
    assert find_example("ablation_fashion").summary == "Which part of the method earns its cost?"
    assert find_example("search_digits.py").summary.startswith("Search a space of your own from Python")


def test_list_prints_names_and_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list_examples())
    assert any(line.split(maxsplit=1)[0] == "cream_experiment" for line in lines)
    assert main(["examples", "list", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {"name": "search_digits.py", "summary": find_example("search_digits.py").summary} in content["examples"]


def test_copy_lies_next_to_the_user_and_its_command_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "copy", "search_digits"]) == 0
    assert capsys.readouterr().out == "copied: search_digits.yml\n"
    text = Path("search_digits.yml").read_text()
    assert "nni-cream search search_digits.yml --out out/digits" in text
    assert read_yaml("search_digits.yml") == read_yaml(str(ROOT / "experiments" / "search_digits.yml"))


def test_name_may_have_its_ending(tmp_path: Path) -> None:
    assert find_example("search_digits.yml").path.name == "search_digits.yml"
    assert copy_example(find_example("search_digits.py"), str(tmp_path)) == [tmp_path / "search_digits.py"]


def test_files_that_an_example_names_are_copied_along_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert main(["examples", "copy", "truth_fashion", "--out", "mine/truth.yml", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == ["mine/truth.yml", "mine/fashion_architectures.json"]
    named = TRUTH.load("mine/truth.yml")["study"]["architectures"]
    assert Path(named).read_bytes() == (ROOT / "experiments" / "fashion_architectures.json").read_bytes()


def test_no_example_names_a_file_of_the_folder_that_a_copy_lacks(tmp_path: Path) -> None:
    for example in list_examples():
        folder = tmp_path / example.name
        folder.mkdir()
        copied = {path.name for path in copy_example(example, str(folder))}
        code = [line.partition("#")[0] for line in example.text.splitlines()]
        assert {name for name in FILES if any(f"experiments/{name}" in line for line in code)} <= copied | {
            "search_digits.py"  # names itself in its docstring
        }


def test_file_in_the_way_is_kept_and_nothing_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "fashion_architectures.json"
    mine.write_text("mine")
    assert main(["examples", "copy", "truth_fashion"]) == 1
    assert "fashion_architectures.json: is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["fashion_architectures.json"]
    assert mine.read_text() == "mine"
    assert main(["examples", "copy", "truth_fashion", "--force"]) == 0
    assert mine.read_text() != "mine"
    assert main(["examples", "copy", "truth_fashion"]) == 1
    assert "truth_fashion.yml: is there already" in capsys.readouterr().err


def test_link_that_leads_nowhere_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "search_digits.yml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match="is there already"):
        copy_example(find_example("search_digits"), str(tmp_path))


def test_part_with_the_same_content_is_not_in_the_way(tmp_path: Path) -> None:
    first = copy_example(find_example("truth_fashion"), str(tmp_path / "first.yml"))
    second = copy_example(find_example("truth_fashion"), str(tmp_path / "second.yml"))
    assert first[1] == second[1]


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="its folder does not exist"):
        copy_example(find_example("search_digits"), str(tmp_path / "none" / "search.yml"))


def test_unknown_name_gives_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"the example is 'serch_digits'; .* Did you mean 'search_digits'\?"):
        find_example("serch_digits")
    assert main(["examples", "copy", "no-such-thing-at-all"]) == 2
    assert "expected one of `nni-cream examples list`" in capsys.readouterr().err


def test_package_without_examples_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no examples"):
        list_examples(tmp_path)


def test_evidence_of_the_repository_is_named_as_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "copy", "rank_fashion", "--out", str(tmp_path)]) == 0
    assert "not copied: docs/evidence/truth/truth_fashion.json" in capsys.readouterr().out


def test_example_names_itself_by_the_place_of_its_copy(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_text("# Mine.\n#   nni-cream search experiments/own.yml, then experiments/other.yml\nspace: digits\n")
    assert "search my/new.yml, then experiments/other.yml" in Example(path).copied_to("my/new.yml")


@pytest.mark.integration
def test_wheel_and_source_archive_hold_all_examples_as_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / name, source)
    for name in ("nni_cream", "experiments"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = ("import sys, setuptools.build_meta as backend\n"
             "backend.build_sdist('.')\nbackend.build_wheel('.')")  # fmt: skip
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("nni_cream-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if "/examples/" in name}
    assert packed == {f"nni_cream/examples/{name}" for name in FILES}
    (archive,) = source.glob("nni_cream-*.tar.gz")
    with tarfile.open(archive) as members:
        files = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert {f"nni_cream/examples/{name}" for name in FILES} <= files
    assert "CITATION.cff" in files
