"""Things by name: the package's own, and a user's by ``package.module:Name``."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from nni_cream.errors import CreamError

__all__ = ["Registry", "did_you_mean"]

T = TypeVar("T")


def did_you_mean(word: Any, known: Iterable[str], place: str = "") -> str:
    """Return a hint at the known word that is closest, such as `` Did you mean 'digits'?``, or nothing."""
    near = get_close_matches(str(word), known, n=1)
    return f" Did you mean {near[0]!r}{place}?" if near else ""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """One kind of thing that users name in a file."""

    kind: str  # in messages, such as "data set"
    known: Mapping[str, T]  # the package's own
    path: str  # how to name one's own, such as "package.module:function"
    expected: str  # what has to be found there, in words
    accepts: Callable[[Any], bool]
    error: type[CreamError]
    signature: Callable[[T], inspect.Signature]

    def find(self, name: str) -> T:
        """Return what a name stands for; raises ``error`` if there is none or it is of another kind."""
        if name in self.known:
            return self.known[name]
        if ":" not in name:
            raise self.error(
                f"the {self.kind} is {name!r}; expected one of {', '.join(self.known)}, or your own as "
                f"{self.path}.{did_you_mean(name, self.known)}"
            )
        try:
            found: T = pkgutil.resolve_name(name)
        except Exception as error:
            raise self.error(
                f"{self.kind} {name!r} cannot be imported; expected {self.path}: {type(error).__name__}: {error}. The "
                "folder that holds the package must be the current one, or on PYTHONPATH."
            ) from error
        if not self.accepts(found):
            raise self.error(f"{self.kind} {name!r} is {found!r}; expected {self.expected}.")
        return found

    def check_arguments(self, name: str, found: T, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that a thing does not take, with a hint at the right ones."""
        signature = self.signature(found)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            known = list(signature.parameters)
            hints = "".join(did_you_mean(word, known, f" for {word!r}") for word in arguments if word not in known)
            raise self.error(
                f"{self.kind} {name!r} does not take these arguments ({error}); expected some of: "
                f"{', '.join(known) or 'none'}.{hints}"
            ) from error
