"""The training step of Cream: the one place where sampler, board, matcher, scorer and cost model meet."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from nni_cream.errors import SearchError
from nni_cream.search.board import BoardEntry, BoardEvent, PrioritizedBoard
from nni_cream.search.loop.finite_checks import check_loss, check_score, check_weights
from nni_cream.search.loop.host import call_step
from nni_cream.search.loop.image_order import end_resumed_epoch
from nni_cream.search.loop.setup import PreparedLightningModule
from nni_cream.search.loop.statistics import board_figures
from nni_cream.search.loop.training_end import check_board, check_trained, tell_untaught, training_ends
from nni_cream.search.paths.encoded_path import Path, encode_path, path_key
from nni_cream.search.scoring.candidates import rescored_entries
from nni_cream.search.scoring.validation_subset import batch_like, parts_by_turns
from nni_cream.search.settings import SearchSettings
from nni_cream.search.supernet.forward_recorder import Call, muted, observed
from nni_cream.search.supernet.supernet import single_values_explained
from nni_cream.search.teaching.matchers import Match, NoMatcher
from nni_cream.search.teaching.meta_gradient import match_weight_gradient

__all__ = ["CreamLightningModule"]

_logger = logging.getLogger(__name__)
_COMPARED = 50  # steps between two comparisons of the ranks


class CreamLightningModule(PreparedLightningModule):
    """Trains the supernet with prioritized path distillation, around the user's own Lightning module.

    Parameters
    ----------
    training_module
        The user's module; its ``training_step`` computes the task loss.
    board
        The prioritized path board.
    settings
        All options of the search.
    validation_batches
        Returns an iterable of pairs (x, y) that never train the weights.
    listeners
        Called with every :class:`BoardEvent`.
    rebuild
        Builds the network of a path anew, with new weights, or returns ``None`` if it cannot.
    """

    def __init__(
        self,
        training_module: pl.LightningModule,
        board: PrioritizedBoard,
        settings: SearchSettings,
        validation_batches: Callable[[], Iterable[Any]],
        listeners: Iterable[Callable[[BoardEvent], None]] = (),
        rebuild: Callable[[Path], nn.Module | None] | None = None,
    ) -> None:
        super().__init__(training_module, board, settings, validation_batches, rebuild)
        self.statistics: dict[str, float] = {}
        self._listeners = tuple(listeners)
        self._path: Path | None = None
        self._match: Match | None = None
        self._task: Tensor | None = None
        self._open_step: tuple[Path, Any] | None = None
        self._changed = False
        self._compared = self._validated = False
        self._last_judged = -1
        self._hosting = True

    # The paper's loop -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Draw a path, pick its teacher, return the joint loss (METHOD.md, "The loop", steps 1 to 3)."""
        path = self.ranks.first(self.sampler.draw)
        self._untaught = self.untaught.lasts(self.trainer)
        match = self._teacher(path) if self._has_lesson() else None
        self._count(match)
        self.supernet.activate(path)
        with observed(self.supernet.space) as calls:
            output = call_step(self.training_module.training_step, batch, batch_idx)
        if calls and not self._compared:
            self._compare_inputs(calls)
            self._compared = True
        self.supernet.note_modes()
        # A checkpoint may be written before on_train_batch_end; an open step lets either place finish it.
        self._path, self._match, self._open_step = path, match, (path, batch)
        self._task = None
        output = self._with_loss(output, lambda task_loss: self._joint_loss(task_loss, path, match, calls, batch))
        self._look_at_loss()
        return output

    def _teacher(self, path: Path) -> Match | None:
        """Let the first process pick, since outputs and rounding differ from one to the other."""
        own: list[Match | None] = []

        def pick() -> Match | None:
            own.append(self.matcher.pick(path, self.board.entries))
            return own[0] and replace(own[0], evidence=None)  # a tensor of this device; only its matcher needs it

        told = self.ranks.first(pick)
        return own[0] if own else told

    def _look_at_loss(self) -> None:
        """Stop on a loss that is not finite before it reaches the weights."""
        step = self._step + 1
        # On an accelerator, reading each loss would stall the queue; saving a checkpoint always checks the weights.
        due = self.device.type == "cpu" or step % self.score_interval == 0
        loss = self._loss
        if due:
            self.ranks.gather(lambda: None if loss is None else check_loss(loss, step))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Call the user's hook and bring the average of the weights up to date."""
        super().on_before_optimizer_step(optimizer)
        if self.average is not None:
            # The average lags behind weights that did not move; it must use their old values before they change.
            self.average.before_step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the path compete for the board, teach the meta network (steps 4 and 5)."""
        self._finish_step()
        self._report(force=self._changed)
        super().on_train_batch_end(outputs, batch, batch_idx)

    def _count(self, match: Match | None) -> None:
        self.tally.add_draw(self.paths.rejected)
        if match is not None:
            self.tally.add_match(match)

    def _finish_step(self) -> None:
        """Do what follows on the optimizer step, once: at its end, or earlier for a checkpoint."""
        if self._open_step is None:
            return
        (path, batch), self._open_step = self._open_step, None
        self._step += 1
        self._changed = False
        # With accumulated gradients, or a step skipped by the scaler, no weight moved.
        if self.average is not None and self.trainer.global_step > self._steps_before:
            self.average.update()
        competes = not self.warmup.lasts(self.trainer)
        self.window.add(path, self._task, competes)
        if self._step % _COMPARED == 0:
            self._compare_ranks()
            if not competes:
                self.proposals.learn(self.window.take(self.ranks))
        if not competes:
            return
        self._changed = self._compete()
        interval = self.matcher.interval
        if interval and self._step % interval == 0 and not self.untaught.lasts(self.trainer):
            self._update_matcher(path, batch)

    def _compare_ranks(self) -> None:
        if self.ranks.size == 1:
            return
        teacher = f"{self._match.entry.key}, {self._match.weight!r}" if self._match else "none"
        path, board = path_key(self._path) if self._path else "none", json.dumps(self.board.to_json())
        self.ranks.check_same({"path": path, "teacher": teacher, "board": board}, self._step)

    def _joint_loss(self, task_loss: Tensor, path: Path, match: Match | None, calls: list[Call], batch: Any) -> Tensor:
        """L = [rho KD + (2 - rho) CE] / 2 (paper, section 3.3) unless ``teaching`` says otherwise; CE untaught."""
        self._task = task_loss
        if match is None:
            return task_loss
        lesson = self.distiller.teach(path, match, calls, batch)
        self.tally.add_lesson(match, lesson.gate)
        return self.distiller.joined(lesson, match.weight, task_loss)

    def _compete(self) -> bool:
        """Score the most promising path and offer it to the board."""
        # While there is room every step may add an entry: teachers are needed as early as possible.
        if self.board.full and self._step % self.score_interval:
            return False
        trained = self.window.take(self.ranks)
        self.proposals.learn(trained)
        path = self.ranks.first(partial(self.proposals.choose, trained))
        if path is None:
            return False
        return self._judge(path)

    def _judge(self, path: Path, margin: float | None = None) -> bool:
        self.proposals.note(path)
        cost, other_costs, bar = self.ranks.first(partial(self._costs_and_bar, path, margin))
        with self._autocast():
            accuracy = self.scorer.score(path, above=bar)
        self._scored += 1
        check_score(accuracy, self._step)
        entry = None if accuracy is None else BoardEntry(path, accuracy, cost, self._step, other_costs)
        verdict = None if entry is None else self.board.offer(entry, margin)
        admitted = bool(verdict)
        self._admitted += admitted
        candidate = {"path": encode_path(path), "accuracy": accuracy, "cost": cost, "other_costs": other_costs}
        self._tell("scored", candidate, admitted, verdict.evicted if verdict else None)
        return admitted

    def _costs_and_bar(self, path: Path, margin: float | None) -> tuple[float, dict[str, float], float]:
        cost, other_costs = self.costs(path)
        return cost, other_costs, self.board.bar((cost, *other_costs.values()), margin)

    def _update_matcher(self, path: Path, batch: Any) -> None:
        """One step of the meta network on the validation loss after a virtual step (paper, section 3.2)."""
        match = self._teacher(path)
        if match is None:
            return
        self.supernet.activate(path)
        # The virtual step must leave no trace: no log calls, no BatchNorm statistics.
        with muted(self.training_module), self._autocast(), self.supernet.detached(grad=True):
            with observed(self.supernet.space) as calls:
                task_loss = self._task_loss(batch)
            lesson = self.distiller.teach(path, match, calls, batch)
            if not lesson.gate:  # the loss of this step does not depend on rho
                return
            gradient = match_weight_gradient(
                [parameter for parameter in self.training_module.parameters() if parameter.requires_grad],
                lesson.loss,
                task_loss,
                match.weight,
                step_size=self.trainer.optimizers[0].param_groups[0]["lr"],
                validation_losses=lambda: self._meta_losses(batch),
                loss_scale=self._loss_scale(),
                joint_loss=self.distiller.joint_loss,
                ranks=self.ranks,
            )
        if not math.isfinite(gradient):
            if self._loss_scale() > 1:  # an overflow in 16 bits: Lightning skips a step of the weights likewise
                _logger.warning("A gradient overflowed at step %d; the meta network is not updated.", self._step)
                return
            raise SearchError(
                f"the gradient of the meta network is {gradient} at step {self._step}; expected finite numbers. Lower "
                "the learning rate or clip gradients."
            )
        if self.ranks.leads:
            self.matcher.update(match, gradient)
        self.tally.add_meta_update()

    def _meta_losses(self, batch: Any) -> Iterator[Tensor]:
        """Yield this process's part of the loss on validation images, at most about as many as a step trains on."""
        every = [
            part for chunk in self.scorer.subset.chunks for part in parts_by_turns(*chunk, at_once=self._batch_size)
        ]
        # They take turns.
        images, labels = every[(self._step // (self.matcher.interval or 1)) % len(every)]
        own = parts_by_turns(images, labels, at_once=math.ceil(len(labels) / self.ranks.size))
        for x, y in islice(own, self.ranks.rank, None, self.ranks.size):
            yield self._task_loss(batch_like(batch, x, y)) * (len(y) / len(labels))

    # Validation and the end of an epoch -------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Validate the board's best path (any path before there is one) without touching the supernet."""
        best = self.board.best
        self.supernet.activate(best.path if best else self._path or self.paths.first())
        super().on_validation_start()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Run the user's ``validation_step`` on that path."""
        watched: AbstractContextManager[list[Call]] = nullcontext([])
        if not self._validated:
            watched, self._validated = observed(self.supernet.space), True
        with (
            self.supernet.evaluating(),
            watched as calls,
            single_values_explained(
                "the validation loader yields a batch of a single image; expected at least two. "
                "Choose another batch size"
            ),
        ):
            output = call_step(self.training_module.validation_step, batch, batch_idx, dataloader_idx)
        if calls:
            self._compare_validation(calls, batch)
        return output

    def on_train_epoch_end(self) -> None:
        """Rescore the board, so that early scores do not outlive their weights; then call the user's hook."""
        # Reading all weights is slow: only the end of an epoch and a checkpoint pay for it.
        check_weights(self.training_module.parameters(), self._step)
        if self.trainer.fit_loop.restarting:
            end_resumed_epoch(self.trainer)
        self._finish_epoch()
        self._report(force=True, on_epoch=True)
        super().on_train_epoch_end()

    def _finish_epoch(self) -> None:
        """Rescore once an epoch: at its end, or earlier for a checkpoint."""
        if not self._open_epoch:
            return
        self._compare_ranks()  # different boards would be rescored by different entries
        self.proposals.forget()
        interval = self.settings.scoring.rescore_interval
        if interval is None:
            self.matcher.forget()  # the entries' outputs move, even when their accuracies are never rescored
        elif len(self.board):
            turn, left = divmod(self.trainer.current_epoch + 1, interval)
            if left == 0:
                self._rescore(turn)
        if training_ends(self.trainer):
            self._judge_last()
        self._open_epoch = False

    def _judge_last(self) -> None:
        """Let the predictor, which knows most at the end, fill up to half of the board."""
        if self._last_judged == self._step:
            return
        self._last_judged = self._step
        self.proposals.learn(self.window.take(self.ranks))
        for _ in range(self.board.capacity // 2):
            path = self.ranks.first(self.proposals.choose_last)
            if path is None:
                return
            self._judge(path, margin=0.0)  # nothing is trained any more: any lead counts

    def _rescore(self, turn: int) -> None:
        def score(entry: BoardEntry) -> float:
            accuracy = self.scorer.score(entry.path)
            check_score(accuracy, self._step)
            assert accuracy is not None  # nothing is rejected without a bar
            return accuracy

        with self._autocast():
            self.board.rescore(score, self._rescored_entries(), turn)
        self.matcher.forget()
        # Listeners hear of it last, when board and matcher agree with the new weights.
        self._tell("rescored")

    def _rescored_entries(self) -> float:
        # A short epoch must not pay for rescoring the whole board: the entries take turns.
        batches = (self.trainer.fit_loop.epoch_loop.batch_idx + 1) * (self.settings.scoring.rescore_interval or 1)
        return rescored_entries(len(self.scorer.subset), batches * self._batch_size)

    def on_train_end(self) -> None:
        """Judge the last candidates of a training that was stopped early; then call the user's hook."""
        self._judge_last()
        super().on_train_end()

    def on_fit_end(self) -> None:
        """Raise SearchError if the training ended without a result."""
        if not self.trainer.interrupted:
            check_trained(self._step)  # first of all: the user's hook may need what a step leaves
            self.proposals.learn(self.window.take(self.ranks))
        super().on_fit_end()
        if not self.trainer.interrupted:
            check_board(len(self.board), self._step, self.warmup)
        if self._untaught and not isinstance(self.matcher, NoMatcher):
            tell_untaught(self.untaught, self._step)

    def export(self) -> Path:
        """Return the board's best path, the result of the search; raise SearchError on an empty board."""
        best = self.board.best
        if best is None:
            raise SearchError(
                "the board is empty; expected a search that is past its warm-up. Train for longer or warm up for less."
            )
        return dict(best.path)

    # What others see --------------------------------------------------------------------------------------------------

    @property
    def last_step(self) -> tuple[Path | None, Tensor | None]:
        """Path and task loss, shape (), of the last training step."""
        return self._path, self._task

    def _tell(self, kind: str, candidate: dict[str, Any] | None = None, *verdict: Any) -> None:
        event = BoardEvent(kind, self._step, self.trainer.current_epoch, candidate, *verdict)
        for listener in self._listeners:
            listener(event)

    def _report(self, force: bool, on_epoch: bool = False) -> None:
        """Show the board when it changes, and log every figure at Lightning's logging interval."""
        interval = self.trainer.log_every_n_steps  # 0: none within an epoch
        due = on_epoch or (interval > 0 and self._step % interval == 0)
        if not (force or due):
            return
        self.statistics = self._figures()
        for name, value in self.statistics.items():
            shown = name in ("board_best", "board_worst", "board_size")
            if shown or due:  # no logger writes at other steps, and self.log takes as long as a small layer
                # Only the loss differs from process to process; within an epoch a reduction would delay the next step.
                apart = on_epoch and name == "joint_loss"
                self.log(name, value, prog_bar=shown, on_step=not on_epoch, on_epoch=on_epoch, sync_dist=apart)

    def _figures(self) -> dict[str, float]:
        counts = {"scored": float(self._scored), "admitted": float(self._admitted)}
        figures = {**board_figures(self.board.entries), **counts, **self.tally.figures()}
        if self._loss is not None:
            figures["joint_loss"] = float(self._loss.detach())
        return figures
