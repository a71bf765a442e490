"""The benchmark of a step, reduced: what it says of the time is whatever it is, but each figure is there and fits."""

import json

import pytest
import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from nni_cream import CreamStrategy, data, spaces
from nni_cream.errors import DataError
from nni_cream.search import MetaMatcher
from nni_cream.training import ClassificationModule, make_loader, seeded
from tests.benchmarks.loaded import benchmark
from tests.search.small import AS_PUBLISHED, cream


@pytest.fixture(scope="module")
def step_cost():
    return benchmark("step_cost")


@pytest.fixture(scope="module")
def fashion():
    try:
        data.create("fashion", train=10, validation=10)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.integration
def test_last_line_is_json_with_every_figure(step_cost, fashion, capsys, monkeypatch):
    monkeypatch.setitem(step_cost.SEARCHES, "board of 100", {"board_size": 15})  # is full after fewer steps
    words = ["--space", "fashion", "--rounds", "1", "--window", "5", "--warm-steps", "20", "--score-images", "64"]
    step_cost.main([*words, "--batch", "16", "--no-memory"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["space"] == "fashion"
    assert found["rounds"] == 1
    assert 0 < found["ratio_min"] <= found["ratio_median"] <= found["ratio_max"]
    assert min(found[key] for key in ("board_size_ratio", "meta_update_ratio", "published_ratio")) > 0
    shares = found["shares"]
    assert set(shares) == {*step_cost.PARTS, "meta_updates", "scoring", "rescoring", "filling"}
    assert all(0 <= share < 1 for share in shares.values())
    assert sum(shares.values()) < 1
    assert min(shares.values()) > 0
    untaught = found["ratio_median"] * (1 - shares["teacher"] - shares["matching"] - shares["meta_updates"])
    expected = 1 / 6 + (1 / 2 - 1 / 6) * untaught + found["ratio_median"] * (1 / 2 + shares["filling"])
    assert found["ratio_whole_search"] == pytest.approx(expected, abs=1e-3)


def test_intervals_are_the_defaults(step_cost):
    settings = CreamStrategy()._settings
    assert MetaMatcher().interval == step_cost.META_INTERVAL
    assert settings.warmup == step_cost.WARMUP
    assert settings.teaching.start == step_cost.START
    assert settings.scoring.images == 2048


def test_transcribed_meta_update_has_the_gradient_of_ours(step_cost, monkeypatch):
    """The same d L_val / d rho, once by double back-propagation, once without a second graph."""
    found = []

    class Compare(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if not module.board.full or found:
                return
            monkeypatch.setattr(module.matcher, "update", lambda match, gradient: found.append(gradient))
            module._update_matcher(module._path, batch)
            benchmark("published_procedure").unrolled_update(module, module._path, batch)

    splits = data.create("digits", train=120, validation=60)
    with seeded(0):
        space = spaces.create("digits", channels=[8, 8])
        strategy = cream(**AS_PUBLISHED, board_size=4, warmup=0, score_images=24)
        trainer = Trainer(
            max_steps=12, accelerator="cpu", precision="64-true", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[Compare()],
        )  # fmt: skip
        loaders = (make_loader(splits.train, 24, shuffle=True), make_loader(splits.validation, 24))
        evaluator = Lightning(ClassificationModule(10, learning_rate=0.1), trainer, *loaders)
        strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    ours, transcribed = found
    assert ours != 0
    assert ours == pytest.approx(transcribed, rel=1e-6)  # the meta network itself is in single precision
