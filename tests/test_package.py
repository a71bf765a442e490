"""The package as a user meets it: what is installed, what imports what, and that the documents tell the truth."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

import nni_cream
from nni_cream import CreamStrategy, cli, data, spaces
from nni_cream.search import LatencySettings, LatencyTable, MetaMatcher
from nni_cream.training import make_loader
from tests.results.saved import BEST, save

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^(`{3,})(\w+)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\bnni-cream (--?\w+|(?:data|detect|examples|study) [a-z-]+|[a-z]+)")
OPTION = re.compile(r"(?<=\s)--[a-z][a-z-]*")


def blocks(document: Path, language: str) -> list[str]:
    return [code for _, found, code in FENCE.findall(document.read_text(encoding="utf-8")) if found == language]


def shell_lines() -> list[str]:
    text = "\n".join(code for document in DOCUMENTS for code in blocks(document, "bash"))
    return [line.strip() for line in text.replace("\\\n", " ").splitlines()]


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        cli.main([*arguments, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def test_one_version_stands_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert nni_cream.__version__ == version("nni_cream") == released[0] == citation()["version"]


def citation() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return content


def test_citation_has_what_its_format_requires() -> None:
    # https://github.com/citation-file-format/citation-file-format/blob/main/schema-guide.md, version 1.2.0
    content, paper = citation(), citation()["preferred-citation"]
    assert content["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(content)
    assert content["type"] == "software"
    assert content["license"] == "MIT"
    assert {"type", "title", "authors", "year"} <= set(paper)
    for author in [*content["authors"], *paper["authors"]]:
        assert set(author) in ({"name"}, {"given-names", "family-names"})
    known = {
        "abstract", "authors", "cff-version", "keywords", "license", "message", "preferred-citation", "title", "type",
        "version",
    }  # fmt: skip
    assert set(content) <= known  # the format allows no others


def test_citation_and_readme_name_the_same_paper() -> None:
    (entry,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    bibtex = dict(re.findall(r"(\w+)\s*= \{(.*?)\},?\n", entry))
    paper = citation()["preferred-citation"]
    assert bibtex["title"] == paper["title"]
    assert bibtex["author"] == " and ".join(f"{who['family-names']}, {who['given-names']}" for who in paper["authors"])
    assert (bibtex["booktitle"], bibtex["volume"], bibtex["year"]) == (
        paper["collection-title"],
        str(paper["volume"]),
        str(paper["year"]),
    )


def test_public_names_can_be_imported_and_stand_in_the_api_reference() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in nni_cream.__all__:
        value = getattr(nni_cream, name)
        if not name.startswith("__"):
            assert name in reference or f"automodule:: {value.__module__}\n" in reference, name


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'CreemStrategy'"):
        nni_cream.CreemStrategy  # noqa: B018


def test_import_contracts_hold() -> None:
    # In a process of its own: it switches off every logger that there is.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "8 kept, 0 broken" in done.stdout


def test_command_line_and_configuration_can_be_imported_without_torch_and_nni() -> None:
    code = (
        "import sys, nni_cream.cli, nni_cream.config\n"
        "print(*sorted({'torch', 'nni', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_console_script_is_the_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="nni-cream")
    assert script.load() is cli.main


@pytest.mark.integration
def test_wheel_holds_every_module_and_the_type_marker(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "nni_cream", source / "nni_cream", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheel", "."]
    subprocess.run(command, cwd=source, check=True)
    (wheel,) = (source / "wheel").glob("nni_cream-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("nni_cream/")}
    written = {str(path.relative_to(source)) for path in (source / "nni_cream").rglob("*") if path.is_file()}
    assert packed == written
    assert "nni_cream/py.typed" in packed


def test_readme_gives_the_two_commands_first() -> None:
    run, test = blocks(ROOT / "README.md", "bash")[:2]
    assert run.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e . && "
        ".venv/bin/nni-cream run experiments/cream_experiment.yml --out out/digits"
    )
    assert test.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install --no-compile -e '.[test]' && .venv/bin/python -m pytest"
    )


def test_ci_runs_the_very_test_command_of_the_readme() -> None:
    test = blocks(ROOT / "README.md", "bash")[1].strip()
    assert test in [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]


def test_documented_commands_and_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in shell_lines() if COMMAND.search(line)]
    assert lines
    for line in lines:
        command = COMMAND.search(line)
        assert command is not None
        name = command.group(1)
        text = help_of(capsys) if name.startswith("-") else help_of(capsys, *name.split())
        for option in OPTION.findall(line[command.end() :]):
            assert re.search(rf"{option}\b", text), f"{option} of {line!r}"


def test_documented_files_are_there() -> None:
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    files = set(re.findall(r"\b(?:experiments|docs|tests)/[\w/.-]+\.\w+", text))
    assert files
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []


def read_along(document: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Type in all Python of a document, from top to bottom."""
    # A real module, since NNI looks up where a traced class comes from.
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    for code in blocks(document, "python"):
        code = re.sub(r"\bmax_epochs=\d+", "max_epochs=3", code)  # enough to see that it works
        exec(compile(code, "documented", "exec"), module.__dict__)
    return module


