"""The board page in a real browser: with a stand-in for the manager, and with NNI's own and a real experiment."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from scipy.stats import kendalltau
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from nni_cream import page
from nni_cream.manager.ports import free_port
from nni_cream.page import install_page, page_address, page_address_of_trial
from tests.manager.browser import click, console_errors, emulate, wait_for
from tests.manager.experiments import Hold, in_warm_python, reduced, start
from tests.manager.fakes import CHOICES, PAGE, FakeManager, job, made_up_search, record
from tests.patience import PATIENCE

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&"


# Files and addresses --------------------------------------------------------------------------------------------------


def test_page_is_installed_whole(tmp_path: Path) -> None:
    install_page(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written.keys() >= {"board.html", "board.css", "board.js"}
    assert written == {name: PAGE.joinpath(name).read_bytes() for name in written}
    for name in re.findall(
        r'(?:href|src|from) ?=? ?"(?:\./)?([\w.]+\.(?:css|js))"', b"".join(written.values()).decode()
    ):
        assert name in written


def test_page_is_put_in_its_place_after_all_that_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(page, "write_text", lambda path, text: written.append(path.name))
    install_page(tmp_path)
    assert written[-1] == page.PAGE
    assert {"board.js", "board.css"} < set(written)


def test_page_asks_no_other_host_and_makes_no_markup_of_text() -> None:
    for source in PAGE.iterdir():
        if source.name.endswith((".html", ".css", ".js")):
            text = source.read_text(encoding="utf-8")
            assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], source.name
            assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text) == []
            assert re.findall(r"\son\w+\s*=\s*[\"']", text) == []


@pytest.mark.parametrize(
    ("prefix", "address"),
    [(None, "http://127.0.0.1:8080/logs/board.html"), ("/a/b/", "http://127.0.0.1:8080/a/b/logs/board.html")],
)
def test_address_of_the_page_has_port_and_prefix(prefix: str | None, address: str) -> None:
    assert page_address(8080, prefix) == address
    path = f"{prefix.strip('/')}/" if prefix else ""
    channel = f"http://localhost:8080/{path}env/local-env/AbCdE"
    assert page_address_of_trial({"NNI_TRIAL_COMMAND_CHANNEL": channel, "NNI_PLATFORM": "local"}) == address


def test_trial_elsewhere_does_not_claim_to_know_the_address() -> None:
    local = {"NNI_TRIAL_COMMAND_CHANNEL": "http://localhost:8080/env/local-env/AbCdE", "NNI_PLATFORM": "local"}
    assert page_address_of_trial(local | {"NNI_PLATFORM": "remote"}) is None
    assert page_address_of_trial(local | {"NNI_TRIAL_COMMAND_CHANNEL": "file:///nni"}) is None
    assert page_address_of_trial({}) is None


# Against a stand-in ---------------------------------------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    with FakeManager().up() as manager:
        yield manager


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def text(browser: Chrome, selector: str) -> str:
    return str(one(browser, selector).text)


def opened(browser: Chrome, manager: FakeManager, rows: int | None = None) -> None:
    """Open the page, and wait until it has read everything."""
    browser.get(manager.address)
    wait_for(lambda: "connecting" not in one(browser, "#status").get_attribute("class"))
    if rows is not None:
        wait_for(lambda: len(board(browser)) == rows)


def refresh(browser: Chrome) -> None:
    one(browser, "#refresh").click()


def board(browser: Chrome) -> list[tuple[list[Any], float, float]]:
    """Read path, accuracy and cost of each row, in one go, since the page may draw them again at any time."""
    script = """return [...document.querySelectorAll("#board tbody tr")].map((row) =>
        [row.dataset.path, ...["accuracy", "cost"].map((kind) => row.querySelector(`.${kind} data`).value)])"""
    rows = browser.execute_script(script)
    return [(json.loads(path), float(accuracy), float(cost)) for path, accuracy, cost in rows]


def validated(browser: Chrome) -> list[float]:
    """Read the accuracies of the final validation, row by row."""
    cells = browser.find_elements(By.CSS_SELECTOR, "#board tbody .validated data")
    return [float(cell.get_attribute("value") or "nan") for cell in cells]


def accuracies(browser: Chrome) -> list[float]:
    return [accuracy for _, accuracy, _ in board(browser)]


def accuracies_of(metric: dict[str, Any]) -> list[float]:
    return [entry[1] for entry in metric["update"]["board"]]


def search(manager: FakeManager, metrics: list[Any], number: int = 0, **options: Any) -> None:
    manager.jobs.append(job(number, **options))
    manager.records += [record(number, sequence, metric) for sequence, metric in enumerate(metrics)]


def test_board_holds_the_exact_values_of_the_last_update(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(20, 8)
    search(manager, metrics)
    opened(browser, manager, rows=10)
    entries = metrics[-1]["update"]["board"]
    assert board(browser) == [(path, accuracy, cost) for path, accuracy, cost, _ in entries]
    path, accuracy, cost, step = entries[0]
    row = text(browser, "#board tbody tr")
    assert f"{100 * accuracy:.2f} %" in row
    assert f"{cost:,.0f}" in row
    assert f"{metrics[-1]['step'] - step:,} steps" in row
    unseen = one(browser, "#board tbody .unseen").get_attribute("textContent")
    assert unseen == ", ".join(f"{label}: {CHOICES[label][place]}" for label, place in zip(CHOICES, path, strict=True))
    assert [item.text.split("\n")[-1] for item in browser.find_elements(By.CSS_SELECTOR, "#legend li")] == CHOICES[
        "layer_1"
    ]
    assert console_errors(browser) == []


def test_latencies_are_milliseconds_with_three_digits(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(5, 8)
    for metric in metrics:
        for entry in metric["update"]["board"]:
            entry[2] *= 1e-8
    search(manager, metrics)
    (settings,) = manager.jobs[0]["hyperParameters"]
    manager.jobs[0]["hyperParameters"] = [settings.replace('"cost": "macs"', '"cost": ["latency", "macs"]')]
    opened(browser, manager, rows=10)
    entries = metrics[-1]["update"]["board"]
    assert board(browser) == [(path, accuracy, cost) for path, accuracy, cost, _ in entries]
    cells = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#board tbody .cost")]
    assert [float(cell.removesuffix(" ms")) for cell in cells] == [
        pytest.approx(1000 * cost, abs=0.0051) for _, _, cost, _ in entries
    ]
    assert all(len(cell.removesuffix(" ms").replace(".", "").lstrip("0")) == 3 for cell in cells)
    assert text(browser, "#cost-title") == "Latency"


def test_the_final_validation_decides_the_order_of_the_board(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(6, 8)
    entries = metrics[-1]["update"]["board"]
    search(manager, metrics)
    opened(browser, manager, rows=10)
    assert board(browser) == [(path, accuracy, cost) for path, accuracy, cost, _ in entries]
    assert validated(browser) == []
    assert "Validated" not in text(browser, "#board thead")
    # The file lists the entries best first: by their estimates, which need not follow the validated accuracies.
    accuracies = [0.5 + 7 * rank % 10 / 100 for rank in range(10)]
    final = [
        {"path": {label: CHOICES[label][place] for label, place in zip(CHOICES, path, strict=True)}, "validated": one}
        for (path, *_), one in zip(entries[::-1], accuracies, strict=True)
    ]
    manager.jobs = [job(0, "SUCCEEDED", final={"default": 0.5, "board": json.dumps({"entries": final})})]
    refresh(browser)
    wait_for(lambda: validated(browser) == accuracies)
    assert board(browser) == [(path, accuracy, cost) for path, accuracy, cost, _ in entries[::-1]]
    assert "Validated" in text(browser, "#board thead")
    assert "Best\n50.00 %" in text(browser, "#tiles")
    assert console_errors(browser) == []


def test_gains_and_predictions_are_shown_with_the_rank_correlation_within_epochs(
    browser: Chrome, manager: FakeManager
) -> None:
    metrics = made_up_search(2, 14, choices=CHOICES | {"depth": [1, 2]})
    draw = random.Random(0)
    weighted, pairs, lowest = 0.0, 0, 1.0
    for metric in metrics:
        metric["update"]["predictor"]["predicted"] = [draw.random() for _ in metric["update"]["scored"]]
        rows = zip(metric["update"]["predictor"]["predicted"], metric["update"]["scored"], strict=True)
        predicted, scores = zip(*[(mean, entry[1]) for mean, entry in rows if entry[1] is not None], strict=True)
        lowest = min(lowest, *predicted)
        weight = len(scores) * (len(scores) - 1)
        weighted, pairs = weighted + weight * kendalltau(predicted, scores).statistic, pairs + weight
    search(manager, metrics)
    opened(browser, manager, rows=10)
    script = """return [...document.querySelectorAll("#gains tbody tr")].map((row) =>
        [row.querySelector("th").textContent, [...row.querySelectorAll("data")].map((cell) => Number(cell.value))])"""
    gains = metrics[-1]["update"]["predictor"]["gains"]
    assert browser.execute_script(script) == [list(row) for row in zip([*CHOICES, "depth"], gains, strict=True)]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#gains table")) == 2  # layers, and depth with its other values
    title = one(browser, "#gains td.gain").get_attribute("title")
    assert title == "layer_1, conv_3x3: 0.4 ± 0.1"
    tau = f"{weighted / pairs:.2f}".replace("-", "−")
    assert f"Kendall's τ {tau} within an epoch" in text(browser, "#predicted .readout")
    one(browser, "#predicted svg").send_keys(Keys.HOME)
    assert f"predicted {lowest:.2f}" in text(browser, "#predicted .readout")
    assert console_errors(browser) == []


@pytest.mark.parametrize(
    ("predictor", "reason"),
    [
        (None, "an older nni_cream wrote it"),
        ({"problem": "3 steps are too few", "gains": None, "stds": None, "predicted": None}, "3 steps are too few"),
        ({"problem": None, "gains": [[0.5]], "stds": [[0.1]], "predicted": []}, "do not fit the choices"),
    ],
)
def test_page_says_why_nothing_is_known_of_the_operations(
    browser: Chrome, manager: FakeManager, predictor: Any, reason: str
) -> None:
    (metric,) = made_up_search(1, 4, size=4)
    metric["update"] |= {"predictor": predictor, "scored": []}
    search(manager, [metric])
    opened(browser, manager, rows=4)
    assert reason in text(browser, "#helps .empty")
    assert reason in text(browser, "#predicted .empty")
    assert not one(browser, "#gains").is_displayed()
    assert (text(browser, "#failed"), text(browser, "#notices")) == ("", "")
    assert console_errors(browser) == []


def test_changes_teachers_and_statistics_add_up(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(20, 8)
    search(manager, metrics)
    opened(browser, manager, rows=10)
    scored = [candidate for metric in metrics for candidate in metric["update"]["scored"]]
    latest = [metric for metric in metrics if any(entry[4] for entry in metric["update"]["scored"])][-1]
    assert text(browser, "#changes h3") == f"Epoch {latest['epoch']} step {latest['step']:,}"
    entered = sum(entry[4] for entry in latest["update"]["scored"])
    assert len(browser.find_elements(By.CSS_SELECTOR, "#changes .change:first-child .entered")) == entered
    statistics = text(browser, "#statistics")
    for what, value in (
        ("Paths scored", f"{len(scored)}"),
        ("Rejected early", f"{sum(entry[1] is None for entry in scored)} ("),
        ("Admitted to the board", f"{sum(entry[4] for entry in scored)} ("),
        ("Draws outside the cost range or a rule", "60 ("),
        ("Meta network updates", "40"),
    ):
        assert f"{what}\n{value}" in statistics
    counts: dict[str, int] = {}
    for metric in metrics:
        for path, count in metric["update"]["teachers"]:
            counts[json.dumps(path)] = counts.get(json.dumps(path), 0) + count
    first = one(browser, "#teachers tbody tr")
    assert int(first.find_element(By.TAG_NAME, "data").get_attribute("value")) == max(counts.values())


def test_hostile_names_stay_text(browser: Chrome, manager: FakeManager) -> None:
    manager.name = HOSTILE
    choices = {HOSTILE: [HOSTILE, "__proto__", "</td><script>"], "constructor": [True, 1.5, [1, 2]]}
    search(manager, made_up_search(3, 4, choices=choices, size=4), note=HOSTILE)
    search(manager, [], number=1, role=HOSTILE)
    search(
        manager, [], 2, status="SUCCEEDED", role="retrain", choices={HOSTILE: HOSTILE, "constructor": True}, cost=1.0
    )
    manager.records.append(record(0, 3, {"update": {"format": HOSTILE}}))
    opened(browser, manager, rows=4)
    assert HOSTILE in text(browser, "#experiment")
    assert HOSTILE in text(browser, "#legend")
    assert HOSTILE in text(browser, "#trial")
    assert "trial 1" in text(browser, "#notices")
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, "body script, img") == []
    assert console_errors(browser) == []


@pytest.mark.integration
def test_page_says_that_the_manager_is_gone_and_recovers(browser: Chrome) -> None:
    manager = FakeManager()
    metrics = made_up_search(6, 8)
    with manager.up():
        search(manager, metrics[:5])
        opened(browser, manager, rows=10)
        assert not one(browser, "#gone").is_displayed()
    refresh(browser)
    wait_for(lambda: one(browser, "#gone").is_displayed())
    assert "does not answer" in text(browser, "#gone")
    assert text(browser, "#status") == "Manager gone"
    assert len(board(browser)) == 10  # what was known stays
    with manager.up():
        manager.records.append(record(0, 5, metrics[5]))
        wait_for(lambda: not one(browser, "#gone").is_displayed())  # by itself
        wait_for(
            lambda: [entry[1] for entry in board(browser)] == [entry[1] for entry in metrics[5]["update"]["board"]]
        )
        assert text(browser, "#status") == "Running"


@pytest.mark.parametrize("answer", [{"error": "no"}, "no"])
def test_answer_that_is_not_the_managers_counts_as_none(browser: Chrome, manager: FakeManager, answer: Any) -> None:
    search(manager, made_up_search(3, 8))
    jobs, manager.jobs = manager.jobs, answer
    browser.get(f"{manager.address}#%")
    wait_for(lambda: one(browser, "#gone").is_displayed())
    manager.jobs = jobs
    refresh(browser)
    wait_for(lambda: len(board(browser)) == 10)
    assert not one(browser, "#gone").is_displayed()
    assert console_errors(browser) == []


def test_manager_that_is_still_starting_is_waited_for(browser: Chrome, manager: FakeManager) -> None:
    manager.status = "INITIALIZING"
    browser.get(manager.address)
    wait_for(lambda: "starting" in text(browser, "#status"))
    manager.status = "RUNNING"
    refresh(browser)
    wait_for(lambda: text(browser, "#status") == "Running")
    assert console_errors(browser) == []


def test_twenty_thousand_points_are_drawn_and_can_be_read_out(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(200, 110, size=10)
    count = sum(len(metric["update"]["scored"]) for metric in metrics)
    assert count > 20_000
    search(manager, metrics)
    opened(browser, manager, rows=10)
    wait_for(lambda: f"{count:,} paths scored" in text(browser, "#cloud .readout"))
    inked = """const canvas = document.querySelector("#cloud canvas.points");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((value, index) => index % 4 === 3 && value > 0).length"""
    assert browser.execute_script(inked) > 5000
    canvas = one(browser, "#cloud canvas.cursor")
    canvas.send_keys(Keys.HOME)
    fewest = min(entry[2] for metric in metrics for entry in metric["update"]["scored"] if entry[1] is not None)
    assert f"at {fewest:,.0f} multiply-adds" in text(browser, "#cloud .readout")
    assert console_errors(browser) == []


def test_pareto_front_is_that_of_a_plain_comparison(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(12, 12)
    search(manager, metrics)
    opened(browser, manager, rows=10)
    points = [
        (entry[2], entry[1]) for metric in metrics for entry in metric["update"]["scored"] if entry[1] is not None
    ]
    points += [(entry[2], entry[1]) for entry in metrics[-1]["update"]["board"]]
    front = {
        (cost, accuracy)
        for cost, accuracy in points
        if not any((a >= accuracy and c <= cost) and (a, c) != (accuracy, cost) for c, a in points)
    }
    script = """return [...document.querySelectorAll("#front tbody tr")].map((row) =>
        [...row.querySelectorAll("data")].slice(0, 2).map((cell) => Number(cell.value)))"""
    shown = [tuple(row) for row in browser.execute_script(script)]
    assert shown == sorted(front)


def test_experiment_without_trials_says_what_it_waits_for(browser: Chrome, manager: FakeManager) -> None:
    opened(browser, manager)
    wait_for(lambda: "Waiting for the first search trial." in text(browser, "#board-empty"))
    assert not one(browser, "#trial").is_enabled()
    assert "Waiting for the search trials to end" in text(browser, "#retrained-empty")
    manager.jobs.append(job(0, "WAITING"))
    refresh(browser)
    wait_for(lambda: text(browser, "#board-empty") == "Waiting for this trial to start.")
    manager.jobs = [job(0)]
    refresh(browser)
    wait_for(lambda: text(browser, "#board-empty") == "Waiting for the first epoch of this trial.")
    warming_up = made_up_search(1, 4)[0]
    unknown = {"problem": "0 training steps are no more than the 18 effects to tell apart", "predicted": None}
    warming_up["update"] |= {"board": [], "scored": [], "teachers": [], "predictor": unknown}
    manager.records.append(record(0, 0, warming_up))
    refresh(browser)
    wait_for(lambda: "Warming up (1 epochs" in text(browser, "#board-empty"))
    untaught = made_up_search(2, 4)[1]
    untaught["update"] |= {"teachers": []}
    manager.records.append(record(0, 1, untaught))
    refresh(browser)
    wait_for(lambda: "Waiting for the first teacher: distillation starts" in text(browser, "#teachers-empty"))
    assert console_errors(browser) == []


def test_results_of_another_version_are_named_and_skipped(browser: Chrome, manager: FakeManager) -> None:
    metrics: list[Any] = made_up_search(6, 8)
    metrics[1]["update"]["format"] = "nni_cream.update/9"
    del metrics[2]["update"]
    metrics[3] = 0.93
    metrics[4]["update"]["board"] = [["not a path", 1, 2, 3]]
    search(manager, metrics)
    opened(browser, manager, rows=10)
    assert accuracies(browser) == accuracies_of(metrics[5])
    notices = text(browser, "#notices")
    for problem in (
        'format "nni_cream.update/9"',
        "another version of nni_cream",
        "no JSON object",
        "does not understand",
    ):
        assert problem in notices
    assert console_errors(browser) == []


def test_later_record_of_an_epoch_wins(browser: Chrome, manager: FakeManager) -> None:
    metrics, again = made_up_search(4, 8), made_up_search(4, 8, seed=1)
    search(manager, metrics)
    opened(browser, manager, rows=10)
    manager.records.append(record(0, 3, again[3], timestamp=100))  # a resumed trial
    refresh(browser)
    wait_for(lambda: accuracies(browser) == accuracies_of(again[3]))
    assert text(browser, "#tiles").count("4 of 50") == 1


def test_metrics_of_a_trial_are_read_once_unless_some_were_missed(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(9, 8)
    search(manager, metrics[:3])
    opened(browser, manager, rows=10)

    def shows(epoch: int) -> None:
        refresh(browser)
        wait_for(lambda: f"Epoch\n{epoch} of 50" in text(browser, "#tiles"))

    manager.records.append(record(0, 3, metrics[3]))
    shows(4)
    assert manager.asked.count("/metric-data/trial0") == 1
    manager.records += [record(0, sequence, metrics[sequence]) for sequence in range(4, 9)]
    shows(9)
    assert manager.asked.count("/metric-data/trial0") == 2
    assert "/metric-data" not in manager.asked
    scored = sum(len(metric["update"]["scored"]) for metric in metrics)
    assert f"Scored\n{scored} paths" in text(browser, "#tiles")


@pytest.mark.integration
def test_experiment_that_is_done_is_not_asked_any_more(browser: Chrome, manager: FakeManager) -> None:
    search(manager, made_up_search(3, 8), status="SUCCEEDED")
    manager.status = "DONE"
    opened(browser, manager, rows=10)
    wait_for(lambda: "Done" in text(browser, "#status"))
    asked = len(manager.asked)
    time.sleep(3.5)  # the page would have asked again after 3 s
    assert len(manager.asked) == asked
    other = made_up_search(3, 8, seed=1)
    search(manager, other, number=1, status="SUCCEEDED")
    refresh(browser)
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#trial option")) == 2)
    one(browser, "#trial").send_keys(Keys.ARROW_DOWN)
    wait_for(lambda: accuracies(browser) == accuracies_of(other[-1]))


def test_search_trials_can_be_chosen_and_linked_to(browser: Chrome, manager: FakeManager) -> None:
    first, second = made_up_search(3, 8), made_up_search(3, 8, seed=1)
    search(manager, first, 0, status="SUCCEEDED", seed=0, cost_range=[None, 300_000])
    search(manager, second, 1, seed=1, cost_range=[100, None])
    opened(browser, manager, rows=10)
    names = [option.text for option in browser.find_elements(By.CSS_SELECTOR, "#trial option")]
    assert names == [
        "Trial 0 · seed 0 · cost_range ≤ 300,000 · succeeded",
        "Trial 1 · seed 1 · cost_range ≥ 100 · running",
    ]
    assert board(browser)[0][1] == second[-1]["board_best"]  # the one that runs
    one(browser, "#trial").send_keys(Keys.ARROW_UP)
    wait_for(lambda: board(browser) and board(browser)[0][1] == first[-1]["board_best"])
    assert browser.current_url.endswith("#trial0")
    browser.get("about:blank")
    browser.get(f"{manager.address}#trial0")
    wait_for(lambda: board(browser) and board(browser)[0][1] == first[-1]["board_best"])


def test_retrained_entries_stand_beside_their_one_shot_scores(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(3, 8)
    search(manager, metrics, status="SUCCEEDED")
    choices = {label: options[1] for label, options in CHOICES.items()}
    final = {"default": 0.95, "role": "retrain", "validation_accuracy": 0.95, "test_accuracy": 0.94, "epochs": 3}
    known = {"choices": choices, "one_shot_accuracy": 0.625, "cost": 4321.0, "search_trial": 0}
    # The final metric says what the first one was given; NNI's record has the parameters of another.
    given = json.loads(job(1, role="retrain", **known)["hyperParameters"][0])["parameters"]
    other = {
        "choices": {label: options[0] for label, options in CHOICES.items()},
        "one_shot_accuracy": 0.5,
        "cost": 1.0,
    }
    final["parameters"] = json.dumps(given)
    manager.jobs += [job(1, "SUCCEEDED", "retrain", final, **other), job(2, role="retrain", **known)]
    manager.records.append(record(2, 4, {"default": 0.5, "role": "retrain", "epoch": 5, "val_acc": 0.5}))
    opened(browser, manager, rows=10)
    rows = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#retrained tbody tr"))
    assert [cell.get_attribute("value") for cell in rows[0].find_elements(By.TAG_NAME, "data")] == [
        "0.625",
        "4321",
        "0.95",
        "0.94",
    ]
    assert "best validation" in rows[0].text
    wait_for(lambda: "running, epoch 5" in text(browser, "#retrained tbody tr:nth-child(2)"))
    described = rows[0].find_element(By.CSS_SELECTOR, ".unseen").get_attribute("textContent")
    assert described == ", ".join(f"{label}: {option}" for label, option in choices.items())


def test_search_without_teachers_says_so(browser: Chrome, manager: FakeManager) -> None:
    metrics = made_up_search(3, 8)
    for metric in metrics:
        metric["match_weight"] = 0.0
        metric["update"]["teachers"] = []
    search(manager, metrics)
    parameters = json.loads(manager.jobs[0]["hyperParameters"][0])
    parameters["parameters"]["config"]["search"]["matching"]["name"] = "none"
    manager.jobs[0]["hyperParameters"] = [json.dumps(parameters)]
    opened(browser, manager, rows=10)
    assert "matches no teachers" in text(browser, "#teachers-empty")
    assert "matches no teachers" in text(browser, "#weight > .empty")


def test_page_works_below_a_url_prefix(browser: Chrome) -> None:
    with FakeManager(prefix="some/where").up() as manager:
        search(manager, made_up_search(3, 8))
        opened(browser, manager, rows=10)
        assert one(browser, "nav a").get_attribute("href") == f"http://127.0.0.1:{manager.port}/some/where/oview"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_in_both_colour_schemes(browser: Chrome, manager: FakeManager, scheme: str) -> None:
    choices = {f"a_rather_long_label_{index}": ["mbconv_k3e2", "a_very_long_name" * 4] for index in range(24)}
    search(manager, made_up_search(5, 8, choices=choices), seed=1, cost_range=[1, 2], note="long " * 20)
    emulate(browser, 360, 740, scheme)
    opened(browser, manager, rows=10)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor").startswith("rgb(1")
    assert dark == (scheme == "dark")


@pytest.mark.integration
def test_everything_can_be_reached_from_the_keyboard(browser: Chrome, manager: FakeManager) -> None:
    search(manager, made_up_search(6, 8))
    opened(browser, manager, rows=10)
    one(browser, "body").send_keys(Keys.TAB)
    reached = []
    while (focused := browser.switch_to.active_element).tag_name != "body" and len(reached) < 40:
        look = "const [it] = arguments; return [it.id || it.classList[0] || it.localName, getComputedStyle(it).outline]"
        name, outline = browser.execute_script(look, focused)
        assert "none" not in outline, f"{name} has no visible focus"
        reached.append(name)
        focused.send_keys(Keys.TAB)
    assert reached[:4] == ["skip", "refresh", "a", "trial"]
    assert {"chart", "layer", "changes", "scroller", "summary"} < set(reached)
    chart = one(browser, "#progress svg")
    chart.send_keys(Keys.HOME)
    assert text(browser, "#progress .readout").startswith("Epoch 1: best")
    chart.send_keys(Keys.ARROW_RIGHT)
    assert text(browser, "#progress .readout").startswith("Epoch 2: best")
    assert "Accuracy of the board's best entry" in chart.get_attribute("aria-label")


# Against NNI's own manager --------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_board_page_and_web_ui_of_a_real_experiment_show_what_the_files_say(
    browser: Chrome, folder: Path, python: list[str]
) -> None:
    out, port = folder / "out", free_port()
    path = in_warm_python(reduced(folder), python)
    content = yaml.safe_load(path.read_text())
    arguments = content["tuner"]["classArgs"]
    arguments["space"] |= {"channels": [16, 16, 16], "operations": ["conv_3x3", "conv_1x1", "mbconv_k3e2"]}
    arguments["search"] |= {"epochs": 20, "board_size": 10, "warmup": 1, "scoring": {"interval": 1}}
    path.write_text(yaml.safe_dump(content))
    hold = Hold(folder, search=10)
    process = start(hold.apply(path), out, "--port", str(port), "--keep", python=python)
    emulate(browser, 1400, 1000)
    wait_for(lambda: process.poll() is not None or answers(port))
    assert process.poll() is None, process.communicate()
    browser.get(page_address(port))
    seen = wait_for(lambda: len(board(browser)) == 10 and board(browser))
    assert text(browser, "#status") == "Running"
    hold.until(search=19)
    wait_for(lambda: board(browser) != seen)  # it changes while the search runs
    hold.until()
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    wait_for(lambda: "Done" in text(browser, "#status"))
    check_board_page(browser, out)
    assert console_errors(browser) == []
    check_web_ui(browser, port, out)


def answers(port: int) -> bool:
    """Whether the page is there yet; before that, NNI answers with its own web UI."""
    try:
        return "<title>Board" in requests.get(page_address(port), timeout=PATIENCE).text
    except requests.RequestException:
        return False


def check_board_page(browser: Chrome, out: Path) -> None:
    (log_folder,) = {path.resolve() for path in out.glob("nni/*/environments/local-env/trials/*/search")}
    history = [json.loads(line) for line in (log_folder / "history.jsonl").read_text().splitlines()]
    choices = history[0]["choices"]
    shown = [
        ({label: choices[label][place] for label, place in zip(choices, path, strict=True)}, accuracy, cost)
        for path, accuracy, cost in board(browser)
    ]
    entries = json.loads((out / "board.json").read_text())["entries"]
    assert validated(browser) == [entry["validated"] for entry in entries]
    assert shown == [(entry["path"], entry["accuracy"], entry["cost"]) for entry in entries]
    assert len(shown) == 10
    scored = sum(len(update["scored"]) for update in history)
    assert f"Scored\n{scored} paths" in text(browser, "#tiles")
    (retrained,) = json.loads((out / "retrained.json").read_text())
    values = [cell.get_attribute("value") for cell in browser.find_elements(By.CSS_SELECTOR, "#retrained tbody data")]
    keys = ("one_shot_accuracy", "cost", "validation_accuracy", "test_accuracy")
    assert [float(value) for value in values] == [retrained[key] for key in keys]


def check_web_ui(browser: Chrome, port: int, out: Path) -> None:
    """NNI's overview lists the trials; its Compare dialog draws every figure of ``metrics.jsonl``."""

    def all_of(selector: str) -> list[WebElement]:
        return browser.find_elements(By.CSS_SELECTOR, selector)

    browser.get(f"http://127.0.0.1:{port}/oview")
    wait_for(lambda: len(all_of(".ms-DetailsRow")) == 2)
    wait_for(lambda: all("SUCCEEDED" in row.text for row in all_of(".ms-DetailsRow")))
    browser.get(f"http://127.0.0.1:{port}/detail")
    wait_for(lambda: len(all_of(".ms-DetailsRow .ms-Checkbox label")) == 2)
    click(lambda: all_of(".ms-DetailsRow .ms-Checkbox label"))
    click(lambda: [button for button in all_of("button:not([disabled])") if button.text == "Compare"])
    click(lambda: all_of(".compare-modal .ms-Dropdown"))
    (metrics,) = {path.resolve() for path in out.glob("nni/*/environments/local-env/trials/*/search/metrics.jsonl")}
    expected = {"default", *json.loads(metrics.read_text().splitlines()[0])}
    assert {"board_best", "board_worst", "board_mean", "board_cost_mean", "admitted", "match_weight"} < expected
    # Not what is visible: the list unfolds slowly.
    texts = "return [...document.querySelectorAll('.ms-Dropdown-item')].map((option) => option.textContent)"
    wait_for(lambda: browser.execute_script(texts))
    assert set(browser.execute_script(texts)) == expected
