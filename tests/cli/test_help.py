"""Help, examples and completion of every command."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nni_cream
from nni_cream import cli
from nni_cream.cli import main

ROOT = Path(__file__).parents[2]


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from walk(command)


PARSERS = {parser.prog: parser for parser in walk(cli._parser())}
COMMANDS = {name: parser for name, parser in PARSERS.items() if name != "nni-cream"}


def example_lines(parser: argparse.ArgumentParser) -> list[str]:
    head, *lines = (parser.epilog or "").splitlines()
    assert head in ("example:", "examples:")
    return [line.strip() for line in lines]


@pytest.mark.parametrize("name", PARSERS)
def test_command_and_each_of_its_arguments_are_explained(name: str) -> None:
    parser = PARSERS[name]
    assert parser.description
    assert parser.description.endswith(".")
    for action in parser._actions:
        described = action.help or (isinstance(action, argparse._SubParsersAction) and action.choices)
        assert described, f"{name} {action.dest}"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_a_command_are_understood_by_it(name: str) -> None:
    lines = example_lines(COMMANDS[name])
    assert lines
    for line in lines:
        line = line.removeprefix('eval "$(').removesuffix(')"')
        assert line.startswith(name)
        for single in line.split(" && "):
            program, *words = shlex.split(single)
            assert program == "nni-cream"
            cli._parser().parse_args(words)  # ends with SystemExit if it does not understand


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"nni-cream {nni_cream.__version__}\n"


@pytest.mark.parametrize(
    "words", [["--help"], ["init", "--help"], ["doctor", "--help"], ["examples", "list"], ["completion", "bash"]]
)
def test_first_commands_of_a_user_need_no_torch_and_no_nni(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from nni_cream.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(*sorted({'torch', 'nni', 'numpy', 'rich'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the completion of bash."""
    path = tmp_path_factory.mktemp("completion") / "nni-cream.bash"
    code = "import sys; from nni_cream.cli import main; sys.exit(main(['completion', 'bash']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    path.write_text(done.stdout)
    return path


def completed(script: Path, folder: Path, *words: str) -> list[str]:
    """Let a real bash complete the last word."""
    lines = (
        f"source {shlex.quote(str(script))}",
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}",
        "function=$(complete -p nni-cream | sed 's/.*-F \\([^ ]*\\).*/\\1/')",
        f'"$function" nni-cream {shlex.join([words[-1], words[-2]])}',
        'printf "%s\\n" "${COMPREPLY[@]}"',
    )
    command = ["bash", "--norc", "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_script_is_valid_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_bash_completes_commands_options_and_names_of_examples(script: Path, tmp_path: Path) -> None:
    assert completed(script, tmp_path, "nni-cream", "ret") == ["retrain"]
    assert completed(script, tmp_path, "nni-cream", "study", "imp") == ["import-truth"]
    assert completed(script, tmp_path, "nni-cream", "search", "--dr") == ["--dry-run"]
    assert completed(script, tmp_path, "nni-cream", "examples", "copy", "search_m") == ["search_mixed"]


def test_bash_completes_files_and_folders(script: Path, tmp_path: Path) -> None:
    (tmp_path / "search.yml").touch()
    (tmp_path / "season").mkdir()
    assert sorted(completed(script, tmp_path, "nni-cream", "search", "sea")) == ["search.yml", "season"]
    assert completed(script, tmp_path, "nni-cream", "search", "search.yml", "--out", "sea") == ["season"]
    assert completed(script, tmp_path, "nni-cream", "search", "search.yml", "--images", "sea") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_with_all_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name.split()[-1] in text


def test_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["completion", "tcsh"])
    assert leaving.value.code == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err


def test_completion_without_shtab_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "Run `pip install shtab`" in capsys.readouterr().err
