"""The parts of a search, built around the training step when the space and the first batch are known."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.data import sized_len
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nni_cream.errors import CreamError, SearchError
from nni_cream.rng import preserved_rng, seed_apart
from nni_cream.search.board import PrioritizedBoard
from nni_cream.search.cost.cost_model import CostModel
from nni_cream.search.cost.costs import Costs
from nni_cream.search.loop.checkpoint import read_state, restore_generators, restore_parts, save_state
from nni_cream.search.loop.gate_check import check_gate
from nni_cream.search.loop.host import HostLightningModule
from nni_cream.search.loop.image_order import ImageOrder, resume_epoch
from nni_cream.search.loop.path_gradients import average_gradients, stop_ddp
from nni_cream.search.loop.statistics import Tally
from nni_cream.search.loop.warmup import Warmup
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.ranks import Ranks
from nni_cream.search.sampling.samplers import PathSampler
from nni_cream.search.scoring.candidates import CandidateWindow, scoring_interval
from nni_cream.search.scoring.class_order import warn_of_sorted_classes
from nni_cream.search.scoring.memory import PredictInMemory
from nni_cream.search.scoring.predictor import PathPredictor
from nni_cream.search.scoring.proposals import Proposals
from nni_cream.search.scoring.scorer import PathScorer
from nni_cream.search.scoring.validation_subset import Samples, ValidationSubset, part_of, split_batch
from nni_cream.search.settings import SearchSettings
from nni_cream.search.supernet.forward_recorder import Call, observed
from nni_cream.search.supernet.outputs import main_output, tensors_in
from nni_cream.search.supernet.supernet import Supernet
from nni_cream.search.supernet.verify import Inputs, verify
from nni_cream.search.teaching.distiller import Distiller
from nni_cream.search.teaching.matchers import Matcher, NoMatcher
from nni_cream.search.teaching.weight_average import WeightAverage

__all__ = ["PreparedLightningModule"]

_logger = logging.getLogger(__name__)
_MOST_SCORED = 256
_UNLIKE = 10
_MOST_READ = 100_000
# Each takes some forward passes over two images; the check must be short beside a search.
_VERIFIED = 2
# A rejected candidate would not have reached the board with this probability, at each look [ours].
_CONFIDENCE = 0.9999


class PreparedLightningModule(HostLightningModule):
    """Owns the parts of a search; its child's training step joins them.

    ``validation_batches`` returns an iterable of pairs (x, y) that never train the weights; the board and the meta
    network see them. A search resumed from a checkpoint equals one that was never interrupted.
    """

    # Made when the training starts, or on the first batch. One that is not listed here becomes the user's attribute.
    ranks: Ranks
    paths: RandomPaths
    predictor: PathPredictor
    proposals: Proposals
    distiller: Distiller
    scorer: PathScorer
    costs: Costs

    def __init__(
        self,
        training_module: pl.LightningModule,
        board: PrioritizedBoard,
        settings: SearchSettings,
        validation_batches: Callable[[], Iterable[Any]],
        rebuild: Callable[[Path], nn.Module | None] | None = None,
    ) -> None:
        super().__init__(training_module, settings)
        self.board = board
        self.warmup = Warmup(settings.warmup)
        self.untaught = self.warmup  # until then there are no teachers
        start = settings.teaching.start
        # Without a matcher there is nothing to delay, and its check would reject a valid short search.
        if start is not None and not isinstance(settings.matching, NoMatcher):
            self.untaught = Warmup(start, "teaching.start", "there would be no teachers")
        self.average: WeightAverage | None = None
        self.tally = Tally()
        self.window = CandidateWindow()
        self.sampler: PathSampler = settings.sampling
        self.matcher: Matcher = settings.matching
        self._validation_batches = validation_batches
        self._rebuild = rebuild
        self._step = self._scored = self._admitted = 0
        self._steps_before = 0
        self._open_epoch = self._untaught = False
        self._parts_ready = self._averages_gradients = False
        self._example: Samples | None = None
        self._inside: Inputs | None = None  # what the space gets of a batch
        self._batch_size = 0
        self._order = ImageOrder()
        self._resumed: Mapping[str, Any] | None = None

    @property
    def steps(self) -> int:
        """Training batches so far; a board entry's age counts in them."""
        return self._step

    def _has_lesson(self) -> bool:
        """Whether this step is one of those with a teacher, if there is one."""
        share = self.settings.teaching.share
        return not self._untaught and int((self._step + 1) * share) > int(self._step * share)

    @property
    def score_interval(self) -> int:
        """Training steps between two scorings once the board is full."""
        scoring = self.settings.scoring
        images = len(self.scorer.subset) if self._parts_ready else scoring.images
        return scoring_interval(scoring.interval, images, max(1, self._batch_size))

    @property
    def cost(self) -> CostModel:
        """The primary cost."""
        return self.costs.primary

    @abstractmethod
    def _finish_step(self) -> None:
        """Do what follows on the optimizer step, unless it is done."""

    @abstractmethod
    def _compare_ranks(self) -> None:
        """Raise SearchError unless all processes trained the same path with the same teacher and board."""

    @abstractmethod
    def _finish_epoch(self) -> None:
        """Do what ends an epoch, unless it is done."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """Build the parts on the first batch, whose shape the costs are counted on."""
        if not self._parts_ready:
            inputs, targets = split_batch(batch)
            self._prepare(inputs, len(targets) * self.ranks.size)
            self._check_gate(inputs, targets)
        self._steps_before = self.trainer.global_step
        return super().on_train_batch_start(batch, batch_idx)

    def on_fit_start(self) -> None:
        """Check the settings against the trainer and the space, and restore a checkpoint's state."""
        self._begin()
        self._tell_of_hidden_attributes()
        if self._resumed is not None:
            restore_parts(self, self._resumed)
            order = self.ranks.own(self._resumed["order"])
            if order["iterator"] is None:  # of a moment before the first epoch: no order to repeat
                self._go_on()
        super().on_fit_start()
        self._order.fit_starts()

    def _begin(self) -> None:
        """Make the parts that need no batch, and forget an earlier training."""
        if not self.training_module.automatic_optimization:
            raise SearchError(
                f"{type(self.training_module).__name__}.automatic_optimization is False; expected True, since the "
                "joint loss needs Lightning's automatic optimization. Return the loss from training_step."
            )
        self.ranks = Ranks.of_trainer(self.trainer)
        self.warmup.check(self.trainer)
        self.untaught.check(self.trainer)
        self.supernet = Supernet(self.model, self.training_module)
        settings = self.settings
        self.paths = RandomPaths(self.model, settings.seed, settings.cost_range[0])
        self.predictor = PathPredictor(self.supernet.mutables, self.supernet.usage)
        predicted = settings.scoring.proposals == "predicted"
        self.proposals = Proposals(self.predictor, self.board, self.paths, predicted)
        self.sampler.begin(self.paths, self.board)
        self.matcher.begin(self._features, settings.seed)
        if settings.ema_decay is not None:
            self.average = WeightAverage(self.training_module, settings.ema_decay)
        self.distiller = Distiller(
            self.supernet, settings.teaching, settings.distillation, settings.score, self.average, self.ranks
        )
        self._parts_ready = False
        self.board.validate({})  # further training moves the weights, so validated accuracies no longer hold

    def on_train_start(self) -> None:
        """Check the warm-up against the length of the training; resume within an epoch if a checkpoint says so."""
        self.warmup.begin(self.trainer)
        self.untaught.begin(self.trainer)
        self._averages_gradients = stop_ddp(self.trainer)
        super().on_train_start()
        if self._resumed is None:
            seed_apart(self.ranks.rank)
            return
        if self._resumed["example"] is not None:
            # The parts exist before the first resumed batch: generators return to their saved state only after that.
            example = tree_map(lambda item: item.to(self.device), self._resumed["example"])
            self._prepare(example, self._resumed["batch_size"])
        loop = self.trainer.fit_loop
        if loop.restarted_mid_epoch or loop.restarted_on_epoch_end:
            self._order.load_state_dict(self.ranks.own(self._resumed["order"]))
            self._open_epoch = bool(self._resumed["open_epoch"])
            resume_epoch(self.trainer, self._order)
            self._go_on()

    def on_train_epoch_start(self) -> None:
        """Call the user's hook, and let a resumed epoch draw the images of the uninterrupted one."""
        self.tally = Tally()
        # Lightning makes the iterator of the first epoch before this hook, those of later epochs after it.
        resumed, first = self._resumed is not None, self.trainer.current_epoch == 0
        if self._resumed is not None:
            if first:
                self._order.load_state_dict(self.ranks.own(self._resumed["order"]))
                self._order.replay(self.trainer, 0)
            self._go_on()
        super().on_train_epoch_start()
        self.supernet.refresh()  # a user may have exchanged a part of the module
        self._open_epoch = True
        self._order.epoch_starts(self.trainer, iterator_exists=first)
        if resumed and not first:
            # Lightning made the resumed epoch's iterator, too, but before the generators were restored.
            iter(self.trainer.fit_loop._data_fetcher)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Call the user's hook; before anything looks at the gradients, average them over the processes."""
        super().backward(loss, *args, **kwargs)
        if self._averages_gradients and not self.trainer.fit_loop._should_accumulate():
            average_gradients(self.parameters(), self.ranks)

    def _go_on(self) -> None:
        """Put the random number generators where the checkpoint left them."""
        assert self._resumed is not None
        restore_generators(self, self._resumed)
        self._resumed = None

    def _prepare(self, inputs: Samples, batch_size: int) -> None:
        self._batch_size = batch_size
        # Two images: BatchNorm has no statistics of one. A clone: a view would keep the whole batch in memory.
        self._example = inputs = tree_map(lambda item: item.detach().clone(), part_of(inputs, slice(2)))
        path = self.paths.first()
        self.supernet.activate(path)
        inside, output = self._look_inside(inputs)
        self._inside = inside
        # Building the parts draws random numbers; the training must draw the same ones with or without it.
        with preserved_rng(self.settings.seed):
            self.verify(self._random_paths(_VERIFIED))
            self.costs = Costs.make(
                self.settings.cost,
                self.settings.cost_range,
                self.settings.latency,
                self.supernet,
                inside.args,
                inside.kwargs,
                seed=self.settings.seed,
                state=None if self._resumed is None else self._resumed["cost"],
                ranks=self.ranks,
            )
            self.predictor.sizes = self.costs.size
            self.scorer = self._make_scorer()
            # Only the first process draws. Others would measure a cost, such as a latency, otherwise, and at its side.
            self.ranks.first(lambda: self.costs.constrain(self.paths))
        self._check_objective(path, main_output(output))
        self._parts_ready = True

    def _look_inside(self, inputs: Samples) -> tuple[Inputs, Any]:
        """Run the active path; return what the user's module gives the space, and what it returns itself."""
        try:
            with self._autocast(), self.supernet.detached(), observed(self.supernet.space) as calls:
                output = self._predict(inputs)
        except (CreamError, torch.cuda.OutOfMemoryError):  # they say it themselves
            raise
        except (RuntimeError, TypeError) as error:
            raise SearchError(
                f"forward fails on the inputs of the first batch ({error}); expected it to take them as they are, "
                "since paths are scored by it. If training_step prepares the inputs, do so in forward"
            ) from error
        if not calls:
            raise SearchError(
                "forward of the evaluator's module does not run the model; expected it to return the logits of the "
                "model."
            )
        return Inputs(calls[0].args, calls[0].kwargs), output

    def _compare_inputs(self, calls: Sequence[Call]) -> None:
        """Warn if training_step gives the model inputs of another size than forward, by which paths are scored."""
        assert self._inside is not None
        trained, scored = (tensors_in([item.args, item.kwargs])[:1] for item in (calls[0], self._inside))
        sizes = [float(item[0].detach().float().square().mean().sqrt()) for item in (trained, scored) if item]
        # Augmentation changes the size a little, a forgotten division by 255 much.
        if len(sizes) == 2 and max(sizes) > _UNLIKE * min(sizes):
            _logger.warning(
                "training_step gives the model inputs of size %.3g (root mean square), and forward of size %.3g; "
                "expected the same, since paths are scored by forward. "
                "Normalise the inputs in forward or in the data set",
                *sizes,
            )

    def _compare_validation(self, calls: Sequence[Call], batch: Any) -> None:
        """Raise SearchError if validation_step gives the model other inputs than forward, by which paths are scored."""
        # Unlike training_step it changes nothing at random: what differs is how the two prepare the inputs.
        scored = self._look_inside(split_batch(batch)[0])[0]
        expected = tensors_in([scored.args, scored.kwargs])
        if not any(_alike(tensors_in([call.args, call.kwargs]), expected) for call in calls):
            raise SearchError(
                "validation_step gives the model other inputs than forward, for the same batch; expected the same, "
                "since paths are scored by forward. Prepare the inputs in forward or in the data set"
            )

    def _random_paths(self, number: int) -> list[Path]:
        paths = RandomPaths(self.supernet.space, self.settings.seed)
        return [paths.draw() for _ in range(number)]

    def verify(self, paths: Sequence[Path], batches: Iterable[Any] = ()) -> None:
        """Check that supernet, frozen and rebuilt network are one for these paths; raise SpaceError if not.

        ``batches`` give inputs where no batch was seen yet, as in a search that is resumed after its last step.
        """
        inside = self._inside
        if inside is None:
            batch = next(self.transferred(batches), None)
            if batch is None:
                return  # the final validation says so
            self.supernet.activate(paths[0])
            inside = self._look_inside(part_of(split_batch(batch)[0], slice(2)))[0]
        with self._autocast():
            verify(self.supernet, inside, paths, self._rebuild)

    def _make_scorer(self) -> PathScorer:
        settings, net, loader = self.settings, self.supernet, self._validation_batches()
        subset = ValidationSubset.collect(
            warn_of_sorted_classes(self.transferred(loader), net.space),
            settings.scoring.images,
            self._scored_at_once(),
            self.device,
            settings.seed,
            most=_MOST_READ if sized_len(loader) is None else None,  # without a length it may have no end
        )
        predict = PredictInMemory(self._predict, self.training_module)
        return PathScorer(subset, predict, net.activate, net.detached, settings.score, _CONFIDENCE, self.ranks)

    def _check_objective(self, path: Path, output: Tensor) -> None:
        """Raise SearchError before the first step if the outputs fit neither score nor distillation."""
        with self._autocast():
            self.scorer.check(path)
        if not isinstance(self.matcher, NoMatcher):
            self.settings.distillation.features(output)

    def _check_gate(self, inputs: Samples, targets: Tensor) -> None:
        """Look before the first step whether the gate can compare outputs with the targets of the training."""
        if not self.settings.teaching.gate or isinstance(self.matcher, NoMatcher):
            return
        with self._autocast(), self.supernet.detached(), observed(self.supernet.space) as calls:
            output = main_output(self._predict(inputs))
            check_gate(self.settings.score, [main_output(call.output) for call in calls], output, targets)

    def _scored_at_once(self) -> int:
        """Return how many images one scoring pass takes."""
        # Without gradients, two training batches fit where one trains: scoring needs no more memory than training.
        return min(_MOST_SCORED, max(2, 2 * self._batch_size))

    def _features(self, path: Path) -> Tensor:
        self.supernet.activate(path)
        with self._autocast(), self.supernet.detached():
            output = main_output(self._predict(self.scorer.subset.probe(self.matcher.probe_images)))
            features: Tensor = self.settings.distillation.features(output)
            return features

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the search, then call the user's hook."""
        # Callbacks come before this module, and LearningRateFinder trains in its ``on_fit_start``, from a checkpoint of
        # the beginning that it returns to.
        if not hasattr(self, "supernet"):
            self._begin()
        self._compare_ranks()
        # A weights-only load would refuse whatever classes the user's hyperparameters hold.
        checkpoint.pop(self.CHECKPOINT_HYPER_PARAMS_KEY, None)
        save_state(self, checkpoint)
        self.training_module.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state until the parts exist, then call the user's hook."""
        self._resumed = read_state(checkpoint)
        self.training_module.on_load_checkpoint(checkpoint)


def _alike(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    if [item.shape for item in ones] != [item.shape for item in others]:
        return False
    pairs = zip(ones, others, strict=True)
    return all(torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-5, equal_nan=True) for a, b in pairs)
