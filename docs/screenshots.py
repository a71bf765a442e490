"""Take the screenshots of docs/images: a real experiment, its board page and its report in a headless Chromium.

    python docs/screenshots.py

Needs the extra ``test``, and Debian's chromium and chromium-driver. Two searches with two seeds, then the best entries
retrained; some three minutes on one core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image
from selenium.webdriver import Chrome

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nni_cream.manager.ports import free_port  # noqa: E402 - the repository has to be on the path first
from nni_cream.page import page_address  # noqa: E402
from nni_cream.report import write_report  # noqa: E402
from tests.manager.browser import console_errors, emulate, open_browser, wait_for  # noqa: E402
from tests.manager.test_foreground import processes_of  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SHOTS = (  # name, width, height (None: the whole page), colour scheme, scale
    ("board_light", 1200, None, "light", 1.0),
    ("board_dark", 1200, 1080, "dark", 1.0),
    ("board_phone", 360, 1120, "light", 1.5),
)
REPORT_SHOTS = (("report_light", 1200, 1040, "light", 1.0), ("report_dark_phone", 390, 1240, "dark", 1.5))
IS_DRAWN = {
    "board": "return document.querySelector('#status').textContent.includes('Done')",
    "report": "return document.querySelector('#loss path.line') !== null",
}


def experiment_file(folder: Path) -> Path:
    content = yaml.safe_load((ROOT / "experiments" / "cream_experiment.yml").read_text(encoding="utf-8"))
    content["searchSpace"] = {
        "seed": {"_type": "choice", "_value": [0, 1]},
        "cost_range": {"_type": "choice", "_value": [[0, 400_000]]},
    }
    content["trialConcurrency"] = 2
    content["trialCodeDirectory"] = content["tuner"]["codeDirectory"] = str(ROOT)
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def take(browser: Chrome, name: str, width: int, height: int | None, scheme: str, scale: float) -> None:
    emulate(browser, width, height or 1000, scheme, scale)
    browser.refresh()
    wait_for(lambda: browser.execute_script(IS_DRAWN[name.partition("_")[0]]))
    if height is None:
        height = browser.execute_script("return document.documentElement.scrollHeight")
        emulate(browser, width, height, scheme, scale)
    # Two frames: the charts follow the size in the first one, and are on the screen after the second.
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    path = IMAGES / f"{name}.png"
    browser.save_screenshot(str(path))
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path}: {small.width}x{small.height}, {path.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="nni_cream_screenshots_", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        command = [sys.executable, "-m", "nni_cream", "run", str(experiment_file(folder)), "--out", str(folder / "out")]
        try:
            subprocess.run([*command, "--port", str(port), "--keep"], cwd=ROOT, check=True)
            with open_browser() as browser:
                browser.get(page_address(port))
                for shot in SHOTS:
                    take(browser, *shot)
                # A folder by a relative name: the report shows it.
                os.chdir(folder)
                browser.get(write_report(Path("out")).absolute().as_uri())
                for shot in REPORT_SHOTS:
                    take(browser, *shot)
                assert console_errors(browser) == []
        finally:
            for process in processes_of(folder / "out"):
                process.kill()


if __name__ == "__main__":
    main()
