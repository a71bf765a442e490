from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nni_cream import __version__
from nni_cream.cli import main
from nni_cream.manager import processes
from tests.forked import Forked
from tests.manager.experiments import CheckInThisProcess
from tests.patience import PATIENCE

TINY_SPACE = {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]}
TINY = {
    "space": TINY_SPACE,
    "data": {"name": "digits", "train": 200, "validation": 100},
    "search": {"epochs": 2, "board_size": 4, "warmup": 0, "batch_size": 50},
    "trainer": {"accelerator": "cpu", "threads": 1},
}
EXPERIMENT = {
    "trialCommand": "python -m nni_cream.manager.trial",
    "trialConcurrency": 1,
    "searchSpace": {"seed": {"_type": "choice", "_value": [0]}},
    "tuner": {"className": "nni_cream.manager.tuner.CreamTuner", "codeDirectory": ".", "classArgs": TINY},
    "trainingService": {"platform": "local"},
}


def changed(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a copy with some keys changed; a double underscore stands for a dot."""
    copy: dict[str, Any] = json.loads(json.dumps(content))
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = copy
        for parent in parents:
            place = place[parent]
        place[last] = value
    return copy


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def run_program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nni_cream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, **options)


def files_below(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    assert main(["search", write(folder / "tiny.yml", TINY), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_help_shows_an_example_of_each_command_and_imports_neither_torch_nor_nni() -> None:
    code = (
        "import sys; from nni_cream.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print('HEAVY', [name for name in ('torch', 'nni', 'pytorch_lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "HEAVY []" in done.stdout
    for command in ("search", "board", "export", "report", "run", "resume", "status", "stop", "detect", "data"):
        assert f"  nni-cream {command} " in done.stdout


@pytest.mark.parametrize(
    "command",
    ["search", "board", "export", "report", "plot", "run", "resume", "status", "stop", "detect", "data"],
)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"nni-cream {command}" in capsys.readouterr().out


def test_dry_run_writes_nothing_and_says_what_a_search_would_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "tiny.yml", TINY)
    assert main(["search", file, "--dry-run", "--images", "20"]) == 0
    shown = capsys.readouterr().out
    for words in ("memory: activations", "time of an epoch", "final validation", "20 images at once instead of 50"):
        assert words in shown
    assert main(["search", file, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()))
    assert found["epochs"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yml"]


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"nni-cream {__version__}\n"


def test_wrong_use_in_a_process_of_its_own_says_one_thing_and_exits_with_2(tmp_path: Path) -> None:
    done = run_program("search", "missing.yml", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nni-cream: error: missing.yml: there is no such file; expected a YAML file.\n"
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serach"],
        ["search"],
        ["search", "x.yml"],
        ["search", "x.yml", "--out", "out", "--images", "4"],
        ["search", "x.yml", "--dry-run", "--images", "few"],
        ["run", "x.yml", "--port", "http"],
        ["run", "x.yml", "--port", "80"],
        ["run", "x.yml", "--port", "70000"],
        ["export", ".", "--weights"],
    ],
)
def test_wrong_words_on_the_command_line_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: nni-cream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "code", "problems"),
    [
        ("space: [", 2, ["is not YAML"]),
        ("- 1", 2, ["expected a mapping"]),
        ("space: digits\nwhen: 2020-13-45", 2, ["search.yml: is not YAML", "month must be in 1..12"]),
        ("[" * 5000, 2, ["search.yml: is not YAML"]),
        ("seed: " + "1" * 5000, 2, ["search.yml: is not YAML"]),
        (changed(TINY, search__epocs=3), 2, ["search.epocs is no key of this file; expected search.epochs"]),
        (changed(TINY, search__epochs="many"), 2, ["search.epochs is 'many'; expected a whole number"]),
        (
            changed(TINY, search__epochs=0, search__margin=-1, data=3, treiner={}),
            2,
            ["4 problems", "search.epochs is 0", "search.margin is -1", "data is 3", "expected trainer"],
        ),
        (changed(TINY, search__board_size=0), 2, ["search.board_size is 0; expected a whole number of at least 1"]),
        (changed(TINY, search__board_size=12), 2, ["board_size is 12", "expected at most 9, the number of paths"]),
        (changed(TINY, search__cost_range=[0, 1]), 2, ["cost"]),
        (changed(TINY, search__cost="nowhere:cost"), 2, ["search.cost is 'nowhere:cost'; expected package.module:na"]),
        (changed(TINY, search__cost="json:decoder"), 2, ["search.cost", "expected a function"]),
        (changed(TINY, search__nesterov=True, search__momentum=0), 2, ["nesterov"]),
        (changed(TINY, space="digit"), 2, ["the space is 'digit'; expected one of", "digits, fashion"]),
        (changed(TINY, space="nowhere:Space"), 2, ["'nowhere:Space' cannot be imported"]),
        (changed(TINY, space="json:JSONDecoder"), 2, ["expected a subclass of nni.nas.nn.pytorch.ModelSpace"]),
        (changed(TINY, space="spaces_of_a_user:Fixed"), 2, ["nothing to search"]),
        (changed(TINY, data="digit"), 2, ["the data set is 'digit'; expected one of", "digits, fashion"]),
        (changed(TINY, data={"name": "digits", "sed": 1}), 2, ["'seed'"]),
        (changed(TINY, data={"name": "digits", "seed": "x"}), 2, ["seed is 'x'; expected a whole number"]),
        (changed(TINY, data={"name": "digits", "train": 5000}), 2, ["are 5360 images together; expected"]),
        (changed(TINY, data={"name": "fashion", "root": "/nowhere/images"}), 1, ["/nowhere/images"]),
        (changed(TINY, space={**TINY_SPACE, "num_classes": 3}), 2, ["space.num_classes is 3; expected 10"]),
        (changed(TINY, trainer__accelerator="tpu"), 2, ["expected settings that Lightning accepts"]),
        (changed(TINY, trainer__devices=[7]), 2, ["expected settings that Lightning accepts"]),
        (changed(TINY, search__warmup=2), 2, ["search.warmup is 2 epochs; expected fewer than search.epochs (2)"]),
        (
            changed(TINY, search__teaching={"start": 2}),
            2,
            ["search.teaching.start is 2 epochs; expected fewer than search.epochs (2)"],
        ),
        (changed(TINY, search__ema_decay=None), 2, ["weights is average; expected search.ema_decay"]),
        (
            changed(TINY, search__distillation="mean_squared_error", search__teaching={"temperature": 2}),
            2,
            ["search.teaching.temperature is 2.0; expected 1.0"],
        ),
        (changed(TINY, search__match_input="logits"), 2, ["search.match_input is no longer a key; expected none"]),
    ],
)  # fmt: skip
def test_bad_configuration_is_explained_in_one_message_and_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: Any,
    code: int,
    problems: list[str],
) -> None:
    write(tmp_path / "spaces_of_a_user.py", "from nni.nas.nn.pytorch import ModelSpace\nclass Fixed(ModelSpace): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "search.yml", content)
    assert main(["search", "search.yml", "--out", "out"]) == code
    printed = capsys.readouterr()
    for problem in problems:
        assert problem in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert files_below(tmp_path / "out") == {}


def test_user_space_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from nni_cream.spaces import DigitsSpace\n"
        "class Mine(DigitsSpace):\n"
        "    def __init__(self):\n"
        "        super().__init__(channels=(8, 8), operations=('conv_3x3', 'identity'))\n"
    )
    write(tmp_path / "space_of_mine.py", text)
    write(tmp_path / "search.yml", changed(TINY, space="space_of_mine:Mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["search", "search.yml", "--out", "out"]) == 0
    assert json.loads((tmp_path / "out" / "best.json").read_text())["space"]["name"] == "space_of_mine:Mine"


def test_debug_shows_where_an_error_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "board", str(tmp_path)], ["board", str(tmp_path), "--debug"]):
        assert main(arguments) == 1
        assert "Traceback" in capsys.readouterr().err


def test_unforeseen_error_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("nni_cream.results.board_file.load_board", fail)
    assert main(["board", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "nni-cream: error: unexpected ZeroDivisionError: division by zero (--debug shows where)\n"
    )


def test_search_leaves_all_its_files_and_a_table(searched: Path) -> None:
    front = sorted(name for name in files_below(searched) if name.startswith("pareto/"))
    names = [f"pareto/{number:02d}" for number in range(1, len(front) // 2 + 1)]
    assert front == [name + suffix for name in names for suffix in (".json", ".pt")]
    assert set(files_below(searched)) - set(front) == {
        "best.json", "board.json", "config.yml", "earlier.ckpt", "history.jsonl", "last.ckpt", "metrics.jsonl",
        "weights.pt",
    }  # fmt: skip
    metrics = [json.loads(line) for line in (searched / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert {"train_loss", "val_acc", "board_best", "board_worst", "board_mean", "board_cost_mean", "admitted"} <= set(
        metrics[-1]
    )
    board = json.loads((searched / "board.json").read_text())["entries"]
    best = json.loads((searched / "best.json").read_text())
    assert best["choices"] == board[0]["path"]
    assert (best["accuracy"], best["score"]) == (board[0]["validated"], board[0]["accuracy"])
    assert max(entry["accuracy"] for entry in board) == metrics[-1]["board_best"]


def test_report_and_pictures_of_a_search_say_what_its_files_say(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(searched), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    best = json.loads((searched / "best.json").read_text())
    assert f"{100 * best['accuracy']:.2f} %" in page
    assert f"{best['cost']:,.0f}" in page
    for label, operation in best["choices"].items():
        assert f"<title>{label}: {operation}</title>" in page
    capsys.readouterr()
    assert main(["plot", str(searched), "--out", str(tmp_path / "plots"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(name).stem for name in printed["files"]] == ["progress", "cost", "choices", "architecture"]
    assert all(Path(name).stat().st_size > 2000 for name in printed["files"])
    assert list(printed["missing"]) == ["retraining"]


def test_finished_search_is_not_overwritten(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_below(searched)
    assert main(["search", str(searched.parent / "tiny.yml"), "--out", str(searched)]) == 1
    assert "holds a result already" in capsys.readouterr().err
    assert files_below(searched) == before


def test_bad_configuration_with_force_does_not_touch_the_result(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(searched)
    for content in (changed(TINY, search__board_size=12), changed(TINY, search__cost_range=[0, 1])):
        assert main(["search", write(tmp_path / "bad.yml", content), "--out", str(searched), "--force"]) == 2
        assert files_below(searched) == before
    assert "Traceback" not in capsys.readouterr().err


def test_resume_of_a_finished_search_gives_its_result(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_below(searched)
    arguments = ["search", str(searched.parent / "tiny.yml"), "--out", str(searched), "--resume", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["best"] == json.loads(before["best.json"])["choices"]
    assert files_below(searched) == before


def test_resume_with_another_configuration_is_refused(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "other.yml", changed(TINY, search__epochs=3))
    assert main(["search", path, "--out", str(searched), "--resume"]) == 2
    assert "other values of search.epochs" in capsys.readouterr().err


def test_search_in_a_folder_of_somebody_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "thesis.txt", "years of work")
    path = write(tmp_path / "tiny.yml", TINY)
    assert main(["search", path, "--out", str(tmp_path), "--force"]) == 1
    assert "files that nni_cream did not write" in capsys.readouterr().err


def test_loss_that_is_not_finite_stops_the_search_and_says_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "wild.yml", changed(TINY, search__learning_rate=1e30, search__warmup_fraction=0.0))
    assert main(["search", path, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "step" in error
    assert "finite" in error or "nan" in error or "inf" in error
    assert not (tmp_path / "out" / "best.json").exists()


def test_search_prints_one_line_of_json_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["search", write(tmp_path / "tiny.yml", TINY), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    best = json.loads((out / "best.json").read_text())
    assert (result["best"], result["cost"], result["one_shot_accuracy"], result["out"]) == (
        best["choices"],
        best["cost"],
        best["accuracy"],
        str(out),
    )
    assert "epoch 2/2: board 4/4, best" in printed.err


def test_board_is_shown_as_a_table_and_as_json(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", str(searched)]) == 0
    table = capsys.readouterr().out
    assert main(["board", str(searched), "--json"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert board["entries"] == json.loads((searched / "board.json").read_text())["entries"]
    for title in ("rank", "path", "validated", "score", "multiply-adds", "admitted at step"):
        assert title in table
    for entry in board["entries"]:
        assert " ".join(entry["path"].values()) in table
        assert f"{entry['accuracy']:.4f}" in table
    assert main(["board", str(searched), "--choices"]) == 0
    table = capsys.readouterr().out
    assert main(["board", str(searched), "--choices", "--json"]) == 0
    effects = json.loads(capsys.readouterr().out)["effects"]
    for label, own in effects.items():
        assert label in table
        known = [item for item in own if item["gain"] is not None]  # a path had it
        assert sum(item["gain"] for item in known) == pytest.approx(0.0)
        assert all(f"{item['value']} {item['gain']:+.3f}" in table for item in known)


@pytest.mark.parametrize(
    ("command", "name"), [("board", "board.json"), ("export", "best.json")], ids=["board", "export"]
)
@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "[" * 100_000, '{"format": "other"}', '{"format": "nni_cream.board/9"}', '{"format": NaN}'],
    ids=lambda content: str(content)[:30],
)
def test_broken_or_foreign_file_is_refused_with_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, content: str | None
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    assert main([command, str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert str(tmp_path / name) in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_export_prints_or_writes_the_architecture(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = json.loads((searched / "best.json").read_text())
    assert main(["export", str(searched)]) == 0
    assert json.loads(capsys.readouterr().out) == best
    out = tmp_path / "digits.json"
    assert main(["export", str(searched), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == best


@pytest.mark.integration
def test_exported_network_has_the_accuracy_that_the_board_promised(tmp_path: Path) -> None:
    import torch

    from nni_cream import data
    from nni_cream.results.architecture_file import load_best
    from nni_cream.results.rebuilt_network import build_network
    from nni_cream.training import evaluate

    path = write(tmp_path / "longer.yml", changed(TINY, search__epochs=20, search__batch_size=20))
    assert main(["search", path, "--out", str(tmp_path / "out")]) == 0
    assert main(["export", str(tmp_path / "out"), "--weights", "--out", str(tmp_path / "digits.json")]) == 0
    best = load_best(tmp_path / "digits.json")
    network = build_network(best)
    network.load_state_dict(torch.load(tmp_path / "digits.pt", weights_only=True))
    splits = data.create(best.data["name"], **best.data["arguments"])
    assert best.accuracy > 0.5
    assert evaluate(network, splits.validation) == pytest.approx(best.accuracy, abs=0.1)


def test_export_does_not_overwrite_without_force(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "digits.json"
    write(tmp_path / "digits.pt", "mine")
    assert main(["export", str(searched), "--weights", "--out", str(out)]) == 1
    assert "digits.pt: is there already" in capsys.readouterr().err
    assert files_below(tmp_path) == {"digits.pt": b"mine"}
    assert main(["export", str(searched), "--weights", "--out", str(out), "--force"]) == 0
    assert (tmp_path / "digits.pt").read_bytes() != b"mine"


def test_export_whose_two_files_would_be_one_is_refused(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(searched), "--weights", "--out", str(tmp_path / "digits.pt")])
    assert caught.value.code == 2
    assert "expected a name such as chosen.json, since the weights are a .pt file" in capsys.readouterr().err
    assert files_below(tmp_path) == {}


def test_place_that_cannot_be_written_to_is_refused(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    config = str(searched.parent / "tiny.yml")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300), Path("/proc/nothing")):
        assert main(["search", config, "--out", str(out)]) == 1
        assert main(["export", str(searched), "--out", str(out / "best.json"), "--force"]) == 1
        printed = capsys.readouterr()
        assert printed.err.count(str(out)) >= 2
        assert "unexpected" not in printed.err
    assert files_below(tmp_path) == {"file": b"mine"}


def test_search_whose_checkpoint_is_broken_is_not_resumed(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(searched, out)
    (out / "best.json").unlink()
    (out / "earlier.ckpt").unlink()
    for content in (b"", b"no checkpoint", (out / "last.ckpt").read_bytes()[:5000]):
        (out / "last.ckpt").write_bytes(content)
        before = files_below(out)
        assert main(["search", str(searched.parent / "tiny.yml"), "--out", str(out), "--resume"]) == 1
        assert "last.ckpt: is broken" in capsys.readouterr().err
        assert files_below(out) == before


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("tuner: [", ["is not YAML"]),
        (changed(EXPERIMENT, trialCommand=""), ["trialCommand is ''; expected a command"]),
        (changed(EXPERIMENT, trainingService="local"), ["trainingService is 'local'; expected a mapping"]),
        (changed(EXPERIMENT, tuner=3), ["tuner is 3; expected a mapping"]),
        (changed(EXPERIMENT, searchSpace={}), ["searchSpace is {}; expected at least one key"]),
        (
            changed(EXPERIMENT, searchSpace={"epochs": {"_type": "choice", "_value": [1, 2]}}),
            ["searchSpace.epochs is set in tuner.classArgs.search.epochs, too"],
        ),
        (
            changed(EXPERIMENT, searchSpace={"matching": {"_type": "choice", "_value": ["meta", "meta"]}}),
            ["searchSpace.matching._value[1] is 'meta'; expected a value that is not in the list already"],
        ),
        (
            changed(EXPERIMENT, tuner__classArgs__retrain={"top": 5}),
            ["tuner.classArgs.retrain.top is 5; expected at most 4"],
        ),
        (changed(EXPERIMENT, tuner__classArgs__search__cost_range=[1, 2]), ["where this space has paths"]),
        (changed(EXPERIMENT, tuner__classArgs__retrain={"momentum": 0}), ["nesterov"]),
        (
            changed(EXPERIMENT, tuner__classArgs__trainer={"accelerator": "tpu"}),
            ["expected settings that Lightning accepts"],
        ),
        (
            changed(EXPERIMENT, searchSpace={"margin": {"_type": "choice", "_value": [0, 2]}}),
            ["searchSpace.margin._value[1] is 2; expected a number"],
        ),
        (
            changed(
                EXPERIMENT,
                searchSpace={"board_size": {"_type": "choice", "_value": [3, 1000]}},
                tuner__classArgs__search={"epochs": 2},
            ),
            ["board_size is 1000", "expected at most 9, the number of paths"],
        ),
        (changed(EXPERIMENT, trialComand="x"), ["trialComand is no key of this file; expected trialCommand"]),
        (changed(EXPERIMENT, tuner={"name": "TPE"}), ["tuner.className is 'TPE'; expected nni_cream.manager.tuner"]),
        (changed(EXPERIMENT, trainingService={"platform": "moon"}), ["an experiment that NNI does not accept"]),
        (changed(EXPERIMENT, trialConcurrency=0), ["an experiment that NNI does not accept", "trial_concurrency > 0"]),
        (
            changed(
                EXPERIMENT, tuner__classArgs__search__epochs=0, searchSpace__sed={"_type": "choice", "_value": [0]}
            ),
            ["tuner.classArgs.search.epochs is 0", "searchSpace.sed is no key of this file; expected searchSpace.seed"],
        ),
        (changed(EXPERIMENT, tuner__classArgs__space="digit"), ["the space is 'digit'; expected one of"]),
        (
            changed(EXPERIMENT, tuner__classArgs__trainer={"devices": 2}),
            ["tuner.classArgs.trainer.devices is 2; expected 1"],
        ),
    ],
)
def test_bad_experiment_is_explained_before_anything_starts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: Any,
    problems: list[str],
) -> None:
    monkeypatch.setattr(processes, "TrialCheck", CheckInThisProcess)
    path = write(tmp_path / "experiment.yml", content)
    assert main(["run", path, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    for problem in problems:
        assert problem in printed.err
    assert "Traceback" not in printed.err
    assert files_below(tmp_path).keys() == {"experiment.yml"}


@pytest.mark.integration
def test_what_only_the_trials_python_finds_is_explained_before_anything_starts(
    tmp_path: Path, python: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", *python)
    path = write(tmp_path / "experiment.yml", changed(EXPERIMENT, tuner__classArgs__space="digit"))
    assert main(["run", path, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "the space is 'digit'; expected one of" in printed.err
    assert "Traceback" not in printed.err
    assert files_below(tmp_path).keys() == {"experiment.yml"}


def test_taken_port_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "experiment.yml", EXPERIMENT)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(["run", path, "--out", str(tmp_path / "out"), "--port", str(port)]) == 1
    assert f"--port is {port}; expected a free port" in capsys.readouterr().err
    assert files_below(tmp_path).keys() == {"experiment.yml"}


def test_experiment_does_not_overwrite_a_result(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(searched)
    assert main(["run", write(tmp_path / "experiment.yml", EXPERIMENT), "--out", str(searched)]) == 1
    assert "holds a result already" in capsys.readouterr().err
    assert files_below(searched) == before


@pytest.mark.integration
def test_ctrl_c_ends_a_search_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    path = write(tmp_path / "long.yml", changed(TINY, search__epochs=1000))
    long_search = Forked("search", path, "--out", tmp_path / "out")
    while not (tmp_path / "out" / "last.ckpt").exists():
        assert long_search.poll() is None, long_search.communicate()[1]
        time.sleep(0.05)
    long_search.send_signal(signal.SIGINT)
    _, error = long_search.communicate()
    assert long_search.returncode == 130
    assert "nni-cream: interrupted" in error
    assert "Traceback" not in error


SCORE_THAT_KILLS = """\
import os, signal
from nni_cream.search.scoring.scores import top1
calls = 0
def score(output, target):
    global calls
    calls += 1
    if str(calls) == os.environ.get("KILLED_AT_CALL"):
        os.kill(os.getpid(), signal.SIGKILL)
    return top1(output, target)
"""


@pytest.mark.integration
def test_search_killed_at_any_moment_resumes_and_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "score_that_kills.py", SCORE_THAT_KILLS)
    changes = {"search__epochs": 6, "search__score": "score_that_kills:score", "search__scoring": {"interval": 1}}
    path = write(tmp_path / "six.yml", changed(TINY, **changes))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["search", path, "--out", "whole"]) == 0
    # Four steps an epoch, each with a candidate; the end of an epoch rescores an entry now and then. So these moments
    # are: the middle of the first epoch, with nothing to go on from; a later epoch; the last one.
    for name, call in (("first", 2), ("later", 10), ("last", 22)):
        monkeypatch.setenv("KILLED_AT_CALL", str(call))
        killed = Forked("search", path, "--out", name, before=lambda: sys.modules.pop("score_that_kills"))
        killed.communicate()
        monkeypatch.delenv("KILLED_AT_CALL")
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / name / "best.json").exists()
        assert (tmp_path / name / "last.ckpt").exists() == (name != "first")
        assert main(["search", path, "--out", name, "--resume"]) == 0
        for file in ("board.json", "metrics.jsonl", "history.jsonl", "best.json"):
            assert (tmp_path / name / file).read_text() == (tmp_path / "whole" / file).read_text()
