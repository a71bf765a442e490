"""Search spaces by name, and a user's own by ``package.module:Class``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import current_model

from nni_cream.errors import CreamError, SpaceError
from nni_cream.named import Registry
from nni_cream.spaces.chain import ChainSpace
from nni_cream.spaces.cream import CreamSpace
from nni_cream.spaces.digits import DigitsSpace
from nni_cream.spaces.fashion import FashionSpace
from nni_cream.spaces.mixed import MixedSpace
from nni_cream.spaces.nas_bench_macro import NasBenchMacroSpace
from nni_cream.spaces.zoo import build_published, list_networks

__all__ = ["check_images", "create", "list_spaces", "parameters_of"]

_OWN: dict[str, type[ModelSpace]] = {
    "chain": ChainSpace,
    "cream": CreamSpace,
    "digits": DigitsSpace,
    "fashion": FashionSpace,
    "mixed": MixedSpace,
    "nas-bench-macro": NasBenchMacroSpace,
}


def _signature(space_class: type[ModelSpace]) -> inspect.Signature:
    # NNI wraps __init__ of nearly every space in one that takes anything; the author's own is kept here.
    signature = inspect.signature(vars(space_class).get("_init_wrapped", space_class.__init__))
    return signature.replace(parameters=list(signature.parameters.values())[1:])


_SPACES: Registry[type[ModelSpace]] = Registry(
    kind="space",
    known={**_OWN, **dict.fromkeys(list_networks(), CreamSpace)},
    path="package.module:Class",
    expected="a subclass of nni.nas.nn.pytorch.ModelSpace",
    accepts=lambda found: inspect.isclass(found) and issubclass(found, ModelSpace),
    error=SpaceError,
    signature=_signature,
)


def list_spaces() -> list[str]:
    """Names of the search spaces that ``create`` knows, in alphabetical order; for networks, ``list_networks``."""
    return sorted(_OWN)


def create(name: str, /, **arguments: Any) -> ModelSpace:
    """Build a search space, or a published network.

    ``name`` is one of ``list_spaces``, ``package.module:Class`` for a subclass of NNI's ``ModelSpace``, or one of
    ``list_networks``, which holds nothing to search any more. The arguments are those of the class. NNI records them:
    ``space.trace_kwargs`` holds those given, ``space.args`` all of them. Inside ``nni.nas.space.model_context(path)``
    the result is that one architecture instead, with new weights. Raises ``SpaceError`` if the name or an argument is
    unknown, the class cannot be imported or is no ``ModelSpace``, or the space holds nothing to search.
    """
    space_class = _SPACES.find(name)
    _SPACES.check_arguments(name, space_class, arguments)
    if name in list_networks():
        return build_published(name, **arguments)
    try:
        space = space_class(**arguments)
    except CreamError:
        raise
    except Exception as error:
        raise SpaceError(
            f"space {name!r} could not be built with {arguments}: {type(error).__name__}: {error}"
        ) from error
    # A fixed architecture has no mutable left, and that is what the caller of model_context asked for.
    if current_model() is None and not space.simplify():
        raise SpaceError(
            f"space {name!r} holds nothing to search; expected at least one LayerChoice, InputChoice, Repeat, Cell or "
            "other mutable of nni.nas.nn.pytorch inside."
        )
    return space


def parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a space by their names; raises ``SpaceError`` as ``create`` does."""
    return _signature(_SPACES.find(name)).parameters


def check_images(space: ModelSpace, input_shape: Sequence[int]) -> None:
    """Refuse images (C, H, W) with ``SpaceError`` if the space has a method ``check_images`` that does."""
    check: Callable[[Sequence[int]], None] | None = getattr(space, "check_images", None)
    if check is not None:
        check(input_shape)
