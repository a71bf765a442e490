"""The training step of Cream: the one place where sampler, board, matcher, scorer and cost model meet."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from nni.mutable.annotation import Constraint
from torch import Tensor

from nni_cream.errors import SearchError
from nni_cream.search.averaging import WeightAverage
from nni_cream.search.board import BoardEntry, BoardEvent, PrioritizedBoard
from nni_cream.search.cost import CostModel
from nni_cream.search.costs import Costs
from nni_cream.search.forwarding import ForwardingLightningModule, call_step
from nni_cream.search.matching import Match, Matcher, make_matcher, match_weight_gradient
from nni_cream.search.objective import failures_of, main_output
from nni_cream.search.observing import Call, muted, observed
from nni_cream.search.paths import Path, encode_path
from nni_cream.search.resuming import (
    ImageOrder,
    end_resumed_epoch,
    epoch_is_over,
    gradients_pending,
    in_step,
    loader_states,
    restore_loaders,
    resume_epoch,
    settle_step,
)
from nni_cream.search.rng import preserved_rng, restore_rng, rng_state
from nni_cream.search.sampler import PathSampler
from nni_cream.search.scorer import PathScorer, ValidationSubset, split_batch
from nni_cream.search.settings import SearchSettings
from nni_cream.search.supernet import Supernet, single_values_explained
from nni_cream.search.tally import Tally
from nni_cream.search.warmup import Warmup

__all__ = ["CreamLightningModule"]

_STATE = "nni_cream"
_MOST_SCORED = 256
_logger = logging.getLogger(__name__)


class CreamLightningModule(ForwardingLightningModule):
    """Trains the supernet with prioritized path distillation, around the user's own Lightning module.

    Parameters
    ----------
    training_module
        The user's module; its ``training_step`` computes the task loss.
    board
        The prioritized path board.
    settings
        Everything else.
    validation_batches
        Returns an iterable of pairs (x, y) never used for the weights; the board and the meta network see them.
    listeners
        Called with every :class:`BoardEvent`.
    """

    def __init__(
        self,
        training_module: pl.LightningModule,
        board: PrioritizedBoard,
        settings: SearchSettings,
        validation_batches: Callable[[], Iterable[Any]],
        listeners: Iterable[Callable[[BoardEvent], None]] = (),
    ) -> None:
        super().__init__(training_module)
        self.board = board
        self.settings = settings
        self.statistics: dict[str, float] = {}
        self.tally = Tally()
        self._validation_batches = validation_batches
        self._listeners = tuple(listeners)
        self._step = self._scored = self._admitted = 0
        self._path: Path | None = None
        self._match: Match | None = None
        self._loss: Tensor | None = None
        self._open_step: tuple[Path, Any] | None = None
        self._open_epoch = False
        self._changed = False
        self._steps_before = 0
        self._example: Tensor | None = None
        self._batch_size = 0
        self._order = ImageOrder()
        self._resumed: Mapping[str, Any] | None = None
        self._warmup = Warmup(settings.warmup)
        self._parts_ready = False
        self.average: WeightAverage | None = None
        # Made by _prepare as soon as the model space and the first batch are known.
        self.supernet: Supernet
        self.sampler: PathSampler
        self.matcher: Matcher
        self.scorer: PathScorer
        self.costs: Costs

    @property
    def steps(self) -> int:
        """Training batches so far; a board entry's age counts in them."""
        return self._step

    @property
    def cost(self) -> CostModel:
        """The primary cost."""
        return self.costs.primary

    # The paper's loop -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Draw a path, pick its teacher, return the joint loss (METHOD.md, "The loop", steps 1 to 3)."""
        path = self.sampler.draw()
        match = None if self._warmup.lasts(self.trainer) else self.matcher.pick(path, self.board.entries)
        self._count(match)
        self.supernet.activate(path)
        with observed(self.supernet.space) as calls:
            output = call_step(self.training_module.training_step, batch, batch_idx)
        self._path, self._match, self._open_step = path, match, (path, batch)
        output = self._with_loss(output, lambda task_loss: self._joint_loss(task_loss, match, calls))
        self._check_loss()
        return output

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the path compete for the board, teach the meta network (steps 4 and 5)."""
        self._finish_step()
        self._report(force=self._changed)
        super().on_train_batch_end(outputs, batch, batch_idx)

    def _count(self, match: Match | None) -> None:
        self.tally.add_draw(self.sampler.rejected)
        if match is not None:
            self.tally.add_match(match)

    def _finish_step(self) -> None:
        """Do what follows on the optimizer step, once: at its end, or earlier for a checkpoint that is written then."""
        if self._open_step is None:
            return
        (path, batch), self._open_step = self._open_step, None
        self._step += 1
        self._changed = False
        if self.average is not None and self.trainer.global_step > self._steps_before:
            self.average.update()
        if self._warmup.lasts(self.trainer):
            return
        self._changed = self._compete(path)
        if self.matcher.learns and self._step % self.settings.meta_interval == 0:
            self._update_matcher(path, batch)

    def _joint_loss(self, task_loss: Tensor, match: Match | None, calls: list[Call]) -> Tensor:
        """L = [rho KD + (2 - rho) CE] / 2 (paper, section 3.3)."""
        if match is None:
            return task_loss
        distillation_loss = self._distillation_loss(match, calls)
        return (match.weight * distillation_loss + (2 - match.weight) * task_loss) / 2

    def _distillation_loss(self, match: Match, calls: list[Call]) -> Tensor:
        """KD of the student's forward passes against the teacher's on the very same inputs."""
        students = [call for call in calls if main_output(call.output).requires_grad]
        if not students:
            raise SearchError(
                "training_step did not run the model with gradients, so there is nothing to distil; call self.model(x) "
                "(or self(x)) in training_step, or use matching='none'"
            )
        self.supernet.activate(match.entry.path)
        with self.supernet.detached():
            teachers = [main_output(self.supernet.space(*call.args, **call.kwargs)) for call in students]
        with failures_of("distillation", self.settings.distillation.loss):
            losses = [
                self.settings.distillation.loss(main_output(call.output), teacher)
                for call, teacher in zip(students, teachers, strict=True)
            ]
            return torch.stack(losses).mean()

    def _compete(self, path: Path) -> bool:
        """Score the path that was just trained and offer it to the board."""
        if self.board.full and self._step % self.settings.score_interval:
            return False
        if path in self.board:
            return False
        cost, other_costs = self.costs(path)
        with self._autocast():
            accuracy = self.scorer.score(path, above=self.board.bar((cost, *other_costs.values())))
        self._scored += 1
        self._check_score(accuracy)
        entry = None if accuracy is None else BoardEntry(path, accuracy, cost, self._step, other_costs)
        verdict = None if entry is None else self.board.offer(entry)
        admitted = bool(verdict)
        self._admitted += admitted
        candidate = {"path": encode_path(path), "accuracy": accuracy, "cost": cost, "other_costs": other_costs}
        self._tell("scored", candidate, admitted, verdict.evicted if verdict else None)
        return admitted

    def _update_matcher(self, path: Path, batch: Any) -> None:
        """One step of the meta network on the validation loss after a virtual step (paper, section 3.2)."""
        match = self.matcher.pick(path, self.board.entries)
        if match is None:
            return
        self.supernet.activate(path)
        with muted(self.training_module), self._autocast(), self.supernet.detached(grad=True):
            with observed(self.supernet.space) as calls:
                task_loss = self._task_loss(batch)
            distillation_loss = self._distillation_loss(match, calls)
            self.supernet.activate(path)
            gradient = match_weight_gradient(
                [parameter for parameter in self.training_module.parameters() if parameter.requires_grad],
                distillation_loss,
                task_loss,
                match.weight,
                step_size=self.trainer.optimizers[0].param_groups[0]["lr"],
                validation_losses=lambda: self._meta_losses(len(split_batch(batch)[1])),
            )
        gradient = self._mean_over_ranks(gradient)
        if not math.isfinite(gradient):
            raise SearchError(f"the gradient of the meta network became {gradient} at step {self._step}")
        self.matcher.update(match, gradient)
        self.tally.add_meta_update()

    # Preparation ------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """Build the parts on the first batch, whose shape the costs are counted on."""
        if not self._parts_ready:
            inputs = split_batch(batch)[0]
            self._prepare(inputs, len(inputs))
        self._steps_before = self.trainer.global_step
        return super().on_train_batch_start(batch, batch_idx)

    def on_fit_start(self) -> None:
        """Check the settings against the trainer and the space, and take up the state of a checkpoint."""
        if not self.training_module.automatic_optimization:
            raise SearchError(
                f"{type(self.training_module).__name__} sets automatic_optimization = False; the joint loss can only "
                "be trained with Lightning's automatic optimization, so return the loss from training_step"
            )
        self._warmup.check(self.trainer)
        self.supernet = Supernet(self.model, self.training_module)
        self.sampler = PathSampler(self.model, self.settings.seed, self.settings.ranges[0])
        self.matcher = make_matcher(
            self.settings.matching, self._features, self.settings.meta_learning_rate, self.settings.seed
        )
        if self.settings.ema_decay is not None:
            self.average = WeightAverage(self.training_module, self.settings.ema_decay)
        self._parts_ready = False
        self.board.validate({})  # of a training that goes on, the weights will move
        if self._resumed is not None:
            self._restore(self._resumed)
        super().on_fit_start()
        self._order.fit_starts()

    def on_train_start(self) -> None:
        """Check the warm-up against the length of the training; go on within an epoch if a checkpoint says so."""
        self._warmup.begin(self.trainer)
        super().on_train_start()
        if self._resumed is None:
            return
        if self._resumed["example"] is not None:
            example = self._resumed["example"].to(self.device)
            self._prepare(example, self._resumed.get("batch_size", _MOST_SCORED // 2))
        loop = self.trainer.fit_loop
        if loop.restarted_mid_epoch or loop.restarted_on_epoch_end:
            self._order.load_state_dict(self._resumed["order"])
            self._open_epoch = bool(self._resumed["open_epoch"])
            resume_epoch(self.trainer, self._order)
            self._go_on()

    def on_train_epoch_start(self) -> None:
        """Call the user's hook, and see to it that a resumed epoch draws its images as the uninterrupted one."""
        self.tally = Tally()
        # Lightning makes the iterator of the first epoch before this hook, those of later epochs after it.
        resumed, first = self._resumed is not None, self.trainer.current_epoch == 0
        if self._resumed is not None:
            if first:
                self._order.load_state_dict(self._resumed["order"])
                self._order.replay(self.trainer, 0)
            self._go_on()
        super().on_train_epoch_start()
        self.supernet.refresh()  # a user may have exchanged a part of the module
        self._open_epoch = True
        self._order.epoch_starts(self.trainer, iterator_exists=first)
        if resumed and not first:
            # It has made one for the resumed epoch as well, before the generators were restored.
            iter(self.trainer.fit_loop._data_fetcher)

    def _go_on(self) -> None:
        """Put the random number generators where the checkpoint left them."""
        assert self._resumed is not None
        restore_rng(self._resumed["rng"])
        restore_loaders(self._resumed["loaders"], self.trainer)
        self._resumed = None

    def _prepare(self, inputs: Tensor, batch_size: int) -> None:
        self._batch_size = batch_size
        self._example = inputs = inputs[:2].detach().clone()
        self.supernet.activate(self.sampler.first())
        with self._autocast(), self.supernet.detached(), observed(self.supernet.space) as calls:
            output = self._predict(inputs)
        if not calls:
            raise SearchError(
                "forward of the evaluator's module does not run the model; expected it to return its logits"
            )
        with preserved_rng(self.settings.seed):
            self.costs = Costs.make(
                self.settings.costs,
                self.settings.ranges,
                self.settings.latency,
                self.supernet,
                calls[0].args,
                calls[0].kwargs,
                seed=self.settings.seed,
                state=None if self._resumed is None else self._resumed["cost"],
                share=self.trainer.strategy.broadcast,
                leader=self.trainer.is_global_zero,
            )
            self.scorer = self._make_scorer(main_output(output))
            self.costs.constrain(self.sampler)
        self._parts_ready = True

    def _make_scorer(self, output: Tensor) -> PathScorer:
        subset = ValidationSubset.collect(
            self.transferred(self._validation_batches()),
            self.settings.score_images,
            self._scored_at_once(),
            output.shape[1] if output.ndim == 2 else None,
            self.device,
        )
        return PathScorer(subset, self._predict, self.supernet.activate, self.supernet.detached, self.settings.score)

    def _scored_at_once(self) -> int:
        """Without gradients, two training batches fit where one is trained on: scoring asks for no more memory."""
        chosen = self.settings.score_batch_size
        return min(_MOST_SCORED, max(2, 2 * self._batch_size)) if chosen is None else chosen

    def transferred(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Bring batches where ``validation_step`` would get them, the user's transfer hooks included.

        Parameters
        ----------
        batches
            Of a loader.

        Yields
        ------
        Any
            Each batch, on the device that the trainer computes on.
        """
        state = self.trainer.state.stage
        for batch in batches:
            self.trainer.validating = True  # the hooks may ask
            try:
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self._on_before_batch_transfer(batch, dataloader_idx=0)
                batch = self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            finally:
                self.trainer.state.stage = state
            yield batch

    def on_fit_end(self) -> None:
        """Refuse to end without a result.

        Raises
        ------
        SearchError
            If nothing has got onto the board, because something stopped the training within its warm-up.
        """
        super().on_fit_end()
        if not len(self.board) and not self.trainer.interrupted:
            raise SearchError(
                f"the board is empty after {self._step} steps: the training ended within its warm-up "
                f"({self.settings.warmup}), so there is no result; train for longer or warm up for less"
            )

    # Running the model ------------------------------------------------------------------------------------------------

    def _predict(self, inputs: Tensor) -> Any:
        """Run the active path: the user's ``forward`` if the module has one, else the model."""
        own = type(self.training_module).forward is not pl.LightningModule.forward
        with single_values_explained(
            f"probe_images is {self.settings.probe_images} and score_batch_size is {self.settings.score_batch_size}; "
            "give at least 2 for both, and at least 2 validation images"
        ):
            return self.training_module(inputs) if own else self.supernet.space(inputs)

    def _features(self, path: Path) -> Tensor:
        self.supernet.activate(path)
        with self._autocast(), self.supernet.detached():
            output = main_output(self._predict(self.scorer.subset.probe(self.settings.probe_images)))
            return self.settings.distillation.features(output)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return the trainer's precision context, which Lightning enters around steps but not around hooks."""
        plugin = getattr(self.trainer, "precision_plugin", None)
        return nullcontext() if plugin is None else plugin.forward_context()

    def _task_loss(self, batch: Any) -> Tensor:
        losses: list[Tensor] = []

        def keep(loss: Tensor) -> Tensor:
            losses.append(loss)
            return loss

        self._with_loss(call_step(self.training_module.training_step, batch, 0), keep)
        return losses[0]

    def _with_loss(self, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """Change the loss in what ``training_step`` returned: a tensor, a dict with ``loss``, or ``None`` to skip."""
        if output is None:
            self._loss = None
            return None
        if isinstance(output, Mapping):
            self._loss = change(output["loss"])
            return {**output, "loss": self._loss}
        self._loss = change(output)
        return self._loss

    def _meta_losses(self, at_once: int) -> Iterator[Tensor]:
        """Yield the parts of the loss on a chunk of validation images; the chunks take turns.

        The graph of a part is no larger than that of a training step, however many images are scored at once.
        """
        chunks = self.scorer.subset.chunks
        images, labels = chunks[(self._step // self.settings.meta_interval) % len(chunks)]
        # Nearly equal parts, none of a single image.
        parts = max(1, min(math.ceil(len(labels) / at_once), len(labels) // 2))
        for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            yield self._task_loss([x, y]) * (len(y) / len(labels))

    def _mean_over_ranks(self, value: float) -> float:
        if self.trainer.world_size == 1:
            return value
        reduced = self.trainer.strategy.reduce(torch.tensor(value, device=self.device), reduce_op="mean")
        return float(reduced)

    # Validation and the end of an epoch -------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Validate the board's best path (any path before there is one) without touching the supernet."""
        best = self.board.best
        self.supernet.activate(best.path if best else self._path or self.sampler.first())
        super().on_validation_start()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Run the user's ``validation_step`` on that path."""
        with (
            self.supernet.evaluating(),
            single_values_explained(
                "the validation loader yields a batch of a single image; choose a batch size that leaves none over"
            ),
        ):
            return call_step(self.training_module.validation_step, batch, batch_idx, dataloader_idx)

    def on_train_epoch_end(self) -> None:
        """Rescore the board, so that early scores do not outlive their weights; then call the user's hook."""
        self._check_weights()
        if self.trainer.fit_loop.restarting:
            end_resumed_epoch(self.trainer)
        self._finish_epoch()
        self._report(force=True, on_epoch=True)
        super().on_train_epoch_end()

    def _finish_epoch(self) -> None:
        """Rescore once at the end of an epoch, or before, for a checkpoint that is written earlier."""
        due = (self.trainer.current_epoch + 1) % self.settings.rescore_interval == 0
        if self._open_epoch and len(self.board) and due:
            self._rescore()
        self._open_epoch = False

    def _rescore(self) -> None:
        def score(entry: BoardEntry) -> float:
            accuracy = self.scorer.score(entry.path)
            self._check_score(accuracy)
            assert accuracy is not None  # nothing is rejected without a bar
            return accuracy

        with self._autocast():
            self.board.rescore(score)
        self.matcher.forget()
        self._tell("rescored")

    def _check_loss(self) -> None:
        """Stop on a loss that is not finite before it reaches the weights."""
        step = self._step + 1
        # On an accelerator looking at each loss would stall the queue; a checkpoint is never written without a look.
        due = self.device.type == "cpu" or step % self.settings.score_interval == 0
        if due and self._loss is not None and not bool(torch.isfinite(self._loss).all()):
            raise SearchError(
                f"the loss became {float(self._loss.detach())} at step {step}; the search stops and keeps its last "
                "checkpoint. Lower the learning rate, clip gradients or look at the data"
            )

    def _check_weights(self) -> None:
        """Stop on a weight that is not finite before a checkpoint could be written over a good one."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.training_module.parameters()):
            raise SearchError(
                f"a weight of the supernet is not finite at step {self._step}; the search stops and keeps its last "
                "checkpoint. Lower the learning rate or clip gradients"
            )

    def _check_score(self, score: float | None) -> None:
        if score is not None and not math.isfinite(score):
            raise SearchError(f"the score of a path became {score} at step {self._step}; the search stops")

    # What others see --------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, candidate: dict[str, Any] | None = None, *verdict: Any) -> None:
        event = BoardEvent(kind, self._step, self.trainer.current_epoch, candidate, *verdict)
        for listener in self._listeners:
            listener(event)

    def _report(self, force: bool, on_epoch: bool = False) -> None:
        """Log the board's figures when they changed, and now and then."""
        if not (force or self._step % self.trainer.log_every_n_steps == 0):
            return
        self.statistics = self._figures()
        for name, value in self.statistics.items():
            shown = name in ("board_best", "board_worst", "board_size")
            self.log(name, value, prog_bar=shown, on_step=not on_epoch, on_epoch=on_epoch)

    def _figures(self) -> dict[str, float]:
        entries = self.board.entries
        figures = {
            "board_size": float(len(entries)),
            "scored": float(self._scored),
            "admitted": float(self._admitted),
            "sampler_drawn": float(self.tally.drawn),
            "sampler_rejected": float(self.tally.rejected),
            "meta_updates": float(self.tally.meta_updates),
        }
        if entries:
            figures["board_best"] = entries[0].accuracy
            figures["board_worst"] = entries[-1].accuracy
            figures["board_mean"] = sum(entry.accuracy for entry in entries) / len(entries)
            figures["board_cost_mean"] = sum(entry.cost for entry in entries) / len(entries)
        if self.tally.mean_weight is not None:
            figures["match_weight"] = self.tally.mean_weight
        if self._loss is not None:
            figures["joint_loss"] = float(self._loss.detach())
        return figures

    def export(self) -> Path:
        """Return the board's best path: the result of the search, with no further search after it.

        Returns
        -------
        Path
            NNI sample.

        Raises
        ------
        SearchError
            If the board is empty.
        """
        best = self.board.best
        if best is None:
            raise SearchError(
                "the board is empty: the search has not got past its warm-up, so there is nothing to export"
            )
        return dict(best.path)

    # Checkpoint -------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the board, the meta network, the sampler and every random number generator.

        Parameters
        ----------
        checkpoint
            What Lightning is about to write.

        Raises
        ------
        SearchError
            If a weight is not finite, so that a good checkpoint is not replaced by a useless one.
        """
        self._check_weights()
        half = in_step(self.trainer)
        if not half:
            self._finish_step()
            settle_step(checkpoint, self.trainer)
            if epoch_is_over(self.trainer):
                self._finish_epoch()
        checkpoint[_STATE] = {
            "space": self._space_outline(),
            "settings": self.settings.outline(),
            "board": self.board.state_dict(),
            "matcher": self.matcher.state_dict(),
            "sampler": self.sampler.state_dict(),
            "cost": self.costs.state_dict() if self._parts_ready else {},
            "average": None if self.average is None else self.average.state_dict(),
            "rng": rng_state(),
            "loaders": loader_states(self.trainer),
            "order": self._order.state_dict(),
            "counts": [self._step, self._scored, self._admitted],
            "tally": self.tally.state_dict(),
            "example": None if self._example is None else self._example.cpu(),
            "batch_size": self._batch_size,
            "open_epoch": self._open_epoch,
            "half_a_step": half or gradients_pending(self.trainer),
        }
        self.training_module.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state until the parts exist, then call the user's hook.

        Parameters
        ----------
        checkpoint
            What Lightning loaded.

        Raises
        ------
        SearchError
            If the checkpoint is not one of a Cream search.
        """
        if _STATE not in checkpoint:
            raise SearchError(
                f"the checkpoint holds no state {_STATE!r}, so it was not written by a Cream search; resume from one "
                "that was, or start anew"
            )
        self._resumed = checkpoint[_STATE]
        self.training_module.on_load_checkpoint(checkpoint)

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["space"] != self._space_outline():
            raise SearchError("the checkpoint belongs to another search space; resume with the space it was made with")
        self.settings.check_same(state.get("settings", {}))
        self.board.load_state_dict(state["board"], self.supernet.decode)
        self.matcher.load_state_dict(state["matcher"])
        self.sampler.load_state_dict(state["sampler"])
        self._step, self._scored, self._admitted = state["counts"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if "tally" in state:  # version 0.1.0 did not count
            self.tally.load_state_dict(state["tally"])
        if state["half_a_step"]:
            _logger.warning(
                "The checkpoint was written in the middle of an optimizer step, after %d batches, at an exception "
                "or with accumulated gradients that it lacks; the search will not equal an uninterrupted one.",
                self._step,
            )

    def _space_outline(self) -> dict[str, Any]:
        return {
            str(label): len(mutable.values)
            for label, mutable in self.supernet.mutables.items()
            if not isinstance(mutable, Constraint)
        }
