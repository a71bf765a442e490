"""Which path is scored next: that with the lowest loss since the last scoring, as often as the cost allows."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from nni_cream import CreamStrategy, data, spaces
from nni_cream.search import Scoring
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.ranks import Ranks
from nni_cream.search.scoring.candidates import CandidateWindow, Trained, scoring_interval
from nni_cream.training import ClassificationModule, make_loader, seeded

steps = st.lists(st.tuples(st.integers(0, 5), st.floats(-10, 10, width=32)), max_size=12)


def filled(taken: list[tuple[int, float]]) -> CandidateWindow:
    window = CandidateWindow()
    for number, loss in taken:
        window.add({"layer": number}, torch.tensor(loss))
    return window


alone = Ranks()


def test_each_window_begins_anew() -> None:
    window = filled([(1, 0.1)])
    assert window.take(alone) == [Trained({"layer": 1}, pytest.approx(0.1))]
    assert window.take(alone) == []


def test_processes_agree_by_the_sum_of_their_losses() -> None:
    class Two(Ranks):
        def gather(self, compute: Any) -> list[Any]:
            return [compute(), [0.9, 0.2, 0.5]]

    window = filled(list(enumerate([0.1, 0.5, 0.4])))
    assert [(step.path["layer"], round(step.loss, 6)) for step in window.take(Two())] == [(0, 1.0), (1, 0.7), (2, 0.9)]


def test_a_step_that_was_left_out_is_no_candidate() -> None:
    window = CandidateWindow()
    window.add({"layer": 2}, None)
    assert window.take(alone) == []


@given(steps)
def test_saved_window_goes_on(taken: list[tuple[int, float]]) -> None:
    window, again = filled(taken), CandidateWindow()
    again.load_state_dict(window.state_dict(), dict, torch.device("cpu"))
    for each in (window, again):
        each.add({"layer": 9}, torch.tensor(0.0))
    assert window.take(alone) == again.take(alone)


@given(st.integers(2, 10_000), st.integers(2, 1024))
def test_interval_keeps_to_the_share_of_images(images: int, batch: int) -> None:
    interval = scoring_interval(None, images, batch)
    assert interval >= 1
    if interval > 1:
        assert images / (interval * batch) == pytest.approx(0.05, rel=0.5 / (interval - 0.5))
    assert scoring_interval(7, images, batch) == 7


@pytest.mark.integration
def test_search_scores_the_path_of_the_lowest_training_loss() -> None:
    events: list[Any] = []
    trained: list[tuple[str, float]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            # The user's own loss: matching is "none", so nothing else is in it.
            trained.append((path_key(module._path), float(outputs["loss"])))

    splits = data.create("digits", train=160, validation=60)
    with seeded(0):
        strategy = CreamStrategy(
            board_size=2, warmup=0, matching="none", scoring=Scoring(images=20, interval=5), listeners=[events.append]
        )
        trainer = Trainer(
            max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Watch()],
        )  # fmt: skip
        loaders = (make_loader(splits.train, 20, shuffle=True), make_loader(splits.validation, 20))
        evaluator = Lightning(ClassificationModule(10, learning_rate=0.05), trainer, *loaders)
        strategy(
            RawFormatModelSpace(spaces.create("digits", channels=[8, 8, 8]), evaluator), SequentialExecutionEngine()
        )
    scored = {event.step: path_key(event.candidate["path"]) for event in events if event.kind == "scored"}
    later = [step for step in scored if step > 5]
    assert len(later) >= 5
    assert all(step % 5 == 0 for step in later)
    others = 0
    for step in later:
        window = trained[step - 5 : step]
        by_loss = [key for key, _ in sorted(window, key=lambda item: item[1])]
        # Those before it in the order of losses were on the board.
        place = by_loss.index(scored[step])
        assert place <= 2
        others += by_loss[place] != window[-1][0]
    assert others > 0  # else the last step's path would have done as well
