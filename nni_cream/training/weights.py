"""Loading of weights from a file into a network, with an explanation if they do not fit."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from nni_cream.errors import FileError
from nni_cream.files import replacing

__all__ = ["check_fit", "check_whole", "fit_weights", "load_weights", "read_weights", "save_weights"]

_NESTED = ("state_dict_ema", "state_dict", "model_ema", "model", "ema")
"""Where checkpoints of other programs keep the weights; the averaged ones are what their authors report."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every key."""

_SHOWN = 5
_LONGEST_NAME = 1000
_LEGACY_PICKLES = 5
"""Before PyTorch 1.6: a magic number, the protocol, the system, the content, names of storages; raw numbers follow."""


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Read weights from a file into a network, which stays unchanged if they do not fit.

    Raises ``FileError`` if the file is missing, truncated, holds anything but weights (see :func:`read_weights`), or
    those of another architecture; then the message lists the first differences.
    """
    fit_weights(network, read_weights(path), path)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file to the CPU. Nothing but weights is ever loaded.

    The file holds a ``state_dict``, or one under ``state_dict``, ``state_dict_ema``, ``model``, ... (the averaged ones
    win). A prefix ``module.`` or ``_orig_mod.`` before every key is removed.
    """
    try:
        check_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(
            f"{path}: there is no such file; expected a file with a state_dict, such as weights.pt."
        ) from None
    except pickle.UnpicklingError as error:
        raise FileError(_refusal(path, error)) from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes torch fail in any way, IndexError among them
        raise FileError(
            f"{path}: is broken or not a file of weights ({_first_line(error)}). Copy or make it again."
        ) from None
    return _find_weights(content, path)


def check_whole(path: str | Path) -> None:
    """Compare a file of PyTorch with its checksums, which PyTorch itself does not do; raises ``ValueError``.

    A file in the format before PyTorch 1.6 has no checksums and passes.
    """
    # Reading a pipe or a device might never end.
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is no regular file")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # PyTorch compresses nothing, so more content than bytes means a bomb.
            if sum(entry.file_size for entry in archive.infolist()) > Path(path).stat().st_size:
                raise ValueError("it unpacks to more bytes than it has")
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} in it is wrong")
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    _check_names(io.BytesIO(archive.read(name)))
    else:
        with Path(path).open("rb") as file:
            for _ in range(_LEGACY_PICKLES):
                _check_names(file)


def _check_names(stream: IO[bytes]) -> None:
    """Refuse a pickle that names a class at length: PyTorch searches its own message in quadratic time."""
    longest = 0
    with suppress(ValueError):  # no pickle, or one that ends early: PyTorch tells what is wrong with it
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name in ("GLOBAL", "INST"):
                longest = max(longest, len(str(argument)))
    if longest > _LONGEST_NAME:
        raise ValueError(f"the name of a class in it has {longest} characters")


def _refusal(path: str | Path, error: pickle.UnpicklingError) -> str:
    # PyTorch reports a file that it cannot read and a pickle that it refuses with the same class.
    if any(word in str(error) for word in ("GLOBAL", "reduce", "Can only build")):
        return (
            f"{path}: holds Python objects besides weights, which could run code and are not loaded. If you trust it, "
            "save its weights alone: torch.save(network.state_dict(), file)."
        )
    # PyTorch's own words recommend to load the file with weights_only=False.
    return f"{path}: is broken or not a file of weights (no pickle of tensors alone). Copy or make it again."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _find_weights(content: Any, path: str | Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return _find_weights(content[key], path)
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(item, Tensor) for item in content.values())
    ):
        found = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            found = f"a mapping with keys {', '.join(map(str, islice(content, _SHOWN)))}"
        raise FileError(f"{path}: holds {found}; expected a state_dict, or one under {', '.join(_NESTED)}.")
    weights = {str(name): tensor for name, tensor in content.items()}
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str | Path) -> None:
    """Put weights into a network; raises ``FileError`` naming ``where`` if they are those of another architecture."""
    check_fit(network.state_dict(), weights, where)
    network.load_state_dict(weights)


def save_weights(path: Path, network: nn.Module) -> None:
    """Write the weights of a network, whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(path) as temporary:
        torch.save(weights, temporary)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise ``FileError`` if weights do not have the names and shapes of a network's own ``state_dict``."""
    problems = [
        f"{name}: missing in the file, the network's is {_shape(own[name])}" for name in own if name not in weights
    ]
    for name, tensor in weights.items():
        if name not in own:
            problems.append(f"{name}: {_shape(tensor)} in the file, not in the network")
        elif own[name].shape != tensor.shape:
            problems.append(f"{name}: {_shape(tensor)} in the file, {_shape(own[name])} in the network")
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise FileError(
            f"{where}: {len(problems)} of {len(own.keys() | weights.keys())} entries differ; expected the weights of "
            f"this architecture:\n  {listed}{more}\nUse the file of this architecture and number of classes."
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
