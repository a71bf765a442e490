"""State of every random number generator of the process, kept in values that a weights-only load accepts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["preserved_rng", "restore_rng", "rng_state", "seed_apart"]


def rng_state() -> dict[str, Any]:
    """Return the state of the generators of Python, NumPy and torch (CPU and this process's CUDA device)."""
    version, internal, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - it is what many augmentations draw from
    name, keys, position, has_gauss, cached = legacy
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        # Only the own card: a look at another would take some of its memory, in each process.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put every generator back to what :func:`rng_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())


def seed_apart(rank: int) -> None:
    """Give a further process of a training random numbers of its own, for augmentation and dropout."""
    if rank:  # the first one keeps those of a single process
        seed = (torch.initial_seed() + rank) % 2**32
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - augmentations draw from it, timm's Mixup for one


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Leave every generator as it was, whatever is drawn inside.

    Parameters
    ----------
    seed
        Seeds the generators of Python, NumPy and torch inside, if given.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - augmentations draw from it
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a hundred times as long
                if devices:
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
