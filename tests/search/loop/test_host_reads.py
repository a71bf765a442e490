"""How often a step waits for numbers of the device: on a CPU it costs nothing, so it is counted."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.callbacks import Callback

from nni_cream.search import Score
from nni_cream.search.loop import step
from nni_cream.search.scoring.scores import top1
from tests.benchmarks.loaded import benchmark
from tests.search.small import LayerSpace, cream, evaluator, run

pytestmark = pytest.mark.integration


class Counter(Callback):
    """Counts the reads of the steps that neither score nor log."""

    def __init__(self) -> None:
        self.places: list[list[str]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._reads = benchmark("host_reads").HostReads("cpu")
        self._reads.__enter__()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._reads.__exit__(None, None, None)
        if module.board.full and module.steps % module.score_interval:
            self.places.append(self._reads.places)


def reads(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[list[str]]:
    # Looked at in each step on a CPU alone, where it is free.
    monkeypatch.setattr(step, "check_loss", lambda loss, number: None)
    counter = Counter()
    settings = {"board_size": 3, "warmup": 0, "distillation_start": None, "score_images": 64, "score_interval": 4}
    run(
        LayerSpace(), cream(**settings, **changes), evaluator(max_epochs=3, log_every_n_steps=1000, callbacks=[counter])
    )
    assert len(counter.places) > 5
    return counter.places


@pytest.mark.parametrize("gate", [False, True])
def test_a_step_reads_the_chosen_teacher_and_its_weight_at_once_and_nothing_else(gate, monkeypatch):
    for places in reads(monkeypatch, distillation_gate=gate):
        assert len(places) == 1
        assert "matchers.py" in places[0]


def test_the_gate_of_a_score_that_is_no_mean_is_read_once_more(monkeypatch):
    score = Score(lambda output, target: top1(output, target)[:, None], value=lambda sums: sums[0] / 64)
    for places in reads(monkeypatch, distillation_gate=True, score=score):
        assert sum("matchers.py" in place for place in places) == 1
        assert sum("scores.py" in place for place in places) == 1


def test_a_step_without_teachers_reads_nothing(monkeypatch):
    assert not any(reads(monkeypatch, matching="none"))
