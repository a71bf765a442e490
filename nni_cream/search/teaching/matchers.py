"""Who teaches whom, and how much it counts (paper, section 3.2; METHOD.md, "The three parts")."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nni_cream.errors import ConfigError
from nni_cream.search.board import BoardEntry
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.teaching.joint_loss import JOINT_LOSSES, JointLoss

__all__ = [
    "MATCHINGS",
    "BestMatcher",
    "Match",
    "Matcher",
    "MetaMatcher",
    "NoMatcher",
    "RandomMatcher",
    "make_matcher",
    "match_weight_gradient",
]

MATCHINGS = ("meta", "random", "best", "none")


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
        What the meta network saw of this pair, shape (features,); ``None`` for the other matchers.
    """

    entry: BoardEntry
    weight: float
    evidence: Tensor | None = None


class Matcher(Protocol):
    """Picks the teacher of a path; only :class:`MetaMatcher` learns to."""

    learns: bool

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick a teacher for the student; ``None`` means to train without one."""

    def update(self, match: Match, weight_gradient: float) -> None:
        """Learn from the gradient of the validation loss with respect to the match weight."""

    def forget(self) -> None:
        """Drop what was kept of the entries' outputs, since the weights have moved."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed search needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


class NoMatcher:
    """No teachers: plain single-path one-shot training (SPOS)."""

    learns = False

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Return no teacher."""
        return None

    def update(self, match: Match, weight_gradient: float) -> None:
        """Learn nothing."""

    def forget(self) -> None:
        """Keep nothing, so drop nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have nothing to load."""


class BestMatcher(NoMatcher):
    """The board's best entry teaches everyone.

    Parameters
    ----------
    weight
        Fixed match weight (reference code: 0.5).
    """

    def __init__(self, weight: float = 0.5) -> None:
        self._weight = weight

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick the first entry; ``None`` on an empty board."""
        return Match(entries[0], self._weight) if entries else None


class RandomMatcher(NoMatcher):
    """Any entry teaches, each with the same probability.

    Parameters
    ----------
    seed
        Of its own generator.
    weight
        Fixed match weight.
    """

    def __init__(self, seed: int = 0, weight: float = 0.5) -> None:
        self._weight = weight
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick an entry at random; ``None`` on an empty board."""
        if not entries:
            return None
        return Match(entries[int(self._generator.integers(len(entries)))], self._weight)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved generator stood."""
        self._generator.bit_generator.state = state["generator"]


