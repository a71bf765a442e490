"""The supernet as the method needs it: set a path, freeze a path, run a path without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from nni.mutable import LabeledMutable
from nni.nas.nn.pytorch import Cell, InputChoice, ModelSpace
from nni.nas.nn.pytorch.base import MutableModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import NATIVE_MIXED_OPERATIONS
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingCell, PathSamplingInput
from nni.nas.space import model_context
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.rng import preserved_rng
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.choices import check_depths, check_mutables, decode_path
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.supernet.frozen import frozen_copy, frozen_view
from nni_cream.search.supernet.layers.sliced_layer import SlicedLayer, check_sizes

__all__ = ["FreezableCell", "Supernet", "freezable_hooks", "single_values_explained"]


class Supernet:
    """A mutated model space, with the means to run one path of it.

    Parameters
    ----------
    space
        The model space after NNI's one-shot mutation.
    host
        The module that runs the space and has layers of its own. Default: the space alone.

    Raises
    ------
    SpaceError
        If the space holds no choice, or one that a supernet cannot hold.
    """

    def __init__(self, space: ModelSpace, host: nn.Module | None = None) -> None:
        self.space = space
        self._host = space if host is None else host
        self.mutables: dict[str, LabeledMutable] = space.simplify()
        check_mutables(self.mutables)
        check_depths(space)
        check_sizes(space, self.mutables)
        self.usage = Usage(space)
        self.told_to_mix: set[nn.Module] = set()  # the user has been warned of them
        self._choices = [module for module in space.modules() if isinstance(module, BaseSuperNetModule)]
        if not self._choices:  # each path would run the first candidates, and get their cost
            raise SpaceError(
                f"space is a {type(space).__name__} as it was written; expected one after NNI's mutation. Give "
                "Supernet what CreamStrategy(...).mutate_model(space) returns."
            )
        self.refresh()

    def refresh(self) -> None:
        """List the modules once: the search takes longer than the rest of the work around a forward pass."""
        every = list(self._host.modules())
        self._modules = [module for module in every if "training" in module.__dict__]
        # Scripted and compiled modules keep their mode elsewhere.
        self._foreign = [module for module in every if "training" not in module.__dict__]
        self._norms = [module for module in self._modules if isinstance(module, _BatchNorm)]
        self._instance_norms = [module for module in self._modules if isinstance(module, _InstanceNorm)]
        self._buffered = [m for m in self._modules if m._buffers and not isinstance(m, _BatchNorm)]
        self.note_modes()

    def note_modes(self) -> None:
        """Remember which normalisations train; the others are the user's, who keeps them in evaluation mode."""
        self._trained_norms = [norm for norm in self._norms if norm.training]
        self._trained_instance_norms = [norm for norm in self._instance_norms if norm.training]

    @property
    def has_dead_branches(self) -> bool:
        """Whether a path may compute what its output does not depend on: inputs that no choice takes."""
        return any(isinstance(module, InputChoice | PathSamplingCell | Cell) for module in self.space.modules())

    def activate(self, path: Path) -> None:
        """Let the next forward pass run this path."""
        for module in self._choices:
            # NNI takes a label in the memo as already drawn, so this looks values up and draws nothing.
            module.resample(memo=dict(path))

    def freeze(self, path: Path) -> nn.Module:
        """Return a separate network that holds this path and a copy of its weights, in the modes of the training."""
        with self.in_training_modes():
            return frozen_copy(self.space, path)

    @contextmanager
    def in_training_modes(self) -> Iterator[None]:
        """Inside, normalisations are in the mode in which they train, whatever mode the supernet is in."""
        modes = [(norm, norm.training) for norm in (*self._norms, *self._instance_norms)]
        trained = {*self._trained_norms, *self._trained_instance_norms}
        try:
            for norm, _ in modes:
                norm.__dict__["training"] = norm in trained
            yield
        finally:
            for norm, mode in modes:
                norm.__dict__["training"] = mode

    def view(self, path: Path) -> nn.Module:
        """Return a network that holds this path, made of the supernet's own layers where possible."""
        return cast(nn.Module, frozen_view(self.space, path))

    def decode(self, encoded: Mapping[str, Any]) -> Path:
        """Decode a path and make it canonical; see :func:`~nni_cream.search.paths.choices.decode_path`."""
        return self.usage.canonical(decode_path(encoded, self.mutables))

    @contextmanager
    def evaluating(self, seed: int | None = None) -> Iterator[None]:
        """Switch to evaluation mode inside, but normalise by the statistics of the current batch.

        A supernet's running statistics mix those of all paths (METHOD.md, "Validation, cheaply and fairly"). They stay
        unchanged, as do the random generators. Dropout is off. Normalisations that the user keeps in evaluation mode
        while the rest trains, as in a frozen backbone, keep their running statistics.

        Parameters
        ----------
        seed
            Seeds the generators inside, if given.
        """
        modules, norms = self._modules, self._trained_norms
        modes = [module.__dict__["training"] for module in modules]
        foreign = [(module, module.training) for module in self._foreign]
        tracking = [norm.track_running_stats for norm in norms]
        running = [(norm, dict(norm._buffers)) for norm in self._trained_instance_norms]
        try:
            # Straight into __dict__: nn.Module.__setattr__ on every module of a large supernet would cost milliseconds.
            for module in modules:
                module.__dict__["training"] = False
            for module, _ in foreign:
                module.training = False
            for norm in norms:
                norm.__dict__["training"] = True
                # In training mode torch uses the statistics of the batch; without tracking it leaves the running ones
                # alone.
                norm.__dict__["track_running_stats"] = False
            for instance_norm, buffers in running:  # without running statistics it takes those of the image
                instance_norm.__dict__["training"] = True
                instance_norm._buffers.update(dict.fromkeys(buffers))
            with preserved_rng(seed):
                yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.__dict__["training"] = mode
            for module, mode in foreign:
                module.training = mode
            for norm, tracked in zip(norms, tracking, strict=True):
                norm.__dict__["track_running_stats"] = tracked
            for instance_norm, buffers in running:
                instance_norm._buffers.update(buffers)

    @contextmanager
    def detached(self, grad: bool = False) -> Iterator[None]:
        """Change no buffer, generator or mode inside, and compute the same each time.

        Extends :meth:`evaluating`: modules work on copies of their buffers, and generators start from a fixed seed.

        Parameters
        ----------
        grad
            Whether to record gradients inside.
        """
        try:
            with self.evaluating(seed=0), torch.set_grad_enabled(grad), self._copied_buffers():
                yield
        finally:
            if not grad:
                # Autocast would hand the casts made here, which carry no gradient, to the training forward pass.
                torch.clear_autocast_cache()

    @contextmanager
    def _copied_buffers(self) -> Iterator[None]:
        """Give the modules copies of their buffers inside, except BatchNorm, which writes to none here."""
        kept = [(module._buffers, dict(module._buffers)) for module in self._buffered]
        every = {id(buffer): buffer for _, originals in kept for buffer in originals.values() if buffer is not None}
        copies = {key: buffer.detach().clone() for key, buffer in every.items()}  # one that two modules share stays so
        for buffers, originals in kept:
            buffers.update((name, copies.get(id(buffer))) for name, buffer in originals.items())
        try:
            yield
        finally:
            # The originals themselves, untouched: a graph that is still to be run backwards may hold them.
            for buffers, originals in kept:
                buffers.clear()
                buffers.update(originals)


