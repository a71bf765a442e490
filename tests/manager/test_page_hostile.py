"""The board page goes on whatever trials report, and says what it cannot show."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.faults.hostile import wrong_value
from tests.manager.browser import console_errors, wait_for
from tests.manager.fakes import FakeManager, job, made_up_search, record
from tests.manager.test_page import HOSTILE, one, opened, refresh, search, text

COUNT = int(os.environ.get("PAGE_INPUTS", "5"))
"""Inputs of each kind; more with the environment variable, see docs/survive.md."""


def hostile(kind: str, rng: random.Random) -> tuple[Any, Any]:
    """Return the jobs and the records of a trial that reports something malformed."""
    metrics: list[Any] = made_up_search(4, 4)
    final = {"default": 0.5, "board": json.dumps({"entries": [{"path": {"layer_1": "conv_3x3"}, "validated": 0.5}]})}
    jobs, retraining = (
        [job(0, "RUNNING", final=final)],
        job(1, role="retrain", choices={"layer_1": "conv_3x3"}, cost=1.0),
    )
    if kind == "metric":
        metrics[rng.randrange(4)] = wrong_value(metrics[0], rng)
    if kind == "final metric":
        jobs = [job(0, "SUCCEEDED", final=wrong_value(final, rng))]
    if kind == "parameters":
        spoilt = rng.choice((jobs[0], retraining))
        spoilt["hyperParameters"] = [json.dumps(wrong_value(json.loads(spoilt["hyperParameters"][0]), rng))]
    records = [record(0, place, metric) for place, metric in enumerate(metrics)]
    records.append(record(1, 0, wrong_value({"default": 0.5, "epoch": 1, "val_acc": 0.5}, rng)))
    answer: Any = [*jobs, retraining]
    if kind == "jobs":
        answer = wrong_value(answer, rng)
    if kind == "records":
        records = wrong_value(records, rng)
    return answer, records


class Spoilt(FakeManager):
    """Gives the same records for each trial, malformed as they are."""

    def of_trial(self, trial: str) -> Any:
        return self.records

    def latest(self) -> Any:
        return self.records


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["metric", "final metric", "parameters", "jobs", "records"])
def test_page_goes_on_after_malformed_values(browser: Chrome, kind: str) -> None:
    with Spoilt().up() as manager:
        opened(browser, manager)
        for seed in range(COUNT):
            manager.jobs, manager.records = hostile(kind, random.Random(seed))
            browser.get("about:blank")
            opened(browser, manager)
            browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
            assert console_errors(browser) == [], f"seed {seed}"
            assert browser.execute_script("return window.hacked") is None
        manager.jobs, manager.records = [job(0)], [record(0, 0, made_up_search(1, 4)[0])]
        refresh(browser)
        wait_for(lambda: text(browser, "#status") == "Running")
        assert text(browser, "#failed") == ""


def test_page_says_which_part_cannot_be_shown_and_shows_the_others(browser: Chrome) -> None:
    with FakeManager().up() as manager:
        search(manager, made_up_search(3, 4), final={"default": 1, "board": {"entries": [{"path": {}}]}})
        opened(browser, manager, rows=10)
        browser.execute_script("document.querySelector('#legend').remove()")
        manager.records.append(record(0, 3, made_up_search(4, 4)[3]))
        refresh(browser)
        wait_for(lambda: "The part “search” cannot be shown" in text(browser, "#failed"))
        assert text(browser, "#status") == "Running"
        assert HOSTILE not in text(browser, "#failed")
        assert one(browser, "#trial").is_displayed()
