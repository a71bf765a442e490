"""Imports, accelerators and data sets, as the process of ``probe.py`` reports them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nni_cream.starter.checks.findings import Finding, error, gibibytes, ok, warning

__all__ = ["accelerator_findings", "data_findings", "import_findings", "nvidia_driver", "probe_findings", "run_probe"]

_PATIENCE = 600.0  # seconds; PyTorch from a network folder takes a minute
_DRIVER = re.compile(r"\s(\d+\.\d+(?:\.\d+)?)\s")
_OLD_DRIVERS = "docs/install.md, Older CUDA drivers, lists the PyTorch for each driver"
_HIDDEN = ("", "-1")


def run_probe(module: str = "nni_cream.starter.checks.probe") -> dict[str, Any] | str:
    """Run the probe in another process.

    Parameters
    ----------
    module
        The module to run.

    Returns
    -------
    dict or str
        Its report, or the reason that there is none.
    """
    # -P: a file torch.py in the current folder is not what a search imports.
    command = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"the imports took more than {_PATIENCE:g} seconds"
    if done.returncode < 0:
        return f"the process of the imports was ended by signal {-done.returncode}"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"the process of the imports ended with {done.returncode}"
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def probe_findings(report: Mapping[str, Any] | str) -> Iterator[Finding]:
    """Yield all that the probe reports; one error if it came to no end."""
    if isinstance(report, str):
        advice = "Run `python -X faulthandler -c 'import torch, nni'` for the place, and install that package again."
        yield error("imports", report, advice)
        return
    yield from import_findings(report["imports"])
    if report["accelerator"]:
        yield from accelerator_findings(report["accelerator"], nvidia_driver(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    yield from data_findings(report["data"])


def import_findings(failed: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the modules that cannot be imported; the others follow from the first."""
    first = next((name for name, problem in failed.items() if problem), None)
    if first is None:
        yield ok("imports", ", ".join(failed))
    else:
        package = first.partition(".")[0].replace("_", "-")
        advice = f"Install {package} and the packages that it names in versions that fit together."
        yield error("imports", f"{first} cannot be imported: {failed[first]}", advice)


def nvidia_driver(file: Path = Path("/proc/driver/nvidia/version"), program: str = "nvidia-smi") -> str | None:
    """Return the version of the NVIDIA driver, ``unknown`` if there is one without a version, else ``None``."""
    if file.exists():
        found = _DRIVER.search(file.read_text(encoding="utf-8"))
        return found[1] if found else "unknown"
    return "unknown" if shutil.which(program) else None


def accelerator_findings(facts: Mapping[str, Any], driver: str | None, visible: str | None) -> Iterator[Finding]:
    """Yield each GPU, or why PyTorch uses none.

    Parameters
    ----------
    facts
        The probe's.
    driver
        Version of the NVIDIA driver, ``None`` without one.
    visible
        Value of ``CUDA_VISIBLE_DEVICES``, ``None`` if it is not set.

    Yields
    ------
    Finding
        At least one.
    """
    for number, device in enumerate(facts["devices"]):
        text = f"{device['name']}, {gibibytes(device['memory'])}, CUDA {facts['cuda']}"
        if device["error"]:
            advice = f"Install a PyTorch that supports it, or set trainer.accelerator: cpu; {_OLD_DRIVERS}."
            yield error(f"GPU {number}", f"{text}, fails: {device['error']}", advice)
        else:
            yield ok(f"GPU {number}", text)
    if not facts["devices"]:
        yield _without_cuda(facts, driver, visible)


def _without_cuda(facts: Mapping[str, Any], driver: str | None, visible: str | None) -> Finding:
    if facts["mps"]:
        return ok("GPU", "Apple's, by MPS")
    if driver is None:
        return ok("GPU", "none; searches run on the CPU")
    if visible is not None and visible.strip() in _HIDDEN:
        return ok("GPU", "hidden by CUDA_VISIBLE_DEVICES")
    if facts["cuda"] is None:
        return warning(
            "GPU", f"not used: PyTorch {facts['torch']} has no CUDA", f"Install a CUDA build; {_OLD_DRIVERS}."
        )
    reason = "".join(f": {line}" for line in facts["warnings"][:1])
    return warning(
        "GPU",
        f"not used: driver {driver}, PyTorch for CUDA {facts['cuda']}{reason}",
        f"Update the driver or install an older PyTorch; {_OLD_DRIVERS}.",
    )


def data_findings(found: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    """Yield the data sets that need no ``root``; a missing one is no mistake, but the shipped ones must be there."""
    for name, (text, problem) in found.items():
        lines = problem.splitlines()
        if not problem:
            yield ok(f"data {name}", text)
        elif name == "digits":
            yield error(f"data {name}", lines[0], "Install scikit-learn again: it contains them.")
        else:
            yield ok(f"data {name}", "not found", lines[-1])
