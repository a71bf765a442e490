from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nni_cream import config, spaces
from nni_cream.errors import ConfigError, CreamError, DataError, SpaceError
from nni_cream.runs.rehearsals import search_rehearsal
from nni_cream.runs.rehearsals.search_rehearsal import rehearse_search

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SPACE = {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]}


def configuration(**changed: Any) -> dict[str, Any]:
    return config.resolve(
        {
            "space": SPACE,
            "data": {"name": "digits", "train": 200, "validation": 100},
            "search": {"epochs": 6, "board_size": 5, "warmup": 2, "batch_size": 50},
            "trainer": {"accelerator": "cpu", "threads": 1},
            **changed,
        }
    )


def test_memory_is_counted_in_bytes_of_the_supernet() -> None:
    memory = rehearse_search(configuration(search={"ema_decay": 0.9, "board_size": 5})).training.memory
    space = spaces.create(SPACE["name"], channels=SPACE["channels"], operations=SPACE["operations"])
    weights = 4 * sum(parameter.numel() for parameter in space.parameters())
    assert memory["parameters"] == memory["average"] == weights
    assert memory["optimizer"] == pytest.approx(weights, rel=1e-6)  # a momentum for each weight
    assert 0 < memory["gradients"] < weights  # those of one path
    assert memory["activations"] > 0


def test_activations_are_those_of_the_configured_batch() -> None:
    whole = rehearse_search(configuration())
    few = rehearse_search(configuration(), images=10)
    assert few.training.memory["activations"] == pytest.approx(whole.training.memory["activations"], rel=1e-6)
    assert few.training.images_at_once == 50
    assert any("10 images at once instead of 50" in note for note in few.training.assumptions)


def test_times_add_up_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    go = search_rehearsal._Run.go

    def durations(run: Any, hook: str) -> list[float]:
        return {"on_train_batch_end": [9.0, 5.0, 1.0, 6.0, 1.0, 5.0]}[hook]

    monkeypatch.setattr(search_rehearsal._Run, "durations", durations)
    monkeypatch.setattr(
        search_rehearsal._Run, "go", lambda run: (go(run), setattr(run.seen, "seconds", [3.0, 2.0] * 2 + [3.0]))
    )
    monkeypatch.setattr(search_rehearsal._OneScoring, "on_train_end", lambda self, *_: setattr(self, "seconds", 3.0))
    found = rehearse_search(configuration(search={
        "epochs": 6, "board_size": 5, "warmup": 2, "batch_size": 50, "scoring": {"images": 80, "interval": 2},
        "matching": {"name": "meta", "interval": 8}, "teaching": {"start": 3},
    }))  # fmt: skip
    per_image = 3.0 / 80
    assert found.training.steps_per_epoch == 4
    assert found.parts["training"] == found.training.seconds == pytest.approx(24 * found.training.seconds_per_step)
    assert found.training.seconds_per_step == 2.0
    assert found.parts["teachers"] == pytest.approx((3.0 - 2.0) * 0.125 * 12)
    # 24 batches, of which those of 4 of 6 epochs are after the warm-up; 80 images of each candidate.
    assert found.parts["scores of candidates"] == pytest.approx(per_image * 80 * (16 / 2 + 5 + 2))
    assert found.parts["scores of the board"] == pytest.approx(per_image * 80 * 0.125 * 4)  # 0.05 * 200 images
    assert found.parts["meta network"] == pytest.approx((5.0 - 1.0) * 12 / 8)  # its teachers start later
    assert found.parts["validation"] == pytest.approx(per_image * 100 * 6)
    assert found.parts["final validation"] == pytest.approx(per_image * (200 + 100) * 5)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert found.to_json()["device_hours"] == pytest.approx(found.seconds / 3600)


def parts_of(monkeypatch: pytest.MonkeyPatch, devices: int = 1, **search: Any) -> dict[str, float]:
    def durations(run: Any, hook: str) -> list[float]:
        return {"on_train_batch_end": [9.0, 5.0, 1.0, 6.0, 1.0, 5.0]}[hook]

    monkeypatch.setattr(search_rehearsal._Run, "durations", durations)
    monkeypatch.setattr(search_rehearsal._OneScoring, "on_train_end", lambda self, *_: setattr(self, "seconds", 3.0))
    monkeypatch.setattr(search_rehearsal, "devices_here", lambda accelerator, wanted: (devices, devices))
    settings = {"epochs": 6, "board_size": 5, "warmup": 2, "batch_size": 20, "scoring": {"images": 80}, **search}
    return rehearse_search(configuration(search=settings)).parts


