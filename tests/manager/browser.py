"""A headless Chromium for tests, screenshots and benchmarks: Debian's, driven by Selenium, which downloads nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from tests.patience import PATIENCE

Found = TypeVar("Found")

# The page is just drawing that part (again), or something still moves across it.
_NOT_YET = (ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException)
_OPTIONS = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    # No process for a page that nobody has asked for yet, and none for the page before.
    "--disable-features=BackForwardCache,SpareRendererForSitePerProcess",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
)


def require_browser() -> None:
    """Skip the test where there is no Chromium, unless the environment says that there has to be one."""
    missing = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    if not missing:
        return
    reason = f"no {' and no '.join(missing)} here (Debian: apt-get install chromium chromium-driver)"
    if os.environ.get("NNI_CREAM_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def open_browser(width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """Start a browser with a profile of its own, and leave nothing of it behind."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="nni_cream_browser_", ignore_cleanup_errors=True) as profile:
        for option in (*_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(option)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield browser
        finally:
            browser.quit()


def emulate(browser: Chrome, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
    """Let the browser have a screen of that size, and a user who likes that colour scheme."""
    screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def wait_for(look: Callable[[], Found], seconds: float = PATIENCE) -> Found:
    """Look until there is something to see, at least once; fail when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except _NOT_YET:
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def click(look: Callable[[], list[WebElement]]) -> None:
    """Click on the first of the elements that are looked for, as soon as that can be done."""
    wait_for(lambda: [element.click() for element in look()[:1]])


def console_errors(browser: Chrome) -> list[str]:
    """Return what the page complained of since this was asked last."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
