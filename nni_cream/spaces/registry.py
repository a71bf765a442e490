"""Search spaces by name, and a user's own by ``package.module:Class``."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import current_model

from nni_cream.errors import CreamError, SpaceError
from nni_cream.spaces.cream import CreamSpace
from nni_cream.spaces.digits import DigitsSpace
from nni_cream.spaces.fashion import FashionSpace
from nni_cream.spaces.zoo import build_published, list_networks

__all__ = ["check_images", "create", "list_spaces"]

_SPACES: dict[str, type[ModelSpace]] = {"cream": CreamSpace, "digits": DigitsSpace, "fashion": FashionSpace}


def list_spaces() -> list[str]:
    """Names of the search spaces that ``create`` knows, in alphabetical order; for networks, ``list_networks``."""
    return sorted(_SPACES)


def create(name: str, /, **arguments: Any) -> ModelSpace:
    """Build a search space, or a published network.

    Inside ``nni.nas.space.model_context(path)`` the result is that one architecture instead, with new weights.

    Parameters
    ----------
    name
        One of ``list_spaces``, or ``package.module:Class`` for a subclass of NNI's ``ModelSpace`` that Python can
        import; or one of ``list_networks``, which holds nothing to search any more.
    **arguments
        Handed to the class. NNI records them: ``space.trace_kwargs`` holds those given, ``space.args`` all of them.

    Returns
    -------
    nni.nas.nn.pytorch.ModelSpace
        The space, with at least one mutable inside.

    Raises
    ------
    SpaceError
        If the name is unknown, the class cannot be imported or is no ``ModelSpace``, it does not take these arguments,
        or it holds nothing to search.
    """
    if name in list_networks():
        _check_arguments(name, CreamSpace, arguments)
        return build_published(name, **arguments)
    space_class = _SPACES.get(name) or _import_space(name)
    _check_arguments(name, space_class, arguments)
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
            f"space {name!r} holds nothing to search: expected at least one LayerChoice, InputChoice, Repeat, Cell or "
            "other mutable of nni.nas.nn.pytorch inside."
        )
    return space


def check_images(space: ModelSpace, input_shape: Sequence[int]) -> None:
    """Refuse images that a space is not made for, if it has a word to say: a method ``check_images``.

    Parameters
    ----------
    space
        A search space, or a network that was built from one.
    input_shape
        Shape (C, H, W) of one image.

    Raises
    ------
    SpaceError
        If the space refuses them.
    """
    check: Callable[[Sequence[int]], None] | None = getattr(space, "check_images", None)
    if check is not None:
        check(input_shape)


def _import_space(name: str) -> type[ModelSpace]:
    if ":" not in name:
        near = get_close_matches(name, [*_SPACES, *list_networks()], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join([*list_spaces(), *list_networks()])
        raise SpaceError(f"unknown space {name!r}; known: {known}; your own: package.module:Class.{hint}")
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:
        raise SpaceError(
            f"space {name!r} cannot be imported: {type(error).__name__}: {error}. Expected package.module:Class; the "
            "folder that holds the package must be on PYTHONPATH."
        ) from error
    if not (inspect.isclass(found) and issubclass(found, ModelSpace)):
        raise SpaceError(f"space {name!r} is {found!r}; expected a subclass of nni.nas.nn.pytorch.ModelSpace.")
    return found


def _check_arguments(name: str, space_class: type[ModelSpace], arguments: dict[str, Any]) -> None:
    # NNI wraps __init__ of nearly every space in one that takes anything; the author's own stands here.
    signature = inspect.signature(vars(space_class).get("_init_wrapped", space_class.__init__))
    try:
        signature.bind(None, **arguments)
    except TypeError as error:
        known = list(signature.parameters)[1:]
        near = {word: get_close_matches(word, known, n=1) for word in arguments if word not in known}
        hint = "".join(f" Did you mean {match[0]!r} for {word!r}?" for word, match in near.items() if match)
        raise SpaceError(f"space {name!r}: {error}; its arguments: {', '.join(known) or 'none'}.{hint}") from error