def test_a_search_without_teachers_spends_no_time_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_rehearsal, "median", lambda values: len(values))  # the steps with a teacher are one more
    assert parts_of(monkeypatch, matching="best")["teachers"] > 0
    assert parts_of(monkeypatch, matching="none")["teachers"] == 0


def test_a_search_without_a_meta_network_spends_no_time_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts_of(monkeypatch, matching={"name": "meta", "interval": 4})["meta network"] > 0
    assert parts_of(monkeypatch, matching="best")["meta network"] == 0


def test_a_search_that_never_rescores_spends_no_time_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts_of(monkeypatch, scoring={"images": 80, "rescore_interval": 2})["scores of the board"] > 0
    assert parts_of(monkeypatch, scoring={"images": 80, "rescore_interval": None})["scores of the board"] == 0


def test_every_option_of_drawing_and_teaching_can_be_rehearsed() -> None:
    settings = {"epochs": 6, "board_size": 5, "batch_size": 20, "ema_decay": 0.99}
    settings["scoring"] = {"images": 80, "rescore_interval": None}
    settings["teaching"] = {"joint_loss": "add", "start": 0.5, "gate": True, "weights": "average", "temperature": 2.0}
    found = rehearse_search(configuration(search=settings))
    assert found.parts["scores of the board"] == 0
    assert min(found.parts[name] for name in ("training", "scores of candidates", "validation", "final validation")) > 0
    assert found.board == 5


def test_devices_share_the_validation_of_an_epoch_but_not_the_final_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, both = parts_of(monkeypatch), parts_of(monkeypatch, devices=2)
    assert both["validation"] == pytest.approx(alone["validation"] / 2)
    assert both["final validation"] == pytest.approx(alone["final validation"])


def test_an_epoch_of_fewer_images_than_a_batch_has_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts_of(monkeypatch, batch_size=500, scoring={"images": 80, "interval": 1})
    # 4 batches after the warm-up, 5 candidates of a board with room and 2 last ones, against 0.3125 entries in each of
    # 4 epochs: 0.05 * 500 images are those of 0.3125 scores.
    assert found["scores of candidates"] / found["scores of the board"] == pytest.approx((4 + 5 + 2) / (0.3125 * 4))


def test_a_meta_network_and_a_teacher_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni_cream.search import CreamLightningModule

    updated: list[int] = []
    plain = CreamLightningModule._update_matcher

    def noted(self: Any, path: Any, batch: Any) -> None:
        plain(self, path, batch)
        updated.append(self.tally.matched)

    monkeypatch.setattr(CreamLightningModule, "_update_matcher", noted)
    rehearse_search(configuration())
    assert updated == [1, 2, 3]  # at each step with a teacher


def test_nothing_is_written_and_the_callers_random_numbers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    rehearse_search(configuration())
    assert torch.equal(torch.rand(2), expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_what_is_not_here_is_done_without_and_said() -> None:
    wanted = configuration(
        space={"name": "fashion", "channels": [8, 8]},
        data={"name": "fashion", "root": "/nowhere", "train": 5000},
        trainer={"accelerator": "gpu", "devices": 8, "strategy": "ddp", "precision": "16-mixed"},
    )
    found = rehearse_search(wanted)
    notes = "\n".join(found.training.assumptions)
    assert "no images here (data set 'fashion'" in notes
    assert "5,000 of 1 x 28 x 28 in 10 classes are assumed" in notes
    assert "measured on the CPU" in notes
    assert "of the 8 configured devices" in notes
    assert found.training.steps_per_epoch == 5000 // 400
    assert found.training.devices == 1


def test_data_that_nobody_knows_has_to_be_here() -> None:
    with pytest.raises(DataError, match="/nowhere"):
        rehearse_search(configuration(data={"name": "folder", "root": "/nowhere"}))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"search": {"board_size": 12}}, ConfigError, "expected at most 9"),
        ({"search": {"board_size": 5, "cost_range": [0, 1]}}, CreamError, "no path was found; expected a range within"),
        ({"space": {**SPACE, "num_classes": 3}}, SpaceError, r"space\.num_classes is 3; expected 10"),
        ({"space": {"name": "cream", "input_channels": 1}}, CreamError, "images are 8x8 pixels"),
    ],
)
def test_what_the_search_would_stumble_over_is_found(changed: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rehearse_search(configuration(**changed))


def test_a_single_image_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="images at once is 1; expected at least 2"):
        rehearse_search(configuration(), images=1)
