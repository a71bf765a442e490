"""Settings of the way from disk to device.

Neither torch nor NNI is imported here: the configuration derives its keys from this class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nni_cream.options import FLAG, Options, option, whole

__all__ = ["Loading"]


@dataclass(frozen=True)
class Loading(Options):
    """Worker processes and their batches."""

    prefix: ClassVar[str] = "loader."

    workers: int = option(
        0,
        whole(0),
        "Processes that read and decode images; 0 for images that are in memory, one a CPU core for files.",
    )
    prefetch: int = option(2, whole(1), "Batches that each of them keeps ready.")
    # Starting them takes seconds with large data sets.
    persistent: bool = option(True, FLAG, "Whether they stay from epoch to epoch.")
    pin_memory: bool = option(False, FLAG, "Whether batches lie where a GPU fetches them faster.")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of torch's ``DataLoader``."""
        if not self.workers:
            return {"pin_memory": self.pin_memory}
        return {
            "num_workers": self.workers,
            "prefetch_factor": self.prefetch,
            "persistent_workers": self.persistent,
            "pin_memory": self.pin_memory,
        }