@pytest.mark.integration
@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_search_of_the_document_ends_with_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    documented = read_along(ROOT / name, monkeypatch)
    network = documented.network.eval()
    logits = network(torch.zeros(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    assert documented.strategy.board.best.path in [entry.path for entry in documented.strategy.board.entries]


@pytest.mark.integration
def test_space_data_evaluator_and_cost_of_the_extension_page_search_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = read_along(ROOT / "docs" / "extend.md", monkeypatch)
    splits = data.create("documented:load_squares", seed=1)
    evaluator = Lightning(
        own.MyModule(),
        Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False),
        train_dataloaders=make_loader(splits.train, batch_size=50, shuffle=True),
        val_dataloaders=make_loader(splits.validation, batch_size=100),
    )
    strategy = CreamStrategy(
        board_size=3,
        warmup=1,
        distillation=own.softened,
        cost=own.layers,
        listeners=[own.tell],
        matching=MetaMatcher(interval=5),
    )
    space = spaces.create("documented:SmallSpace", channels=4, depth=2, num_classes=2)
    strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    assert [len(entry.path) for entry in strategy.board.entries] == [2, 2, 2]
    assert all(entry.cost > 0 for entry in strategy.board.entries)


def test_cost_page_makes_a_strategy_and_a_table_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "cost.md"
    documented = read_along(page, monkeypatch)
    assert documented.strategy._settings.cost_range == ((None, None), (None, 0.02))
    table = LatencyTable.from_json(json.loads(blocks(page, "json")[0]))
    settings = yaml.safe_load(blocks(page, "yaml")[2])["latency"]
    assert LatencySettings(device=settings["device"], table=table).table == table


def test_networks_of_the_export_page_are_loaded_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(BEST, Path("out/search/best.json"), Path("out/search/weights.pt"))
    weights = torch.load("out/search/weights.pt", weights_only=True)
    documented = types.SimpleNamespace()
    loaded, exported = blocks(ROOT / "docs" / "export.md", "python")
    exec(compile(loaded, "documented", "exec"), vars(documented))
    assert documented.best == BEST
    assert not documented.network.training
    torch.testing.assert_close(documented.network.state_dict(), weights, rtol=0, atol=0)
    exec(compile(exported, "documented", "exec"), vars(documented))
    assert documented.differences == {"code": 0.0}
    own = runpy.run_path("my_export/network.py")["load"]()
    torch.testing.assert_close(own(documented.images), documented.network(documented.images), rtol=0, atol=0)


def test_spaces_page_says_what_the_code_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = read_along(ROOT / "docs" / "spaces.md", monkeypatch)
    assert capsys.readouterr().out.startswith("64\n")
    assert documented.network.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 100)
    text = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    for name in spaces.list_networks():
        network = spaces.published(name)
        assert f"| `{name}` | {network.image_size} | {network.macs:,} | {network.params:,} | {network.flops}M |" in text
        assert f"| {100 * network.top1:.1f} / {100 * network.top5:.1f} |" in text


def test_every_document_with_python_is_run_by_a_test() -> None:
    run = {"README", "quickstart", "extend", "cost", "export", "spaces"}
    assert {document.stem for document in DOCUMENTS if blocks(document, "python")} == run
