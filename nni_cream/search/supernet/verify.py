"""The check that a path of the supernet, the network frozen to it, and the network built anew for it are one network.

A search hands out networks that are frozen from the supernet, and files from which the class of the space builds them
again. Each of the three ways runs code of the user, of NNI and of this package. So they are compared on the user's own
space and images, before the first step and again before a result is written.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nni_cream.errors import CreamError, SpaceError
from nni_cream.rng import preserved_rng
from nni_cream.search.paths.encoded_path import Path, encode_path
from nni_cream.search.supernet.copies import copied
from nni_cream.search.supernet.gradients import gradients_of
from nni_cream.search.supernet.kept_inputs import kept
from nni_cream.search.supernet.outputs import main_output, tensors_in
from nni_cream.search.supernet.shared_values import awake, unchanged
from nni_cream.search.supernet.supernet import Supernet

__all__ = ["Inputs", "named_as_in", "same_network", "verify"]

_logger = logging.getLogger(__name__)
_Depth: TypeAlias = Literal["outputs", "modes", "gradients"]
_SUPERNET, _FROZEN, _REBUILT = "the supernet's path", "the frozen network", "the rebuilt network"


@dataclass(frozen=True)
class Inputs:
    """Arguments of the space's ``forward``, batch dimension first."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class _Measured:
    """What a network computes: outputs by mode, sums over its gradients if they were asked for, and operations."""

    outputs: dict[str, list[Tensor]]
    gradients: tuple[float, float, float] | None
    operations: int

    @property
    def rounding(self) -> float:
        """Relative rounding error of the outputs."""
        return max(map(_rounding, self.outputs["evaluation"]), default=1.0)


def verify(
    supernet: Supernet, inputs: Inputs, paths: Iterable[Path], rebuild: Callable[[Path], nn.Module | None] | None = None
) -> None:
    """Compare the three networks of each path; the supernet, the generators and all modes stay as they were.

    Compared are outputs in evaluation mode, operations, and the modules that networks name alike; of the first path
    also outputs in training mode, and gradients. ``rebuild`` builds the network of a path with new weights, or returns
    ``None`` if it cannot be built anew. Raises SpaceError if the frozen network differs: it names the module, what
    differs, and by how much. A rebuilt network that differs is a warning, since a space may have been changed after it
    was built.
    """
    for number, path in enumerate(paths):
        depth: _Depth = "outputs" if number else "gradients"
        with unchanged(supernet), preserved_rng(0), awake(supernet.space):
            frozen = _frozen(supernet, path)  # first: a forward pass in training mode changes the statistics
            state = _State.of(frozen)
            supernet.activate(path)
            original = _original(supernet, path, inputs, depth)
            measured = _check(_SUPERNET, _FROZEN, supernet.space, frozen, original, inputs, path)
            rebuilt = None if rebuild is None else rebuild(path)
            if rebuilt is None:
                continue
            try:
                _compare(state, frozen, measured, rebuilt, inputs, path)
            except SpaceError as error:
                # Networks frozen from the supernet are right, so a script can use them.
                _logger.warning("No file can hold the architectures of this search: %s", error)
                rebuild = None


def _original(supernet: Supernet, path: Path, inputs: Inputs, depth: _Depth) -> _Measured:
    try:
        _check_again(supernet, inputs, path)
        return _measure(supernet.space, inputs, depth)
    except CreamError:
        raise
    except Exception as error:  # of the user's own forward
        raise SpaceError(
            f"{_SUPERNET} {_told(path)} does not run: {type(error).__name__}: {_short(error)}. Every combination of "
            "the choices has to run, unless a constraint excludes it"
        ) from error


def _check_again(supernet: Supernet, inputs: Inputs, path: Path) -> None:
    """Raise SpaceError if a path gives other outputs when it runs again, as it does for each score and as a teacher."""
    named = dict(supernet.space.named_parameters())
    before = [weight._version for weight in named.values()]
    outputs = []
    for _ in range(2):
        with supernet.detached(), kept((inputs.args, inputs.kwargs)):
            outputs.append(tensors_in(supernet.space(*inputs.args, **inputs.kwargs)))
    changed = [name for (name, weight), old in zip(named.items(), before, strict=True) if weight._version != old]
    if changed:
        raise SpaceError(
            f"forward changes the weight {changed[0]!r} in place; expected weights as they were, since the gradient of "
            "a student needs them after its teacher has run. Assign weight.data, or use a parametrization"
        )
    difference = _difference(outputs[0], outputs[1], "evaluation")
    if difference is not None:
        with supernet.detached():
            where = _where(_first_difference(supernet.space, supernet.space, inputs, "evaluation"))
        raise SpaceError(
            f"{_SUPERNET} {_told(path)} gives other outputs when it runs again on the same input: they differ by "
            f"{difference}, first at {where}; expected the same. A module keeps state outside of its buffers: reset it "
            "at the start of forward, as with spiking neurons"
        )


