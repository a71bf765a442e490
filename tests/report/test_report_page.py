"""The report in a real browser, opened from the disk: light and dark, by keyboard, on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from nni_cream.report import write_report
from nni_cream.report.result import read_result
from nni_cream.report.search_figures import search_figures
from tests.manager.browser import console_errors, emulate
from tests.report.made_up import (
    RETRAINED,
    best_of,
    experiment_folder,
    made_up_metrics,
    search_folder,
    training_folder,
    whole_folder,
)

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&"
# What each visible chart shows: marks of SVG, inked pixels of a canvas, or words that say why there is nothing.
CHARTS = """
const inked = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
  .filter((value, index) => index % 4 === 3 && value > 0).length;
return Object.fromEntries([...document.querySelectorAll("figure")].map((figure) => {
  const canvas = figure.querySelector("canvas.points");
  const lines = [...figure.querySelectorAll("path.line, circle.prediction")];
  const drawn = lines.filter((line) => line.localName === "circle" || line.getAttribute("d").length > 10).length;
  const empty = figure.querySelector(".empty");
  const marks = drawn + figure.querySelectorAll("td.gain").length + (canvas ? inked(canvas) : 0);
  return [figure.id, empty.hidden ? marks : empty.textContent];
}));
"""


def opened(browser: Chrome, folder: Path) -> None:
    """Open the report of a folder, and wait until its charts are drawn."""
    browser.get(write_report(folder).as_uri())
    frames = "requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(arguments[0])))"
    browser.execute_async_script(frames)


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def text(browser: Chrome, selector: str) -> str:
    return str(one(browser, selector).text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_of_a_whole_folder_has_marks_in_light_and_dark(
    browser: Chrome, tmp_path: Path, scheme: str
) -> None:
    emulate(browser, 1280, 900, scheme)
    opened(browser, whole_folder(tmp_path))
    charts: dict[str, Any] = browser.execute_script(CHARTS)
    assert set(charts) == {"loss", "validation", "helps", "predicted", "progress", "cloud", "weight"}
    assert {name: marks for name, marks in charts.items() if not isinstance(marks, int) or marks < 1} == {}
    assert charts["cloud"] > 500
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor").startswith("rgb(1")
    assert dark == (scheme == "dark")
    fill = "return getComputedStyle(document.querySelector('.wide .box')).fill"
    lightness = sum(map(float, browser.execute_script(fill)[4:-1].split(",")))
    assert (lightness < 380) == (scheme == "dark")
    assert text(browser, "#failed") == ""
    assert console_errors(browser) == []


def test_report_shows_the_numbers_of_the_files(browser: Chrome, tmp_path: Path) -> None:
    folder = whole_folder(tmp_path)
    opened(browser, folder)
    result = read_result(folder)
    assert result.search is not None
    found = search_figures(result.search)
    front = """return [...document.querySelectorAll("#front tbody tr")].map((row) =>
        [...row.querySelectorAll("data")].slice(0, 2).map((cell) => Number(cell.value)))"""
    assert [tuple(row) for row in browser.execute_script(front)] == found.front
    assert text(browser, "#cloud .readout").startswith(f"{len(found.scored) + len(found.rejected)} paths scored")
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#retrained tbody tr")]
    assert [row.split("\n")[0] for row in rows] == ["entry 2", "entry 1"]
    assert ["chosen" in row for row in rows] == [True, False]
    assert "90.00 %" in rows[0]
    assert text(browser, "#loss .readout") == "Epoch 5: entry 2 0.4"
    assert [item.text for item in browser.find_elements(By.CSS_SELECTOR, "#loss .key li")] == [
        "entry 1",
        "entry 2 (chosen)",
    ]
    assert "Training loss of entry 2: 2 in epoch 1, 0.4 in epoch 5." in str(
        one(browser, "#loss svg").get_attribute("aria-label")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_a_phone(browser: Chrome, tmp_path: Path, scheme: str) -> None:
    # More values than a phone is wide: their table scrolls, the page does not.
    values = ["a_very_long_name" * 4, *(f"mbconv_k{kernel}" for kernel in range(9))]
    choices: dict[str, Any] = {f"a_rather_long_label_{index}": values for index in range(24)}
    emulate(browser, 390, 844, scheme)
    opened(browser, whole_folder(tmp_path / ("a_long_folder_name_" * 8), made_up_metrics(choices)))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert one(browser, ".narrow svg").is_displayed()
    assert not one(browser, ".architecture .wide").is_displayed()
    browser.execute_script("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert console_errors(browser) == []


def test_everything_can_be_reached_from_the_keyboard(browser: Chrome, tmp_path: Path) -> None:
    opened(browser, whole_folder(tmp_path))
    one(browser, "body").send_keys(Keys.TAB)
    reached = []
    while (focused := browser.switch_to.active_element).tag_name != "body" and len(reached) < 60:
        look = "const [it] = arguments; return [it.closest('[id]')?.id, it.localName, getComputedStyle(it).outline]"
        place, name, outline = browser.execute_script(look, focused)
        assert "none" not in outline, f"{name} in {place} has no visible focus"
        reached.append((place, name))
        focused.send_keys(Keys.TAB)
    assert len(reached) < 60
    assert reached[0][1] == "a"
    for chart in ("loss", "validation", "progress", "predicted", "weight"):
        assert (chart, "svg") in reached
    assert {("cloud", "canvas"), ("cloud", "summary"), ("configuration", "summary"), ("configuration", "a")} <= {
        *reached
    }
    chart = one(browser, "#validation svg")
    chart.send_keys(Keys.HOME)
    assert text(browser, "#validation .readout") == "Epoch 1: entry 1 50.00 %, entry 2 50.00 %"
    chart.send_keys(Keys.ARROW_RIGHT)
    assert text(browser, "#validation .readout").startswith("Epoch 2: ")


def test_part_that_is_missing_is_a_sentence_and_no_empty_chart(browser: Chrome, tmp_path: Path) -> None:
    folders = {
        "experiment": experiment_folder(tmp_path / "of_trials", database=False),
        "search": search_folder(tmp_path / "search"),
        "detector": training_folder(
            tmp_path / "detector",
            best_of(made_up_metrics(), detection={"categories": ["a"], "anchor_scale": 2.0, "figures": {"ap": 0.5}}),
            accuracy=None,
        ),
        "retraining": training_folder(tmp_path / "retraining", best_of(made_up_metrics(), 0, RETRAINED)),
    }
    charts = {}
    for name, folder in folders.items():
        opened(browser, folder)
        charts[name] = browser.execute_script(CHARTS)
        assert [marks for marks in charts[name].values() if not marks] == [], name
        assert (text(browser, "#failed"), console_errors(browser)) == ("", []), name
    assert list(charts["experiment"]) == ["helps"]  # of the board alone; a note says what is missing
    assert "loss" not in charts["search"]
    assert charts["detector"]["validation"].startswith("No epoch was validated")
    assert list(charts["retraining"]) == ["loss", "validation"]


def test_hostile_names_stay_text_and_no_other_script_runs(browser: Chrome, tmp_path: Path) -> None:
    metrics = made_up_metrics({HOSTILE: [HOSTILE, "b", "c"], "__proto__": ["a", "b"], "other": [1, True, [1, 2]]})
    folder = whole_folder(tmp_path, metrics)
    opened(browser, folder)
    assert HOSTILE in text(browser, "#legend")
    assert browser.find_elements(By.CSS_SELECTOR, "img, main script") == []
    assert (text(browser, "#failed"), console_errors(browser)) == ("", [])
    added = (
        "const it = document.createElement('script'); it.textContent = 'window.hacked = 1'; document.body.append(it)"
    )
    browser.execute_script(added)
    assert browser.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in message for message in console_errors(browser))
