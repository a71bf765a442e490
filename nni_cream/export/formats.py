"""Formats that a network can be exported to; each file is checked against the network.

TorchScript is not among them: ``torch.jit`` is deprecated in favour of ``torch.export``, whose programs load without
the code that they come from.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import signal
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nni_cream.errors import ConfigError, ExportError
from nni_cream.export.code import network_code
from nni_cream.export.output_check import compare, evaluating, first_line

__all__ = [
    "DEFAULT_OPSET",
    "FILES",
    "FORMATS",
    "METADATA_KEY",
    "annotate",
    "check_exportable",
    "check_formats",
    "write_formats",
]

FILES = {"code": "network.py", "onnx": "network.onnx", "torch": "network.pt2"}
FORMATS = tuple(FILES)
WEIGHTS = "weights.pt"
DEFAULT_OPSET = 18
"""Also the oldest: PyTorch's exporter writes this one, and converts it to newer ones."""

METADATA_KEY = "nni_cream"
"""Key of the facts in an ONNX file, whose value is a JSON object."""

_INPUT, _OUTPUT = "images", "logits"
_TRACES = ("stack_trace", "pkg.torch.onnx.stack_trace")
"""Notes of PyTorch's exporters that hold paths of the machine; no runtime reads them."""


def check_formats(formats: Sequence[str], opset: int | None = None) -> None:
    """Refuse formats that cannot be written here, before any work is done.

    Raises ``ConfigError`` for an unknown format, and for an opset without ONNX or out of range. Raises ``ExportError``
    if a package that a format needs is not installed.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or len(set(formats)) < len(formats):
        raise ConfigError(
            f"format is {', '.join(formats) or 'empty'}; expected different ones of {', '.join(FORMATS)}."
        )
    if "onnx" not in formats:
        if opset is not None:
            raise ConfigError(
                f"opset is {opset}; expected none with {', '.join(formats)}, since it is for the format onnx."
            )
        return
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"format onnx: package {name} cannot be imported ({error}). Run pip install 'nni_cream[export]', or "
                "leave this format out."
            ) from None
    newest = _newest_opset()
    if opset is not None and not DEFAULT_OPSET <= opset <= newest:
        raise ConfigError(f"opset is {opset}; expected {DEFAULT_OPSET} to {newest} here.")


def _newest_opset() -> int:
    import onnx

    return int(onnx.defs.onnx_opset_version())


def write_formats(
    network: nn.Module,
    images: Tensor,
    folder: Path,
    formats: Sequence[str],
    *,
    opset: int | None = None,
    title: str = "A network.",
    facts: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Write a network in each format, and check each file with the network's own outputs.

    The Python code holds no weights: save the ``state_dict`` as ``weights.pt`` in the folder for its ``load()``.

    Parameters
    ----------
    network
        Images in, one tensor of logits out, on the CPU. It is exported as it is in evaluation.
    images
        At least two images (N, C, H, W), real ones if there are any.
    folder
        An existing folder.
    formats
        Of :data:`FORMATS`.
    opset
        Version of ONNX's operators. Default: :data:`DEFAULT_OPSET`.
    title
        First lines of the Python code.
    facts
        Plain JSON values about the network, such as its classes. An ONNX file keeps them as a JSON text under
        ``nni_cream`` in its metadata.

    Returns
    -------
    dict
        Format -> largest absolute difference of an output from the network's.

    Raises
    ------
    ExportError
        If the network cannot be written in a format, a file computes something else, or ``facts`` is no JSON.
    """
    check_formats(formats, opset)
    if len(images) < 2:
        raise ExportError(f"the number of images of the check is {len(images)}; expected at least two.")
    metadata = _metadata(facts)
    differences = {}
    with evaluating(network):
        _check_runs(network, images)
        if "code" in formats:
            differences["code"] = _write_code(network, images, folder / FILES["code"], title)
        if "onnx" in formats:
            differences["onnx"] = _write_onnx(network, images, folder / FILES["onnx"], opset or DEFAULT_OPSET, metadata)
        if "torch" in formats:
            differences["torch"] = _write_program(network, images, folder / FILES["torch"])
    return differences