def same_network(frozen: nn.Module, rebuilt: nn.Module, inputs: Inputs, path: Path) -> None:
    """Give a rebuilt network the weights of the frozen one, and raise SpaceError unless they are one network."""
    state = _State.of(frozen)
    _compare(state, frozen, _measure(frozen, inputs, "modes"), rebuilt, inputs, path)


@dataclass(frozen=True)
class _State:
    """A network before it ran: its weights, and how its modules describe themselves (the eps of BatchNorm)."""

    weights: dict[str, Tensor]
    described: dict[str, tuple[type[nn.Module], str]]

    @classmethod
    def of(cls, network: nn.Module) -> _State:
        described = {name: (type(module), module.extra_repr()) for name, module in network.named_modules()}
        return cls({name: item.clone() for name, item in network.state_dict().items()}, described)


def _compare(
    state: _State,
    frozen: nn.Module,
    measured: _Measured,
    rebuilt: nn.Module,
    inputs: Inputs,
    path: Path,
) -> None:
    device = next((item.device for item in state.weights.values()), torch.device("cpu"))
    rebuilt.to(device)
    try:
        rebuilt.load_state_dict(named_as_in(rebuilt, state.weights), assign=True)
    except RuntimeError as error:
        raise SpaceError(
            f"the weights of {_FROZEN} do not fit {_REBUILT} for the path {_told(path)}: {_short(error)}. Make "
            "all changes to the space inside the __init__ of its class, which builds it again from a file"
        ) from None
    _compare_modules(state.described, rebuilt, path)
    # The weights are the same, so the gradients are too.
    _check(_FROZEN, _REBUILT, frozen, rebuilt, replace(measured, gradients=None), inputs, path)