@contextmanager
def single_values_explained(cause: str) -> Iterator[None]:
    """Replace torch's error about BatchNorm with one value a channel by one that names the cause."""
    try:
        yield
    except ValueError as error:
        # torch raises a plain ValueError, so only the text identifies it.
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(f"{cause}. BatchNorm has no statistics of a single value for each channel.") from error


class FreezableCell(PathSamplingCell):
    """NNI's supernet cell, able to freeze to a cell with the weights of a path.

    NNI's own raises ``NotImplementedError``, so it could not export a cell with its weights.
    """

    joins_loose_ends = False

    def __init__(self, op_factory: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(op_factory, *args, **kwargs)
        # NNI's cell does not keep the factory, without which no frozen cell can be built.
        self.op_factory = op_factory

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> FreezableCell | None:
        """Replace a cell whose operations come from a factory, or which joins its loose ends."""
        cell = cast("FreezableCell | None", super().mutate(module, name, memo, mutate_kwargs))
        if cell is not None and module.merge_op == "loose_end":
            cell.joins_loose_ends = True
        return cell

    def freeze(self, sample: Path) -> Cell:
        """Build the cell of a path and copy the weights of the chosen operations into it."""
        # Copied outside of the context, in which NNI would take a copy of a choice for a new one.
        preprocessor = _freeze_part(self.preprocessor, sample)
        postprocessor = _freeze_part(self.postprocessor, sample)
        # The operations are those of the supernet: NNI's cell would build all candidates of each place for nothing.
        empty = dict.fromkeys(self.op_names, _no_operation)
        with model_context(sample):
            cell = Cell(
                empty,
                self.num_nodes,
                self.num_ops_per_node,
                self.num_predecessors,
                "all",
                preprocessor,
                postprocessor,
                self.concat_dim,
                label=self.label,
            )
        cell.op_candidates_factory = self.op_factory
        for node, operations in enumerate(self.ops, start=self.num_predecessors):
            for position in range(self.num_ops_per_node):
                # NNI samples an input as a list, here of one predecessor.
                source = operations[sample[f"{self.label}/input_{node}_{position}"][0]]
                chosen = source[sample[f"{self.label}/op_{node}_{position}"]]
                cell.ops[node - self.num_predecessors][position] = _freeze_part(chosen, sample)
        return cell


def freezable_hooks(hooks: list[Any]) -> list[Any]:
    """Replace NNI's mutation hooks whose modules cannot be frozen with their weights, in the same order."""
    # The first hook that fits a module wins, so a replacement has to keep the place of the original.
    ours: dict[Any, Any] = {
        PathSamplingCell.mutate: FreezableCell.mutate,
        PathSamplingInput.mutate: _mutate_input,
        NATIVE_MIXED_OPERATIONS[0].mutate: SlicedLayer.mutate,
    }
    dropped = [operation.mutate for operation in NATIVE_MIXED_OPERATIONS[1:]]
    # By name: see strategy.py about importing NNI's module of strategies, which has this one.
    kept = [hook for hook in hooks if hook not in dropped and getattr(hook, "__name__", "") != "no_default_hook"]
    return [*(ours.get(hook, hook) for hook in kept), _refuse]


def _mutate_input(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> Any:
    if type(module) is InputChoice and (module.n_chosen is None or module.reduction == "none"):
        raise SpaceError(
            f"InputChoice {name!r} has n_chosen={module.n_chosen} and reduction={module.reduction!r}; expected a "
            "number and 'sum', 'mean' or 'concat'. Give n_chosen, or several InputChoices"
        )
    return PathSamplingInput.mutate(module, name, memo, mutate_kwargs)


def _refuse(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """Raise ``SpaceError`` for choices that no hook has taken."""
    if isinstance(module, MutableModule) and module.mutables:
        labels = sorted({str(label) for mutable in module.mutables for label in mutable.simplify()})
        raise SpaceError(
            f"module {name!r} is a {type(module).__name__} with choices {labels} of its own, which is not supported; "
            "expected a LayerChoice, InputChoice, Repeat, Cell, or a layer of nni.nas.nn.pytorch with nni.choice "
            "arguments. Build it of these, or give a mutation hook for it"
        )
    return True


def _no_operation(node: int, operation: int, source: int | None) -> nn.Module:
    return nn.Identity()


def _freeze_part(part: Any, sample: Path) -> Any:
    if not isinstance(part, nn.Module):
        return part
    return frozen_copy(part, sample)
