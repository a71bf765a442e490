"""Who teaches whom, and how much it counts (paper, section 3.2; METHOD.md, "The three parts")."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nni_cream.errors import ConfigError
from nni_cream.options import checked, number, whole
from nni_cream.search.board import BoardEntry
from nni_cream.search.paths.encoded_path import Path

__all__ = [
    "MATCHERS",
    "BestMatcher",
    "Match",
    "Matcher",
    "MetaMatcher",
    "NoMatcher",
    "RandomMatcher",
    "resolve_matcher",
]

_WEIGHT = number(0, 1, above=True, below=True)


@dataclass(frozen=True)
class Match:
    """A teacher for a path.

    Parameters
    ----------
    entry
        The board entry that teaches.
    weight
        rho, the weight of this very entry's distillation loss, in (0, 1).
    evidence
        The input of the meta network for this pair, shape (features,); ``None`` for other matchers.
    """

    entry: BoardEntry
    weight: float
    evidence: Tensor | None = None


class Matcher(ABC):
    """Picks the teacher of a path. Subclass it for a matcher of your own; only :meth:`pick` is required.

    Attributes
    ----------
    interval
        Training steps between two calls of :meth:`update`; ``None`` for a matcher that does not learn.
    probe_images
        Images that :attr:`outputs` runs a path on.
    outputs
        Maps a path to its outputs on the probe images, shape (images, outputs): the softmax for classification.
    seed
        For whatever the matcher draws.
    """

    interval: int | None = None
    probe_images: int = 4
    outputs: Callable[[Path], Tensor]
    seed: int

    def begin(self, outputs: Callable[[Path], Tensor], seed: int) -> None:
        """Start a search and forget every earlier one; see :attr:`outputs` and :attr:`seed`."""
        # Under these names nothing is plain, so that checkpoints compare a matcher by its own options alone.
        self.outputs, self.seed = outputs, seed

    @abstractmethod
    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick a teacher for the student from the entries, best first; ``None`` to train without one."""

    def update(self, match: Match, weight_gradient: float) -> None:
        """Learn from d validation loss / d rho of a match; called every :attr:`interval` steps."""

    def forget(self) -> None:
        """Drop outputs of entries that were kept: the weights have moved."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed search needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state."""


class NoMatcher(Matcher):
    """No teachers: plain single-path one-shot training (SPOS)."""

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Return no teacher."""
        return None


class BestMatcher(Matcher):
    """The board's best entry teaches every path.

    Parameters
    ----------
    weight
        Fixed match weight (reference code: 0.5).
    """

    def __init__(self, weight: float = 0.5) -> None:
        checked("matching.weight", weight, _WEIGHT)
        self.weight = weight

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick the first entry; ``None`` on an empty board."""
        return Match(entries[0], self.weight) if entries else None


class RandomMatcher(Matcher):
    """Any entry teaches, each with the same probability.

    Parameters
    ----------
    weight
        Fixed match weight.
    """

    def __init__(self, weight: float = 0.5) -> None:
        checked("matching.weight", weight, _WEIGHT)
        self.weight = weight

    def begin(self, outputs: Callable[[Path], Tensor], seed: int) -> None:
        """Start a search with a new generator; see :meth:`Matcher.begin`."""
        super().begin(outputs, seed)
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick an entry at random; ``None`` on an empty board."""
        if not entries:
            return None
        return Match(entries[int(self._generator.integers(len(entries)))], self.weight)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where the saved generator stood."""
        self._generator.bit_generator.state = state["generator"]