def check_exportable(network: nn.Module, images: Tensor) -> None:
    """Raise ``ExportError`` if PyTorch cannot write a network down, before a long training for it.

    The formats ``onnx`` and ``torch`` rest on this; ``images`` (N, C, H, W) are at least two.
    """
    with evaluating(network):
        _check_runs(network, images)
        try:
            with _interrupted_afterwards():
                torch.export.export(network, (images,), dynamic_shapes=_batch_of(images))
        except Exception as error:  # of any layer of torch.export
            raise ExportError(
                f"torch.export cannot write a network of this space: {first_line(error)}. What a forward computes must "
                "not depend on the values of tensors"
            ) from error


def _check_runs(network: nn.Module, images: Tensor) -> None:
    for batch in (images, images[:1]):
        try:
            logits = network(batch)
        except Exception as error:  # a user's own forward may raise anything
            raise ExportError(
                f"the network does not take images of shape {tuple(batch.shape)}: {first_line(error)}"
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ExportError(
                f"the output of the network is {shape} for {len(batch)} image(s); expected a row of logits for each."
            )
        if not logits.isfinite().all():
            raise ExportError(
                "the outputs of the network are not finite; expected finite numbers. Its training diverged, or the "
                "images are wrong."
            )


def _write_code(network: nn.Module, images: Tensor, path: Path, title: str) -> float:
    path.write_text(network_code(network, images, title), encoding="utf-8")
    module = types.ModuleType("network")
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    rebuilt: nn.Module = module.build()
    try:
        rebuilt.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise ExportError(f"{path.name}: the network's weights do not fit the code written for it: {error}") from error
    return compare(network, rebuilt.eval(), images, path.name)


def _batch_of(images: Tensor) -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch")},)


def _metadata(facts: Mapping[str, Any] | None) -> str | None:
    try:
        return None if facts is None else json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"facts is no JSON object ({error}); expected plain numbers, texts, lists and dicts."
        ) from None


def _write_onnx(network: nn.Module, images: Tensor, path: Path, opset: int, metadata: str | None) -> float:
    import onnx
    import onnxruntime

    try:
        with _interrupted_afterwards(), _silent_exporter():
            program = torch.onnx.export(
                network,
                (images,),
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=_batch_of(images),
                verbose=False,
                external_data=False,
            )
            assert program is not None
            program.save(path)
    except Exception as error:  # of any layer of PyTorch's exporter
        raise ExportError(f"{path.name}: PyTorch cannot write this network as ONNX: {first_line(error)}") from error
    model = onnx.load(path)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != opset:
        raise ExportError(
            f"{path.name}: opset is {opset}; expected one that is available for this network, since the exporter wrote "
            f"{versions.get('')}. Choose another from {DEFAULT_OPSET} to {_newest_opset()}."
        )

    annotate(model, metadata)
    onnx.save(model, path)

    def run(batch: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: batch.numpy()})[0])

    return compare(network, run, images, path.name)


def annotate(model: Any, metadata: str | None) -> None:
    """Add facts to an ONNX model, as JSON under :data:`METADATA_KEY`, and remove the paths of this machine."""
    for node in chain(model.graph.node, *(function.node for function in model.functions)):
        kept = [entry for entry in node.metadata_props if entry.key not in _TRACES]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    if metadata is not None:
        model.metadata_props.add(key=METADATA_KEY, value=metadata)


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Delay a Ctrl-C until the exporter is done; a second one counts at once.

    Parts of PyTorch's exporters take the interrupt for an error of the network, try something else and continue.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _is_main_thread():
        yield
        return
    wanted: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        if wanted:
            signal.default_int_handler(number, frame)
        wanted.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if wanted:
            raise KeyboardInterrupt


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()  # signals go to no other


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """Silence the logs and prints of the exporter's parts: its success is checked on the file."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _write_program(network: nn.Module, images: Tensor, path: Path) -> float:
    try:
        with _interrupted_afterwards():
            program = torch.export.export(network, (images,), dynamic_shapes=_batch_of(images))
            for node in program.graph.nodes:
                node.meta.pop(_TRACES[0], None)
            torch.export.save(program, path)
            loaded = torch.export.load(path).module()
    except Exception as error:  # of any layer of torch.export
        raise ExportError(f"{path.name}: torch.export cannot write this network: {first_line(error)}") from error
    return compare(network, loaded, images, path.name)
