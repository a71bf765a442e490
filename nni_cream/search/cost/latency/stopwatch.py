"""Times networks and parts of them on a device."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as File
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nni_cream.errors import ConfigError
from nni_cream.search.settings import LatencyOptions

if TYPE_CHECKING:
    from nni_cream.search.cost.latency.latency_table import LatencyTable

__all__ = ["Clock", "LatencySettings", "Stopwatch", "device_name", "repeated", "structure"]

Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class LatencySettings(LatencyOptions):
    """How to measure ``cost="latency"``, or where it was measured.

    Raises
    ------
    ConfigError
        If an option is out of its range, the device is unknown here, or the table contradicts an option.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is not None:
            self._check_table(self.table)
        elif _kind(self.device) is None:
            raise ConfigError(
                f"latency.device is {self.device!r}; expected a device of torch here, such as 'cpu' or 'cuda', since "
                f"latencies are measured on it. Give one, or a table that was made on {self.device!r}."
            )

    def _check_table(self, table: LatencyTable) -> None:
        here = _kind(self.device) is not None
        expected = device_name(self.torch_device) if here else self.device
        if table.device != expected:
            raise ConfigError(
                f"latency.device is {self.device!r}{f', here {expected!r}' if here else ''}; expected "
                f"{table.device!r}, the device of the latency table. Make a table on this device, or set device to "
                f"{table.device!r} if the network is for it."
            )
        for name in ("batch_size", "threads"):
            # Left out, an option takes the table's value, so only one that the user sets can contradict it.
            wanted, made = getattr(self, name), table.settings.get(name)
            if wanted is not None and wanted != made:
                raise ConfigError(
                    f"latency.{name} is {wanted}; expected {made}, as in the latency table. Make another table, or "
                    f"leave {name} out."
                )

    @property
    def torch_device(self) -> torch.device:
        """The device to measure on."""
        if _kind(self.device) is None:
            raise ConfigError(
                f"latency.device is {self.device!r}; expected a device of torch here, since latencies are measured on "
                "it."
            )
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def outline(self) -> dict[str, Any]:
        """Return the options that decide the latencies as plain values, for a checkpoint."""
        names = ("device", "batch_size", "threads", "warmup", "repeats", "paths")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        plain["image_sizes"] = None if self.image_sizes is None else list(self.image_sizes)
        plain["table"] = None if self.table is None else self.table.digest
        return plain


def _kind(device: str) -> str | None:
    """Return the kind of an available torch device, ``None`` for anything else."""
    if device == "auto":
        return "auto"
    try:
        kind = torch.device(device)
    except RuntimeError:
        return None
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        return None
    return kind.type if kind.type in ("cpu", "cuda") else None


def device_name(device: torch.device) -> str:
    """Return the name of a CPU or GPU of this machine, such as ``"cpu: Intel(R) Xeon(R) CPU @ 2.20GHz"``."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    about = File("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", about.read_text(encoding="utf-8"), re.M) if about.exists() else None
    return f"{device.type}: {found.group(1).strip() if found else platform.processor() or platform.machine()}"


@dataclass
class Stopwatch:
    """Times functions on a device, in rounds over all of them.

    Parameters
    ----------
    device
        Device that they run on.
    threads
        Threads of the CPU. Default: those of torch.
    warmup
        Rounds before the clock counts.
    repeats
        Rounds that the clock counts.
    clock
        Returns seconds.
    """

    device: torch.device
    threads: int | None = None
    warmup: int = 3
    repeats: int = 11
    clock: Callable[[], float] = time.perf_counter
    burst: int = field(init=False)

    def __post_init__(self) -> None:
        # On a GPU the wait for its end would outweigh a small part, were it not shared by several runs.
        self.burst = 10 if self.device.type == "cuda" else 1

    def time(self, runs: Mapping[Any, Callable[[], object]]) -> dict[Any, float]:
        """Time functions given by any key; return the median seconds of each by its key."""
        seconds: dict[Any, list[float]] = {key: [] for key in runs}
        with torch.inference_mode(), self._threads():
            # In rounds: a slow moment of the machine then hits all functions alike, and the median drops it.
            for turn in range(self.warmup + self.repeats):
                for key, run in runs.items():
                    taken = self._once(run)
                    if turn >= self.warmup:
                        seconds[key].append(taken)
        return {key: median(values) for key, values in seconds.items()}

    def _once(self, run: Callable[[], object]) -> float:
        self._wait()
        start = self.clock()
        for _ in range(self.burst):
            run()
        self._wait()
        return (self.clock() - start) / self.burst

    def _wait(self) -> None:
        if self.device.type == "cuda":
            # A GPU runs asynchronously: the clock alone would time only the launch.
            torch.cuda.synchronize(self.device)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def repeated(inputs: Any, size: int, device: torch.device) -> Any:
    """Repeat the first sample of every tensor ``size`` times on a device, in its memory layout."""

    def repeat(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        # A real copy: an expanded view would read one sample over and over from the cache.
        return torch.cat([item.detach()[:1].to(device)] * size) if item.ndim else item.to(device)

    return tree_map(repeat, inputs)


def structure(module: nn.Module) -> Any:
    """Return all that decides a module's time: the kinds, settings and shapes of its parts."""
    return tuple((name, *_outline(part)) for name, part in module.named_modules())


# Torch's own attributes are hooks, mode and containers; parts and tensors are compared separately.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _setting(value: Any) -> Any:
    """Return a comparable form of a setting; two settings not known to be equal differ."""
    if isinstance(value, bool | int | float | str | torch.dtype | None):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value).__name__, tuple(map(_setting, value))
    if isinstance(value, Mapping):
        return tuple((repr(key), _setting(item)) for key, item in value.items())
    name = getattr(value, "__qualname__", "<")  # of a class or function; a lambda or a local one is only itself
    return id(value) if "<" in name else (getattr(value, "__module__", None), name)


def _outline(module: nn.Module) -> tuple[Any, ...]:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    settings = tuple(
        (name, _setting(value)) for name, value in sorted(vars(module).items()) if name not in _OF_EVERY_MODULE
    )
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return kind, settings, tuple((name, tuple(value.shape), str(value.dtype)) for name, value in tensors)