class MetaMatcher(Matcher):
    """The meta network M: scores every entry as a teacher of the path and picks the highest.

    Its input is the difference of the two paths' outputs on the same few images; rho is the sigmoid of the chosen
    entry's own score. Like the reference code, it is one linear layer.

    Parameters
    ----------
    interval
        Training steps between two updates (paper: 200).
    learning_rate
        Of Adam (paper: 1e-4).
    probe_images
        Images that two paths are compared on (paper: 4).
    weight
        rho of two paths with equal outputs before any update, up to the random initial bias.

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    """

    def __init__(
        self, interval: int = 200, learning_rate: float = 1e-4, probe_images: int = 4, weight: float = 0.5
    ) -> None:
        checked("matching.interval", interval, whole(1))
        checked("matching.learning_rate", learning_rate, number(0, above=True))
        checked("matching.probe_images", probe_images, whole(2))
        checked("matching.weight", weight, _WEIGHT)
        self.interval = interval
        self.learning_rate = float(learning_rate)
        self.probe_images = probe_images
        self.initial_weight = weight
        self._reset()

    def begin(self, outputs: Callable[[Path], Tensor], seed: int) -> None:
        """Start a search with a new network; see :meth:`Matcher.begin`."""
        super().begin(outputs, seed)
        self._reset()

    def _reset(self) -> None:
        self._network: nn.Linear | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._known: dict[str, Tensor] = {}

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick the entry with the highest score for this student; the better entry on a tie."""
        if not entries:
            return None
        # One forward pass of the student on few images is all that a pick costs: entries' outputs are kept.
        own = self.outputs(student).flatten()
        network = self._meta_network(own)
        evidence = own - torch.stack([self._entry_features(entry) for entry in entries])
        with torch.no_grad():
            scores = network(evidence).squeeze(1)
            best = scores.argmax()
            # Read both at once: an accelerator waits at each read of a number.
            wide = torch.promote_types(scores.dtype, torch.float32)  # not every device has doubles
            place, rho = torch.stack([best.to(wide), torch.sigmoid(scores[best]).to(wide)]).tolist()
        chosen = int(place)
        # rho belongs to the chosen teacher; the reference returns sigmoid(-score) of the last entry compared.
        return Match(entries[chosen], rho, evidence[chosen])

    def weight(self, match: Match) -> Tensor:
        """Compute rho of a match as a function of the meta network's weights (with gradient), shape ()."""
        if match.evidence is None:
            raise ValueError("the match was not made by a meta network")
        return torch.sigmoid(self._meta_network(match.evidence)(match.evidence)).squeeze()

    def update(self, match: Match, weight_gradient: float) -> None:
        """Take one step of the meta network down the validation loss, given d validation loss / d rho."""
        # The rest of the chain rule, d rho / d theta, is here: the gradient to rho is exact and needs no second graph.
        rho = self.weight(match)
        optimizer = self._optimizer
        assert optimizer is not None
        optimizer.zero_grad()
        with torch.enable_grad():
            rho.backward(torch.full_like(rho, weight_gradient))
        optimizer.step()

    def forget(self) -> None:
        """Drop the entries' outputs; the next pick computes them with the weights of that moment."""
        self._known.clear()

    def _entry_features(self, entry: BoardEntry) -> Tensor:
        if entry.key not in self._known:
            self._known[entry.key] = self.outputs(entry.path).flatten()
        return self._known[entry.key]

    def _meta_network(self, like: Tensor) -> nn.Linear:
        if self._network is None:
            self._build(like.numel(), like)
        assert self._network is not None
        if self._network.weight.device != like.device:
            self._move(like.device)
        return self._network

    def _move(self, device: torch.device) -> None:
        assert self._network is not None
        assert self._optimizer is not None
        self._network.to(device)
        self._optimizer.load_state_dict(self._optimizer.state_dict())  # casts its state to the parameters' device
        self._known = {key: value.to(device) for key, value in self._known.items()}

    def _build(self, width: int, like: Tensor) -> None:
        # A generator of its own, on the CPU: the same network on all ranks and devices, no draw from the global one.
        network = nn.utils.skip_init(nn.Linear, width, 1, device="cpu", dtype=like.dtype)
        generator = torch.Generator().manual_seed(self.seed)
        bound = width**-0.5
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
            # With equal outputs the input is 0, so the bias alone sets the first rho.
            network.bias += math.log(self.initial_weight / (1 - self.initial_weight))
        self._network = network.to(like.device)
        # [ours] The reference's SGD hardly moves in a short search. Adam's steps do not depend on the scale of the
        # gradient, which shrinks with the learning rate of the weights.
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return the meta network, its optimizer and the entries' kept outputs."""
        if self._network is None or self._optimizer is None:
            return {}
        state = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict(), "known": self._known}
        return copy.deepcopy(state)  # later updates must not reach into it

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state; tensors move to the device at the first pick."""
        if not state:
            return
        weight = state["network"]["weight"]
        self._build(weight.shape[1], weight)
        assert self._network is not None
        assert self._optimizer is not None
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._known = dict(state["known"])


MATCHERS: dict[str, type[Matcher]] = {
    "meta": MetaMatcher,
    "random": RandomMatcher,
    "best": BestMatcher,
    "none": NoMatcher,
}


def resolve_matcher(matching: str | Matcher) -> Matcher:
    """Return the matcher of a name, or the user's own; raise ConfigError for anything else."""
    if isinstance(matching, Matcher):
        return matching
    if isinstance(matching, str) and matching in MATCHERS:
        return MATCHERS[matching]()
    raise ConfigError(f"matching is {matching!r}; expected one of {', '.join(MATCHERS)}, or a Matcher.")