class MetaMatcher:
    """The meta network M: scores every entry as a teacher of the path and picks the highest.

    Its input is the difference of the two paths' outputs on the same few images; rho is the sigmoid of the chosen
    entry's own score. One linear layer, as in the reference code. Entries' outputs are computed once and kept until
    :meth:`forget`, so that a pick costs one forward pass of the student on the few images, whatever K is.

    Parameters
    ----------
    features
        Maps a path to its outputs on the probe images, shape (images, outputs): softmax for classification.
    learning_rate
        Of Adam [ours: the reference's SGD hardly moves in a short search; Adam's steps do not depend on the scale of
        the gradient, which shrinks with the learning rate of the weights].
    seed
        Of the initial weights.
    start
        rho of two paths whose outputs are equal, before anything was learned, up to the random initial bias.
    """

    learns = True

    def __init__(
        self, features: Callable[[Path], Tensor], learning_rate: float = 1e-4, seed: int = 0, start: float = 0.5
    ) -> None:
        self._features = features
        self._learning_rate = learning_rate
        self._seed = seed
        self._start = start
        self._network: nn.Linear | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._known: dict[str, Tensor] = {}

    def pick(self, student: Path, entries: Sequence[BoardEntry]) -> Match | None:
        """Pick the entry with the highest score for this student; the better entry on a tie."""
        if not entries:
            return None
        own = self._features(student).flatten()
        network = self._meta_network(own)
        evidence = own - torch.stack([self._entry_features(entry) for entry in entries])
        with torch.no_grad():
            scores = network(evidence).squeeze(1)
        chosen = int(scores.argmax())
        return Match(entries[chosen], float(torch.sigmoid(scores[chosen])), evidence[chosen])

    def weight(self, match: Match) -> Tensor:
        """Compute rho of a match as a function of the meta network's weights (with gradient), shape ()."""
        if match.evidence is None:
            raise ValueError("the match was not made by a meta network")
        return torch.sigmoid(self._meta_network(match.evidence)(match.evidence)).squeeze()

    def update(self, match: Match, weight_gradient: float) -> None:
        """Take one step of the meta network down the validation loss.

        Parameters
        ----------
        match
            What :meth:`pick` returned.
        weight_gradient
            d validation loss / d rho, see :func:`match_weight_gradient`; d rho / d theta comes from here.
        """
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
            self._known[entry.key] = self._features(entry.path).flatten()
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
        network = nn.utils.skip_init(nn.Linear, width, 1, device="cpu", dtype=like.dtype)
        generator = torch.Generator().manual_seed(self._seed)
        bound = width**-0.5
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
            network.bias += math.log(self._start / (1 - self._start))
        self._network = network.to(like.device)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=self._learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return the meta network, its optimizer and the entries' kept outputs."""
        if self._network is None or self._optimizer is None:
            return {}
        state = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict(), "known": self._known}
        return copy.deepcopy(state)  # later updates must not reach into it

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; tensors stay on the device they were loaded to until the first pick."""
        if not state:
            return
        weight = state["network"]["weight"]
        self._build(weight.shape[1], weight)
        assert self._network is not None
        assert self._optimizer is not None
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._known = dict(state["known"])


def make_matcher(
    matching: str,
    features: Callable[[Path], Tensor],
    learning_rate: float = 1e-4,
    seed: int = 0,
    weight: float = 0.5,
) -> Matcher:
    """Make the matcher of a name.

    Parameters
    ----------
    matching
        One of ``MATCHINGS``.
    features
        See :class:`MetaMatcher`.
    learning_rate
        See :class:`MetaMatcher`.
    seed
        Of whatever the matcher draws.
    weight
        The match weight, which the meta network alone moves away from.

    Returns
    -------
    Matcher
        A new one.

    Raises
    ------
    ConfigError
        If the name is not one of ``MATCHINGS``.
    """
    if matching == "meta":
        return MetaMatcher(features, learning_rate, seed, weight)
    if matching == "random":
        return RandomMatcher(seed, weight)
    if matching == "best":
        return BestMatcher(weight)
    if matching == "none":
        return NoMatcher()
    raise ConfigError(f"matching is {matching!r}; expected one of {', '.join(MATCHINGS)}")


def match_weight_gradient(
    parameters: Sequence[Tensor],
    distillation_loss: Tensor,
    task_loss: Tensor,
    weight: float,
    step_size: float,
    validation_losses: Callable[[], Iterable[Tensor]],
    loss_scale: float = 1.0,
    joint_loss: JointLoss = JOINT_LOSSES["mix"],
) -> float:
    """Differentiate the validation loss after a virtual step with respect to the match weight.

    With L = [rho KD + (2 - rho) CE] / 2 and W' = W - xi grad L(W), neither grad KD nor grad CE depends on rho, so

        d L_val(W') / d rho = -xi < grad L_val(W'), (grad KD - grad CE) / 2 >

    exactly, with no second graph (METHOD.md, "The exact meta gradient"). With another joint loss, grad dL/d rho stands
    in the place of (grad KD - grad CE) / 2.

    Parameters
    ----------
    parameters
        The supernet's weights; those that the path does not use get no gradient and are left out.
    distillation_loss
        KD of the student on the training batch, with its graph, shape ().
    task_loss
        CE likewise.
    weight
        rho.
    step_size
        xi, learning rate of the virtual SGD step.
    validation_losses
        Runs the student on validation images with whatever the parameters hold; yields, part by part, what adds up to
        its loss. Each part's graph is let go before the next one is made.
    loss_scale
        What losses are multiplied by while they are differentiated, so that small gradients of 16-bit floats are not
        rounded to 0; the outcome is that of a scale of 1.
    joint_loss
        What L is of KD, CE and rho.

    Returns
    -------
    float
        d L_val / d rho. Every parameter holds the same bits as before.
    """
    distillation = torch.autograd.grad(distillation_loss * loss_scale, parameters, retain_graph=True, allow_unused=True)
    task = torch.autograd.grad(task_loss * loss_scale, parameters, allow_unused=True)
    used = [
        (parameter, _or_zero(kd, parameter) / loss_scale, _or_zero(ce, parameter) / loss_scale)
        for parameter, kd, ce in zip(parameters, distillation, task, strict=True)
        if kd is not None or ce is not None
    ]
    students = [parameter for parameter, _, _ in used]
    steps = [joint_loss.value(weight, kd, ce) * -step_size for _, kd, ce in used]
    total = torch.zeros((), dtype=torch.float64, device=students[0].device)
    with _shifted(students, steps):
        for loss in validation_losses():
            gradients = torch.autograd.grad(loss * loss_scale, students, allow_unused=True)
            total += _inner_product(gradients, (joint_loss.slope(kd.double(), ce.double()) for _, kd, ce in used))
    return -step_size * float(total) / loss_scale


def _inner_product(gradients: Sequence[Tensor | None], slopes: Iterable[Tensor]) -> Tensor:
    """< grad L_val, grad dL/d rho > in float64; the slopes come one by one, so that no two are in memory at once."""
    products = [
        (gradient.double() * slope).sum()
        for gradient, slope in zip(gradients, slopes, strict=True)
        if gradient is not None
    ]
    return torch.stack(products).sum() if products else torch.zeros(())


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


@contextmanager
def _shifted(parameters: Sequence[Tensor], steps: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters are moved by the steps; afterwards they are bit for bit what they were."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(step)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
