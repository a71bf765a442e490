"""What only PyTorch and NNI can tell of a machine; ``nni-cream doctor`` runs this file in a process of its own.

There, a crash or a hang of a library is one more finding. Imports take seconds, and wait until all else is known.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from typing import Any

from nni_cream.errors import CreamError

__all__ = ["IMPORTS", "main", "probe"]

IMPORTS = ("torch", "torchvision", "pytorch_lightning", "nni.nas.nn.pytorch", "nni_cream.strategy")
"""Modules that every search needs, each after those that it imports."""


def probe() -> dict[str, Any]:
    """Look at the imports, the accelerators and the data sets.

    Returns
    -------
    dict
        ``imports``: module -> error, empty if there was none; ``accelerator``: PyTorch and its devices; ``data``: name
        -> ``[found, error]``. The last two are empty if the modules that they need cannot be imported.
    """
    failed = {name: _error_of(partial(import_module, name)) for name in IMPORTS}
    content: dict[str, Any] = {"imports": failed, "accelerator": {}, "data": {}}
    if not failed["torch"]:
        content["accelerator"] = _accelerator()
    if not failed["torchvision"]:
        content["data"] = {"digits": _found(_digits), "fashion": _found(_fashion)}
    return content


def _error_of(action: Callable[[], object]) -> str:
    """Return the error of an action in one line; a broken library may raise anything."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - it becomes a line of the report
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return ""


def _accelerator() -> dict[str, Any]:
    """Return PyTorch and its CUDA, warnings of the driver, and each GPU with the error of a first computation."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    devices = []
    for index in range(torch.cuda.device_count() if available else 0):
        properties = torch.cuda.get_device_properties(index)
        failure = _error_of(partial(_compute, index))
        devices.append({"name": properties.name, "memory": properties.total_memory, "error": failure})
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": devices,
        "mps": torch.backends.mps.is_available(),
        "warnings": [str(item.message).partition("\n")[0] for item in caught],
    }


def _compute(index: int) -> None:
    """Use a GPU once: PyTorch lists those, too, for which it has no kernels."""
    import torch

    torch.ones(2, device=f"cuda:{index}").sum().item()


def _digits() -> str:
    from nni_cream.data import create

    splits = create("digits")
    return f"{sum(map(len, splits.indices.values())):,} images"


def _fashion() -> str:
    from nni_cream.data.fashion import find_fashion

    return str(find_fashion("fashion"))


def _found(look: Callable[[], str]) -> tuple[str, str]:
    try:
        return look(), ""
    except CreamError as error:
        return "", str(error)


def main() -> None:
    """Print the result as one line of JSON, the only line of the output."""
    with redirect_stdout(sys.stderr):  # what libraries print on import
        content = probe()
    print(json.dumps(content))


if __name__ == "__main__":
    main()
