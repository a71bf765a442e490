"""Garbage collection around large libraries: there are a million objects, and none of them is garbage."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["importing"]


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Collect nothing while a large package is imported inside, and leave its objects out of later collections.

    Importing PyTorch, Lightning and NNI takes a fifth less time, a training of small networks about a tenth less. The
    process ends two seconds sooner. Where the package is imported already, all stays as it is.

    Parameters
    ----------
    package
        Its name.
    """
    if package in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(_collect_no_more)


def _collect_no_more() -> None:
    gc.freeze()
    gc.disable()
