"""``CreamStrategy``: what a user's script imports. Wiring only; the method itself is in :mod:`nni_cream.search`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import RawFormatModelSpace

# From here and not from nni.nas.oneshot.pytorch.strategy: imported first, that module makes NNI replace all its
# one-shot strategies, for the whole process, by classes that fail when they run.
from nni.nas.strategy import RandomOneShot
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from nni_cream.errors import ConfigError, SearchError, SpaceError
from nni_cream.search import (
    BoardEvent,
    CreamLightningModule,
    Distillation,
    Finalist,
    PrioritizedBoard,
    Score,
    SearchSettings,
    finalise,
)
from nni_cream.search.cost.cost_model import cost_name
from nni_cream.search.cost.costs import Cost, Costs, check_costs, check_ranges
from nni_cream.search.cost.latency.stopwatch import LatencySettings
from nni_cream.search.paths.active_choices import count_architectures
from nni_cream.search.paths.choices import check_depths, check_mutables
from nni_cream.search.sampling.samplers import make_sampler
from nni_cream.search.scoring.candidates import CANDIDATES
from nni_cream.search.scoring.scores import resolve_score
from nni_cream.search.supernet.supernet import Supernet, freezable_hooks
from nni_cream.search.teaching.losses import LossFunction, resolve_distillation
from nni_cream.search.teaching.matchers import MATCHINGS
from nni_cream.search.teaching.weight_average import check_decay

__all__ = ["CreamStrategy"]

MutationHook: TypeAlias = Callable[..., Any]
Range: TypeAlias = Sequence[float | None]
Ranges: TypeAlias = Range | Mapping[str, Range] | Sequence[Range | None]


class CreamStrategy(RandomOneShot):
    """One-shot search with prioritized path distillation ("Cream of the Crop", NeurIPS 2020).

    For :class:`nni.nas.experiment.NasExperiment` with any model space of LayerChoice, InputChoice, Repeat, Cell and
    ValueChoice operations, and any Lightning evaluator whose batches are pairs (x, y) and whose ``forward(x)`` returns
    logits. When it ends, :attr:`board` holds the result: no second search follows.

    Parameters
    ----------
    board_size
        K, entries on the prioritized path board (paper: 10).
    matching
        Who teaches: ``"meta"`` (the paper's meta network), ``"random"``, ``"best"``, or ``"none"`` (plain SPOS).
    cost
        ``"macs"`` (multiply-adds, which papers call FLOPs), ``"params"``, ``"latency"`` (seconds), or a function of a
        frozen network and its inputs that returns a number; or a list of several, the first of which is the primary
        one. Counted on the shape of the first batch.
    cost_range
        (low, high) that every sampled path keeps; either end may be ``None``. With several costs a mapping of their
        names to such pairs, or a list of pairs.
    margin
        Accuracy gap from which on a costlier path may enter a full board (reference code: 0.05).
    warmup
        Training before board and distillation start: epochs if an integer, a part of the whole training if a float in
        [0, 1) (paper: 20 of 120 epochs).
    score_images
        Size of the fixed, class-balanced validation subset.
    score_interval
        Training steps between two candidates once the board is full; ``None`` for as many as have 0.4 images scored
        for each that is trained on, which adds about a tenth to the cost [ours: validating costs more than a step].
    candidates
        ``"promising"``: of the paths since the last candidate, the one with the lowest loss on its training batch is
        the next [ours]; ``"latest"``: that of the last step.
    score_batch_size
        Largest batch in scoring; BatchNorm uses the statistics of these batches. By default two training batches, which
        without gradients take no more memory than the training itself, but no more than 256.
    rescore_interval
        Epochs between two rescorings of all entries; ``None`` for never.
    rescore_entries
        Most entries in one rescoring, in turns; ``None`` for as many as have 0.4 images scored for each that was
        trained on since the last one [ours: so neither short epochs nor a large board add more than a tenth].
    rejection_confidence
        Scoring a candidate stops as soon as, with this probability, it cannot reach the weakest entry any more (normal
        bound on the images that are left, at each look); ``None`` waits for certainty.
    probe_images
        Images that the meta network compares two paths on (paper: 4).
    meta_interval
        Training steps between two updates of the meta network (paper: 200).
    meta_learning_rate
        Its learning rate (paper: 1e-4).
    match_weight
        rho of ``"random"`` and ``"best"`` (reference code: 0.5), and what the meta network starts near.
    match_input
        What the meta network compares of two paths' outputs under ``"soft_cross_entropy"``: ``"probabilities"``
        (softmax; paper, section 3.2) or ``"logits"``.
    joint_loss
        ``"mix"``: [rho KD + (2 - rho) CE] / 2 (paper, section 3.3), or ``"add"``: CE + rho KD, which takes nothing from
        the labels.
    distillation
        ``"soft_cross_entropy"``, ``"mean_squared_error"`` (regression), a function ``(student output, teacher output)
        -> loss``, or a :class:`~nni_cream.search.Distillation`.
    distillation_temperature
        T of ``"soft_cross_entropy"``: T squared times the cross-entropy of both outputs divided by T (Hinton et al.,
        2015).
    distillation_start
        Training before there are teachers, given like ``warmup``; at the latest of both they start. ``None`` to start
        with the board (paper).
    distillation_gate
        Whether to distil only where the teacher has a higher mean ``score`` than the student on the training batch; all
        other steps, ties among them, take the task loss alone.
    teacher_weights
        ``"current"``, or ``"average"``: teachers run with the average of the supernet's weights (``ema_decay``;
        Tarvainen and Valpola, "Mean teachers are better role models", 2017).
    teacher_threshold
        With ``"meta"``, teachers whose match weight is below it are left out, without a forward pass, and the step
        takes the task loss alone. The meta network goes on learning, so that they may come back. 0 for never.
    sampling
        How paths are drawn: ``"uniform"``; ``"fair"``, every value of every choice equally often (FairNAS: Chu et al.,
        2019); or ``"board"``, half of them mutations of board entries.
    score
        ``"top1"``, ``"negative_squared_error"`` (regression), a function ``(output, target) -> score of each sample``
        (higher is better), or a :class:`~nni_cream.search.Score` with an upper bound, which makes rejection certain.
    ema_decay
        Decay of an average of the supernet's weights (paper: 0.9998), which :meth:`finalise` takes in their place;
        ``None`` for no average. It has no effect on the search itself, except through ``teacher_weights``, and holds
        one more copy of the weights.
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
    >>> experiment = NasExperiment(space, evaluator, strategy)
    >>> experiment.run()
    >>> experiment.export_top_models(top_k=3, formatter="dict")
    """

    def __init__(
        self,
        board_size: int = 10,
        matching: str = "meta",
        cost: Cost | Sequence[Cost] = "macs",
        cost_range: Ranges | None = None,
        margin: float = 0.05,
        warmup: int | float = 1 / 6,
        score_images: int = 2048,
        score_interval: int | None = None,
        candidates: str = "promising",
        score_batch_size: int | None = None,
        rescore_interval: int | None = 1,
        rescore_entries: int | None = None,
        rejection_confidence: float | None = 0.9999,
        probe_images: int = 4,
        meta_interval: int = 200,
        meta_learning_rate: float = 1e-4,
        match_weight: float = 0.5,
        match_input: str = "probabilities",
        joint_loss: str = "add",
        distillation: str | LossFunction | Distillation = "soft_cross_entropy",
        distillation_temperature: float = 1.0,
        distillation_start: int | float | None = 0.5,
        distillation_gate: bool = True,
        teacher_weights: str = "average",
        teacher_threshold: float = 0.0,
        sampling: str = "uniform",
        score: str | LossFunction | Score = "top1",
        ema_decay: float | None = 0.99,
        seed: int = 0,
        latency: LatencySettings | None = None,
        listeners: Iterable[Callable[[BoardEvent], None]] = (),
        mutation_hooks: list[MutationHook] | None = None,
    ) -> None:
        super().__init__(mutation_hooks=mutation_hooks)
        if matching not in MATCHINGS:
            raise ConfigError(f"matching is {matching!r}; expected one of {', '.join(MATCHINGS)}")
        check_decay(ema_decay)
        costs = check_costs(cost)
        ranges = check_ranges(cost_range, [cost_name(item) for item in costs])
        _check_warmup(warmup)
        _check_positive(
            score_images=score_images,
            score_interval=1 if score_interval is None else score_interval,
            score_batch_size=2 if score_batch_size is None else score_batch_size,
            rescore_interval=1 if rescore_interval is None else rescore_interval,
            rescore_entries=1 if rescore_entries is None else rescore_entries,
            probe_images=probe_images,
            meta_interval=meta_interval,
        )
        _check_confidence(rejection_confidence)
        if candidates not in CANDIDATES:
            raise ConfigError(f"candidates is {candidates!r}; expected one of {', '.join(CANDIDATES)}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed is {seed!r}; expected a whole number from 0 to 2**63 - 1")
        if not isinstance(meta_learning_rate, int | float) or not 0 < meta_learning_rate < math.inf:
            raise ConfigError(f"meta_learning_rate is {meta_learning_rate!r}; expected a finite number above 0")
        self._board = PrioritizedBoard(board_size, margin)
        self._settings = SearchSettings(
            matching=matching,
            cost=costs if len(costs) > 1 else costs[0],
            cost_range=ranges if len(costs) > 1 else ranges[0],
            warmup=warmup,
            score_images=score_images,
            score_interval=score_interval,
            score_batch_size=score_batch_size,
            rescore_interval=rescore_interval,
            rescore_entries=rescore_entries,
            candidates=candidates,
            rejection_confidence=rejection_confidence,
            probe_images=probe_images,
            meta_interval=meta_interval,
            meta_learning_rate=float(meta_learning_rate),
            match_weight=match_weight,
            match_input=match_input,
            joint_loss=joint_loss,
            distillation=resolve_distillation(distillation, match_input),
            distillation_temperature=distillation_temperature,
            distillation_start=distillation_start,
            distillation_gate=distillation_gate,
            teacher_weights=teacher_weights,
            teacher_threshold=teacher_threshold,
            sampling=sampling,
            score=resolve_score(score),
            ema_decay=ema_decay,
            seed=seed,
            latency=latency or LatencySettings(),
        )
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
        """Return NNI's path-sampling hooks, with cells and operations that can be frozen with their weights."""
        return freezable_hooks(super().default_mutation_hooks())

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn the model space into a supernet, in place.

        Parameters
        ----------
        model
            The space.

        Returns
        -------
        ModelSpace
            The same object.

        Raises
        ------
        SpaceError
            If it is not a model space or has nothing to search.
        ConfigError
            If it has fewer paths than the board has places.
        """
        if not isinstance(model, ModelSpace):
            raise SpaceError(
                f"the search space is a {type(model).__name__}; expected a subclass of nni.nas.nn.pytorch.ModelSpace"
            )
        check_mutables(model.simplify())
        check_depths(model)
        count = count_architectures(model)
        if count < self._board.capacity:
            raise ConfigError(
                f"board_size is {self._board.capacity}, but the search space has only {count} paths; "
                "expected at most that many"
            )
        return super().mutate_model(model)

    def check_range(self, supernet: Supernet, inputs: Tensor) -> None:
        """Draw a path within the ranges of the costs, to see before a search whether there is one.

        A range of latencies that are still to be measured is left to the search.

        Parameters
        ----------
        supernet
            The mutated space.
        inputs
            Images (N, C, H, W).

        Raises
        ------
        SpaceError
            If no path lies within the ranges; the message states what can be reached.
        """
        settings = self._settings
        given = settings.latency.table is not None
        known = [
            (cost, pair)
            for cost, pair in zip(settings.costs, settings.ranges, strict=True)
            if pair != (None, None) and (cost != "latency" or given)
        ]
        sampler = make_sampler(settings.sampling, supernet.space, settings.seed, known[0][1] if known else None)
        if known:
            costs, ranges = zip(*known, strict=True)
            Costs.make(costs, ranges, settings.latency, supernet, (inputs,), seed=settings.seed).constrain(sampler)
        sampler.draw()

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Put the search around the evaluator's module.

        Parameters
        ----------
        evaluator
            A Lightning evaluator of NNI.

        Returns
        -------
        Lightning
            With the module wrapped.

        Raises
        ------
        SearchError
            If the evaluator is not a Lightning one, has no loaders, or trains with a DDP that wants every weight used.
        """
        if not isinstance(evaluator, Lightning):
            raise SearchError(
                f"the evaluator is a {type(evaluator).__name__}; a one-shot search needs a Lightning evaluator such as "
                "nni.nas.evaluator.pytorch.Classification, or Lightning(your LightningModule, Trainer(...), ...)"
            )
        if evaluator.datamodule is None and (evaluator.train_dataloaders is None or evaluator.val_dataloaders is None):
            raise SearchError(
                "the evaluator lacks train_dataloaders or val_dataloaders; the weights are trained on the former, "
                "board and meta network see the latter, so both are needed"
            )
        _check_device_strategy(evaluator.trainer)
        return super().mutate_evaluator(evaluator)

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Remember where validation images come from; Lightning gets them too.

        Parameters
        ----------
        train_dataloader_fn
            Returns the training loaders.
        val_dataloader_fn
            Returns the validation loaders.

        Returns
        -------
        Any
            The validation loaders, unchanged.
        """
        self._validation_loader = val_dataloader_fn
        return val_dataloader_fn()

    def configure_oneshot_module(self, training_module: LightningModule) -> CreamLightningModule:
        """Wrap the user's module.

        Parameters
        ----------
        training_module
            The module of the evaluator.

        Returns
        -------
        CreamLightningModule
            What the trainer runs.
        """
        return CreamLightningModule(
            training_module, self._board, self._settings, self._validation_batches, self._listeners
        )

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
                f"val_dataloaders is a {type(loader).__name__} with the keys {[*loader]}; expected a loader, or "
                "a list of loaders of which the first gives the images for the board"
            )
        return cast(Iterable[Any], loader)

    def finalise(
        self, training_loader: Iterable[Any], validation_loader: Iterable[Any], images: int = 8192
    ) -> tuple[Finalist, ...]:
        """Validate the board's entries on copies once the search is over, and order the board by the outcome.

        Each entry is frozen, with BatchNorm statistics that are estimated anew on training images, and validated in
        evaluation mode on all validation images. The supernet is left as it is.

        Parameters
        ----------
        training_loader
            Images for BatchNorm's statistics; seed it if it shuffles, for an outcome that can be repeated.
        validation_loader
            All validation images.
        images
            How many training images are used at least.

        Returns
        -------
        tuple of Finalist
            Every entry with its validated accuracy and its network, best first.

        Raises
        ------
        SearchError
            If the board is empty or has not been trained in this process.
        """
        module = None if self._mutated_model_space is None else self.oneshot_module
        if module is None or not hasattr(module, "supernet"):
            raise SearchError("there is nothing to finalise before the search has run; run the experiment first")
        return finalise(module, training_loader, validation_loader, images)

    def list_models(self, sort: bool = True, limit: int | None = 1) -> Iterator[RawFormatModelSpace]:
        """Yield the board's entries, best first.

        Parameters
        ----------
        sort
            Always done; there for NNI's interface.
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
            raise SearchError("the board is empty; run the search past its warm-up before asking for its models")
        for entry in self._board.entries[:limit]:
            yield self.model_space.freeze(dict(entry.path))


def _check_device_strategy(trainer: Any) -> None:
    strategy = getattr(trainer, "strategy", None)
    if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise SearchError(
            "the trainer's strategy is DDP, which expects a gradient for every weight, but a step trains the weights "
            "of one path only; give the Trainer strategy='ddp_find_unused_parameters_true'"
        )


def _check_warmup(warmup: int | float) -> None:
    if isinstance(warmup, bool) or not isinstance(warmup, int | float) or not warmup >= 0:
        raise ConfigError(f"warmup is {warmup!r}; expected a number of epochs, or a fraction in [0, 1)")
    if isinstance(warmup, float) and warmup >= 1:
        raise ConfigError(f"warmup is {warmup!r}; a float is a fraction in [0, 1), give an integer for epochs")


def _check_confidence(confidence: float | None) -> None:
    number = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if confidence is not None and not (number and 0.5 < confidence < 1):
        raise ConfigError(
            f"rejection_confidence is {confidence!r}; expected a number above 0.5 and below 1 such as 0.9999, or None"
        )


def _check_positive(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}; expected a whole number of at least 1")
