from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nni_cream.cli import main
from nni_cream.errors import FileError
from nni_cream.report import write_report
from tests.report.made_up import (
    RETRAINED,
    best_of,
    experiment_folder,
    made_up_metrics,
    search_folder,
    training_folder,
    whole_folder,
)


class Words(HTMLParser):
    """The text of a page, without its scripts and styles, and its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.links += [value for name, value in attributes if tag == "a" and name == "href" and value is not None]

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.text += data


def report_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_figures_say_whether_they_are_one_shot_or_retrained(tmp_path: Path) -> None:
    best = best_of(made_up_metrics(), 0, RETRAINED)
    text = Words(report_of(training_folder(tmp_path, best))).text
    assert "Test accuracy81.25 %after retraining from new weights" in text
    assert "Validation accuracy87.50 %after retraining" in text
    assert f"One-shot accuracy{100 * best.accuracy:.2f} %one-shot: ranks paths, not a figure to report" in text
    assert f"{best.cost:,.0f}multiply-adds" in text
    assert "4 epochs, from new weights, averaged weights" in text
    assert f"nni-cream evaluate {tmp_path} {tmp_path}/config.yml" in text


@pytest.mark.parametrize(
    ("make", "sentence", "command"),
    [
        (search_folder, "not retrained yet", "nni-cream retrain {0} RETRAIN.yml --out {0}-retrained"),
        (whole_folder, "Balanced test accuracy79.69 %", "nni-cream evaluate {0} {0}/retrained/02/config.yml"),
        (experiment_folder, "The experiment is complete.", "nni-cream export {0} --format code --out {0}-export"),
    ],
)
def test_report_says_what_is_done_and_what_comes_next(tmp_path: Path, make: Any, sentence: str, command: str) -> None:
    text = Words(report_of(make(tmp_path / "out"))).text
    assert sentence in text
    assert command.format(tmp_path / "out") in text


def test_running_search_is_reported_as_one(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    (folder / "best.json").unlink()
    text = Words(report_of(folder)).text
    assert "The search is not complete, so no architecture is chosen yet." in text
    assert f"nni-cream search {folder}/config.yml --out {folder} --resume" in text


def test_running_training_of_a_detector_is_told_from_a_retraining(tmp_path: Path) -> None:
    detection = {"categories": ["cat"], "anchor_scale": 2.0, "figures": {"ap": 0.5}}
    folder = training_folder(tmp_path, best_of(made_up_metrics(), detection=detection), accuracy="val_ap")
    (folder / "best.json").unlink()
    text = Words(report_of(folder)).text
    assert "The training of the detector is not complete" in text
    assert f"nni-cream detect train {folder}/config.yml --out {folder} --resume" in text


def test_detector_has_its_average_precisions(tmp_path: Path) -> None:
    figures = {"ap": 0.5, "ap50": 0.75, "ap75": None, "images": 72}
    detection = {"categories": ["cat"], "anchor_scale": 2.0, "figures": figures}
    best = best_of(made_up_metrics(), detection=detection, choices={})
    text = Words(report_of(training_folder(tmp_path, best, accuracy="val_ap"))).text
    assert "AP50.00 %of 72 test images" in text
    assert "AP at IoU 0.575.00 %" in text
    assert "One-shot accuracy" not in text.partition("Configuration")[0]
    assert "has no choices to draw" in text


def test_links_of_an_export_are_relative_to_the_report(tmp_path: Path) -> None:
    folder = whole_folder(tmp_path / "out")
    assert {"export/README.md", "export/network.onnx"} <= set(Words(report_of(folder)).links)
    other = write_report(folder, tmp_path / "elsewhere.html").read_text()
    assert "out/export/README.md" in Words(other).links


def test_policy_allows_the_script_and_the_style_of_the_file_alone(tmp_path: Path) -> None:
    page = report_of(whole_folder(tmp_path))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    for element, directive in (("style", "style-src"), ('script type="module"', "script-src")):
        found = re.search(rf"<{element}>(.*?)</{element.split()[0]}>", page, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg|127)", page) == []
    assert re.findall(r"<[^>]*\s(?:style|on\w+)=", page.partition('<script type="application/json"')[0]) == []


def test_texts_of_a_result_are_no_markup(tmp_path: Path) -> None:
    hostile = "</script><script>window.hacked = 1</script><!-- script --><img src=x>"
    metrics = made_up_metrics({hostile: [hostile, "b", "c", "d"], "other": ["a", "b", "c", "d"]}, epochs=3)
    best = best_of(metrics, space={"name": hostile, "arguments": {hostile: hostile}})
    folder = search_folder(tmp_path, metrics, best)
    (folder / "config.yml").write_text(f"# nni_cream output folder, written by\nspace: '{hostile}'\n")
    page = report_of(folder)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert hostile in data_of(page)["search"]["choices"]


def test_figure_that_is_no_number_becomes_null(tmp_path: Path) -> None:
    folder = training_folder(tmp_path, best_of(made_up_metrics(), 0, RETRAINED))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "train_loss": NaN, "ema_acc": Infinity}\n')
    (training,) = data_of(report_of(folder))["trainings"]
    assert training["epochs"][-1] == {"epoch": 5, "loss": None, "accuracy": None}


def test_same_result_gives_the_same_report_which_is_replaced(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    first = write_report(folder)
    assert first == folder / "report.html"
    content = first.read_bytes()
    assert write_report(folder).read_bytes() == content


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("<html>mine</html>")])
def test_file_that_is_no_report_is_not_replaced(tmp_path: Path, make: Any) -> None:
    folder = search_folder(tmp_path / "out")
    other = tmp_path / "mine.html"
    make(other)
    with pytest.raises(FileError, match=r"mine\.html: (is there already, and is no report|cannot be read)"):
        write_report(folder, other)
    assert other.is_dir() or other.read_text() == "<html>mine</html>"
    assert not (folder / "report.html").exists()


def test_command_prints_the_file_and_loads_neither_torch_nor_matplotlib(tmp_path: Path) -> None:
    folder = search_folder(tmp_path / "out")
    code = (
        "import sys; from nni_cream.cli import main\n"
        f"code = main(['report', {str(folder)!r}, '--json'])\n"
        "print(code, *sorted({'torch', 'nni', 'matplotlib', 'numpy', 'scipy', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, last = done.stdout.splitlines()
    assert json.loads(printed) == {"report": str(folder / "report.html")}
    assert last.split() == ["0"]


def test_wrong_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no result; expected an output folder of nni-cream" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
