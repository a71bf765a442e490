"""``CreamStrategy``, the class for users' scripts. It only connects parts; the method is in :mod:`nni_cream.search`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import RawFormatModelSpace

# From here and not from nni.nas.oneshot.pytorch.strategy: imported first, that module makes NNI replace all its
# one-shot strategies, for the whole process, by classes that fail when they run.
from nni.nas.strategy import RandomOneShot
from pytorch_lightning import callbacks
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics import Metric

from nni_cream.errors import ConfigError, SearchError, SpaceError
from nni_cream.search.board import BoardEvent, PrioritizedBoard
from nni_cream.search.cost.cost_model import cost_name
from nni_cream.search.cost.costs import Cost, Costs, check_costs, check_ranges
from nni_cream.search.cost.latency.stopwatch import LatencySettings
from nni_cream.search.loop.step import CreamLightningModule
from nni_cream.search.paths.active_choices import count_architectures
from nni_cream.search.paths.choices import check_depths, check_mutables, check_sizes
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.sampling.samplers import PathSampler, resolve_sampler
from nni_cream.search.scoring.final_validation import Finalist, finalise
from nni_cream.search.scoring.named_scores import resolve_score
from nni_cream.search.scoring.scores import Score, ScoreFunction
from nni_cream.search.settings import Scoring, SearchSettings, Teaching
from nni_cream.search.supernet.frozen import frozen_copy
from nni_cream.search.supernet.layers.sliced_layer import check_shared
from nni_cream.search.supernet.rebuilt import joins_loose_ends, rebuilt
from nni_cream.search.supernet.registration import check_registered
from nni_cream.search.supernet.supernet import Supernet, freezable_hooks
from nni_cream.search.teaching.losses import Distillation, LossFunction, resolve_distillation
from nni_cream.search.teaching.matchers import Matcher, resolve_matcher

__all__ = ["CreamStrategy"]

_logger = logging.getLogger(__name__)

MutationHook: TypeAlias = Callable[..., Any]
Range: TypeAlias = Sequence[float | None]
# Lightning's other averages, where the installed version has them.
_AVERAGING = tuple(
    getattr(callbacks, name) for name in ("StochasticWeightAveraging", "WeightAveraging") if hasattr(callbacks, name)
)
Ranges: TypeAlias = Range | Mapping[str, Range] | Sequence[Range | None]


class CreamStrategy(RandomOneShot):
    """One-shot search with prioritized path distillation ("Cream of the Crop", NeurIPS 2020).

    For :class:`nni.nas.experiment.NasExperiment` with any model space of LayerChoice, InputChoice, Repeat, Cell and
    ValueChoice operations, and any Lightning evaluator whose batches are pairs (x, y) and whose ``forward(x)`` returns
    the outputs. When it ends, :attr:`board` holds the result: no second search follows.

    Parameters
    ----------
    board_size
        K, entries on the prioritized path board (paper: 10).
    matching
        Who teaches: ``"meta"`` (the paper's meta network), ``"random"``, ``"best"``, ``"none"`` (plain SPOS), or a
        :class:`~nni_cream.search.Matcher`, such as ``MetaMatcher(interval=100)`` or one of your own.
    cost
        ``"macs"`` (multiply-adds, which papers call FLOPs), ``"params"``, ``"latency"`` (seconds), or a callable that
        takes a frozen network and its inputs and returns a number; or a list of several, the primary one first.
        Counted on the shape of the first batch.
    cost_range
        (low, high) that every sampled path keeps; either end may be ``None``. With several costs a mapping of their
        names to such pairs, or a list of pairs.
    margin
        Gap in the score above which a costlier path may enter a full board (reference code: 0.05).
    warmup
        Training before board and distillation start: epochs if an integer, a part of the whole training if a float in
        [0, 1) (paper: 20 of 120 epochs).
    teaching
        ``"careful"`` (default), ``"paper"``, or a :class:`~nni_cream.search.Teaching`.
    scoring
        A :class:`~nni_cream.search.Scoring`: how many images score a path, and how often.
    score
        ``"top1"``, ``"balanced_accuracy"``, ``"binary"`` (one logit), ``"multilabel"``, ``"miou"`` (segmentation),
        ``"negative_squared_error"`` (regression), a function ``(output, target) -> score of each sample`` (higher is
        better), a metric of torchmetrics whose states are sums, or a :class:`~nni_cream.search.Score` with an upper
        bound or a value of the whole set.
    distillation
        ``"soft_cross_entropy"``, ``"binary_cross_entropy"`` (one logit, several labels), ``"mean_squared_error"``
        (regression), a function ``(student output, teacher output) -> loss``, or a
        :class:`~nni_cream.search.Distillation`.
    sampling
        ``"uniform"``, or a :class:`~nni_cream.search.PathSampler` of your own.
    ema_decay
        Decay of an average of the supernet's weights (paper: 0.9998). Averaged teachers and :meth:`finalise` use it.
        ``None`` for no average. It holds one more copy of the weights.
    seed
        Decides paths, matching and the validation subset. Seed weights and data yourself (``seed_everything``).
    latency
        How latency is measured, or the table to take it from; by default on the GPU if there is one, else on the CPU,
        one image at a time.
    listeners
        Called with each :class:`~nni_cream.search.BoardEvent`.
    mutation_hooks
        NNI's, for mutables of your own.

    Raises
    ------
    ConfigError
        If an argument is out of its range; the message names it.

    Examples
    --------
    >>> strategy = CreamStrategy(cost_range=(None, 5e6), seed=1)
    >>> strategy.board.capacity
    10
    """

    def __init__(
        self,
        board_size: int = SearchSettings.board_size,
        matching: str | Matcher = SearchSettings.matching,
        cost: Cost | Sequence[Cost] = SearchSettings.cost,
        cost_range: Ranges | None = SearchSettings.cost_range,
        margin: float = SearchSettings.margin,
        warmup: int | float = SearchSettings.warmup,
        teaching: str | Teaching = SearchSettings.teaching,
        scoring: Scoring = SearchSettings.scoring,
        score: str | ScoreFunction | Metric | Score = SearchSettings.score,
        distillation: str | LossFunction | Distillation = SearchSettings.distillation,
        sampling: str | PathSampler = SearchSettings.sampling,
        ema_decay: float | None = SearchSettings.ema_decay,
        seed: int = SearchSettings.seed,
        latency: LatencySettings | None = None,
        listeners: Iterable[Callable[[BoardEvent], None]] = (),
        mutation_hooks: list[MutationHook] | None = None,
    ) -> None:
        super().__init__(mutation_hooks=mutation_hooks)
        costs = check_costs(cost)
        self._settings = SearchSettings(
            board_size=board_size,
            matching=resolve_matcher(matching),
            cost=costs,
            cost_range=check_ranges(cost_range, [cost_name(item) for item in costs]),
            margin=margin,
            warmup=warmup,
            teaching=Teaching.of(teaching),
            scoring=Scoring.of(scoring),
            score=resolve_score(score),
            distillation=resolve_distillation(distillation),
            sampling=resolve_sampler(sampling),
            ema_decay=ema_decay,
            seed=seed,
            latency=latency or LatencySettings(),
        )
        self._board = PrioritizedBoard(board_size, margin)
        self._listeners = tuple(listeners)
        self._validation_loader: Callable[[], Any] | None = None

    @property
    def board(self) -> PrioritizedBoard:
        """The prioritized path board, live while the search runs and the result afterwards."""
        return self._board

    @property
    def statistics(self) -> dict[str, float]:
        """Latest figures of the search, such as ``board_best``, ``board_size`` and ``match_weight``."""
        return {} if self._mutated_model_space is None else dict(self.oneshot_module.statistics)

    def default_mutation_hooks(self) -> list[MutationHook]:
        """Return NNI's path-sampling hooks, with cells and operations that freeze with their weights."""
        return freezable_hooks(super().default_mutation_hooks())

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn the model space into a supernet, in place; raise an error for one that cannot be searched."""
        if not isinstance(model, ModelSpace):
            raise SpaceError(
                f"the search space is a {type(model).__name__}; expected a subclass of nni.nas.nn.pytorch.ModelSpace."
            )
        check_sizes(model, "the search space")
        check_mutables(model.simplify())
        check_depths(model)
        check_registered(model)
        check_shared(model)
        self._fit_board(count_architectures(model))
        if joins_loose_ends(model):
            _logger.warning(
                "A cell of the space has merge_op='loose_end'. A supernet needs an output of fixed width, so all nodes "
                "are joined (merge_op='all'), in the search and in every network that comes out of it."
            )
        return self._mutate(model)

    def _mutate(self, model: ModelSpace) -> ModelSpace:
        supernet = cast(ModelSpace, super().mutate_model(model))
        # NNI hands out models by the space's own freeze, which may build them anew, with new weights.
        supernet.__dict__["freeze"] = partial(frozen_copy, supernet)
        return supernet

    def _fit_board(self, paths: int) -> None:
        if paths >= self._board.capacity:
            return
        if self._board.capacity != SearchSettings.board_size:
            raise ConfigError(
                f"board_size is {self._board.capacity}; expected at most {paths}, the number of paths of the search "
                "space"
            )
        _logger.warning("The search space has only %d paths, so the board has as many entries.", paths)
        self._board.capacity = paths

    def check_range(self, supernet: Supernet, inputs: Tensor) -> None:
        """Check before a search that a path lies within the cost ranges; leave unmeasured latencies to the search.

        Parameters
        ----------
        supernet
            The mutated space.
        inputs
            Images (N, C, H, W).

        Raises
        ------
        SpaceError
            If no path lies within the ranges; the message states the reachable range.
        """
        settings = self._settings
        given = settings.latency.table is not None
        known = [
            (cost, pair)
            for cost, pair in zip(settings.cost, settings.cost_range, strict=True)
            if pair != (None, None) and (cost != "latency" or given)
        ]
        paths = RandomPaths(supernet.space, settings.seed, known[0][1] if known else None)
        if known:
            costs, ranges = zip(*known, strict=True)
            Costs.make(costs, ranges, settings.latency, supernet, (inputs,), seed=settings.seed).constrain(paths)
        paths.draw()

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's module in the search; raise ``SearchError`` if a search cannot run in it."""
        if not isinstance(evaluator, Lightning):
            raise SearchError(
                f"the evaluator is a {type(evaluator).__name__}; expected a Lightning evaluator, such as "
                "nni.nas.evaluator.pytorch.Classification, or Lightning(your LightningModule, Trainer(...), ...)."
            )
        if evaluator.datamodule is None and (evaluator.train_dataloaders is None or evaluator.val_dataloaders is None):
            raise SearchError(
                "the evaluator lacks train_dataloaders or val_dataloaders; expected both. The former train the "
                "weights, the latter are for the board and the meta network."
            )
        check_sizes(evaluator.module, "the evaluator's module")
        _check_device_strategy(evaluator.trainer)
        self._check_averages(evaluator.trainer)
        return super().mutate_evaluator(evaluator)

    def _check_averages(self, trainer: Any) -> None:
        averaging = [item for item in getattr(trainer, "callbacks", ()) if isinstance(item, _AVERAGING)]
        if averaging and self._settings.ema_decay is not None:
            name, decay = type(averaging[0]).__name__, self._settings.ema_decay
            raise SearchError(
                f"ema_decay is {decay}, but the trainer's callbacks hold a {name}; expected "
                "one average of the weights. Set ema_decay=None, or leave out the callback"
            )

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return the validation loaders, and remember their source for the board."""
        self._validation_loader = val_dataloader_fn
        return val_dataloader_fn()

    def configure_oneshot_module(self, training_module: LightningModule) -> CreamLightningModule:
        """Wrap the user's module into the one that the trainer runs."""
        return CreamLightningModule(
            training_module, self._board, self._settings, self._validation_batches, self._listeners, self._rebuild
        )

    def _rebuild(self, path: Path) -> nn.Module | None:
        """Build the network of a path as its class does; ``None`` if NNI did not record how the space was made."""
        assert self._mutated_model_space is not None
        space: Any = self._mutated_model_space.model_space
        if not hasattr(space, "trace_kwargs"):
            return None

        def make() -> ModelSpace:
            # Copies: a module among the arguments is a part of the supernet.
            made = space.trace_symbol(*copy.deepcopy(space.trace_args), **copy.deepcopy(space.trace_kwargs))
            return cast(ModelSpace, made)

        return rebuilt(space, make, self._mutate, path)

    def build(self, make: Callable[[], ModelSpace], choose: Callable[[ModelSpace], Path]) -> nn.Module:
        """Build the network of the path that ``choose`` returns, as in the search, with new weights."""
        space = make()
        return rebuilt(space, make, self._mutate, choose(space))

    def _validation_batches(self) -> Iterable[Any]:
        if self._validation_loader is None:  # a datamodule whose validation loader Lightning has not asked for yet
            assert self._mutated_model_space is not None
            cast(Lightning, self._mutated_model_space.evaluator).datamodule.val_dataloader()
        assert self._validation_loader is not None
        loader = self._validation_loader()
        while isinstance(loader, list | tuple):
            loader = loader[0]
        if isinstance(loader, Mapping):
            raise SearchError(
                f"val_dataloaders is a {type(loader).__name__} with the keys {[*loader]}; expected a loader, or a list "
                "of loaders of which the first gives the images for the board."
            )
        return cast(Iterable[Any], loader)

    def finalise(
        self, training_loader: Iterable[Any], validation_loader: Iterable[Any], images: int | None = None
    ) -> tuple[Finalist, ...]:
        """Validate the board's entries on copies after the search, and order the board by the result.

        Each entry is frozen, gets new BatchNorm statistics from training images, and is validated in evaluation mode on
        all validation images. The supernet stays unchanged.

        Parameters
        ----------
        training_loader
            Images for BatchNorm's statistics; seed its shuffling for a reproducible result.
        validation_loader
            All validation images.
        images
            Minimum number of training images. Default: ``scoring.recalibration_images``.

        Returns
        -------
        tuple of Finalist
            Every entry with its validated accuracy and its network, best first.

        Raises
        ------
        SearchError
            If the board is empty or was not trained in this process.
        """
        module = None if self._mutated_model_space is None else self.oneshot_module
        if module is None or not hasattr(module, "supernet"):
            raise SearchError("the search has not run; expected a search to finalise. Run the experiment first.")
        images = self._settings.scoring.recalibration_images if images is None else images
        return finalise(module, training_loader, validation_loader, images)

    def list_models(self, sort: bool = True, limit: int | None = 1) -> Iterator[RawFormatModelSpace]:
        """Yield the board's entries, best first.

        Parameters
        ----------
        sort
            Ignored: entries are always sorted. NNI's interface has it.
        limit
            How many; ``None`` for all.

        Yields
        ------
        RawFormatModelSpace
            Frozen to the entry's path; ``executable_model()`` has the supernet's weights.

        Raises
        ------
        SearchError
            If the board is empty.
        """
        if not len(self._board):
            raise SearchError(
                "the board is empty; expected a search that is past its warm-up. Run it before asking for its models."
            )
        for entry in self._board.entries[:limit]:
            yield self.model_space.freeze(dict(entry.path))


def _check_device_strategy(trainer: Any) -> None:
    strategy = getattr(trainer, "strategy", None)
    if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise SearchError(
            "the trainer's strategy is DDP; expected 'ddp_find_unused_parameters_true', since a step trains the "
            "weights of one path only."
        )