def named_as_in(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights with the names of a network, if only the names differ.

    A space may number its layers by what was chosen, which the supernet cannot. The order of the layers is the same.
    """
    own = network.state_dict()
    shapes = [[item.shape for item in weights.values()] for weights in (own, state)]
    if own.keys() == state.keys() or shapes[0] != shapes[1]:
        return state
    return dict(zip(own, state.values(), strict=True))


def _frozen(supernet: Supernet, path: Path) -> nn.Module:
    try:
        return supernet.freeze(path)
    except Exception as error:  # of a module's own __deepcopy__, or of a freeze of the user's own
        where = _where(_uncopied(supernet.view(path)))
        raise SpaceError(
            f"the network of the path {_told(path)} cannot be copied, at {where}: "
            f"{type(error).__name__}: {_short(error)}. A module has to work with copy.deepcopy"
        ) from error


def _uncopied(network: nn.Module) -> str:
    """Return the name of the innermost module that cannot be copied."""
    for name, module in [*network.named_modules()][::-1]:
        try:
            copied(module)
        except Exception:  # noqa: BLE001 - of a module of the user's
            return str(name)
    return ""


def _measure(network: nn.Module, inputs: Inputs, depth: _Depth) -> _Measured:
    outputs, gradients = {}, None
    with torch.no_grad(), preserved_rng(0):
        network.eval()
        with _Counter() as counter:
            outputs["evaluation"] = tensors_in(network(*inputs.args, **inputs.kwargs))
    if depth != "outputs":
        with torch.set_grad_enabled(depth == "gradients"), preserved_rng(0):
            network.train()
            output = network(*inputs.args, **inputs.kwargs)
            outputs["training"] = [item.detach() for item in tensors_in(output)]
            if depth == "gradients":
                gradients = _gradients(network, main_output(output))
        network.eval()
    torch.clear_autocast_cache()
    return _Measured(outputs, gradients, counter.operations)


class _Counter(TorchDispatchMode):
    """Counts by torch's formulas alone; the count of a search is finer, and slower."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=output))
        return output


def _gradients(network: nn.Module, output: Tensor) -> tuple[float, float, float]:
    """Return the sum of all gradients, the sum of gradient times weight, and the sum of their sizes.

    The first two are the same however weights are shared: a supernet may use one weight twice, or a slice of it, where
    a frozen network has copies.
    """
    weights = [item for item in network.parameters() if item.requires_grad]
    if not output.requires_grad or not weights:
        return 0.0, 0.0, 0.0
    direction = torch.linspace(-1, 1, output.numel(), device=output.device).sin().reshape(output.shape)
    gradients = gradients_of((output.abs() if output.is_complex() else output.float()).mul(direction).sum(), weights)
    total = product = size = 0.0
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            gradient, value = (_real(item).double() for item in (gradient, weight.detach()))
            total += float(gradient.sum())
            product += float((gradient * value).sum())
            size += float(gradient.abs().sum())
    return total, product, size


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _check(
    first: str, second: str, one: nn.Module, other: nn.Module, expected: _Measured, inputs: Inputs, path: Path
) -> _Measured:
    try:
        found = _measure(other, inputs, _depth(expected))
    except Exception as error:  # of the user's own forward
        raise SpaceError(
            f"{second} does not run for the path {_told(path)}, but {first} does: {type(error).__name__}: "
            f"{_short(error)}"
        ) from error
    for mode, outputs in expected.outputs.items():
        difference = _difference(outputs, found.outputs[mode], mode)
        if difference is not None:
            where = _where(_first_difference(one, other, inputs, mode))
            raise SpaceError(
                f"{second} gives other outputs than {first} in {mode} mode, for the path {_told(path)}: they "
                f"differ by {difference}, first at {where}; expected the same. Look at what its class does beyond its "
                "layers: a freeze of its own, a forward that asks for choices, a hook that holds the network "
                "in a closure, or state outside of parameters and buffers"
            )
    if found.operations != expected.operations:
        raise SpaceError(
            f"{second} computes {found.operations:,} operations, {first} {expected.operations:,}, for the path "
            f"{_told(path)}; expected the same"
        )
    if expected.gradients is None or found.gradients is None:
        return found
    size, total = expected.gradients[2], expected.gradients[:2]
    apart = max(abs(a - b) for a, b in zip(total, found.gradients[:2], strict=True))
    if math.isfinite(size) and not apart <= 3 * expected.rounding**0.5 * size + 1e-6:
        raise SpaceError(
            f"the gradients of {second} differ from those of {first} for the path {_told(path)}: their sums differ by "
            f"{apart:.3g} of {size:.3g}; expected the same"
        )
    return found


def _depth(measured: _Measured) -> _Depth:
    if measured.gradients is not None:
        return "gradients"
    return "modes" if "training" in measured.outputs else "outputs"


def _rounding(output: Tensor) -> float:
    """Return the relative rounding error of an output; GPUs round the factors of single precision to ten bits."""
    kind = output.device.type
    if torch.is_autocast_enabled(kind):
        return 2**-8
    eps = torch.finfo(output.dtype).eps if output.is_floating_point() or output.is_complex() else 1.0
    return eps if kind == "cpu" else max(eps, 2**-10)


def _difference(expected: list[Tensor], found: list[Tensor], mode: str) -> str | None:
    """Return how far outputs are apart, ``None`` if they agree up to rounding."""
    shapes = [[tuple(item.shape) for item in outputs] for outputs in (expected, found)]
    if shapes[0] != shapes[1]:
        return f"their shapes, {shapes[1]} instead of {shapes[0]}"
    for one, other in zip(expected, found, strict=True):
        # The root of the rounding error: small enough for any mistake, large enough for another order of sums. In
        # training mode, BatchNorm over two samples magnifies the rounding.
        if not one.is_floating_point() and not one.is_complex():
            continue
        tolerance = _rounding(one) ** 0.5 * (10 if mode == "training" else 1)
        largest = float(one.abs().max()) if one.numel() else 0.0
        apart = float((one - other).abs().max()) if one.numel() else 0.0
        if largest < float("inf") and not apart <= tolerance * max(largest, 1e-6):
            return f"{apart:.3g} of {largest:.3g}"
    return None


def _first_difference(one: nn.Module, other: nn.Module, inputs: Inputs, mode: str) -> str:
    """Return the name of the first module, in the order in which they finish, that gives another output."""
    ours, theirs = _traced(one, inputs, mode), _traced(other, inputs, mode)
    common = [name for name in theirs if name in ours]
    return next((name for name in common if _difference(ours[name], theirs[name], mode) is not None), "")


def _traced(network: nn.Module, inputs: Inputs, mode: str) -> dict[str, list[Tensor]]:
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs.setdefault(name, [item.clone() for item in tensors_in(output)])

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad(), preserved_rng(0):
            network.train(mode == "training")
            network(*inputs.args, **inputs.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _compare_modules(described: Mapping[str, tuple[type[nn.Module], str]], rebuilt: nn.Module, path: Path) -> None:
    for name, twin in rebuilt.named_modules():
        kind, text = described.get(name, (None, ""))
        if isinstance(twin, nn.Module) and type(twin) is kind and twin.extra_repr() != text:
            raise SpaceError(
                f"{_where(name)} is {kind.__name__}({text}) in {_FROZEN}, and {kind.__name__}({twin.extra_repr()}) in "
                f"{_REBUILT} for the path {_told(path)}; expected the same. Make all changes to the space inside the "
                "__init__ of its class, which builds it again from a file"
            )


def _where(name: str) -> str:
    return f"module {name!r}" if name else "the whole network"


def _told(path: Path) -> str:
    """Return the choices of a path, cut to a readable length."""
    text = ", ".join(f"{label}={value}" for label, value in encode_path(path).items())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
