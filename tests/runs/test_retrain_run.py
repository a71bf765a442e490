"""Retraining by the full recipe from a file to files, on a few digits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nni_cream import config, data, spaces
from nni_cream.errors import ConfigError, FileError, SpaceError
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.checkpoints.checkpoint_files import seal
from nni_cream.results.cost_check import count_macs
from nni_cream.results.rebuilt_network import build_network
from nni_cream.results.sources import find_source
from nni_cream.runs.evaluation import evaluate_result
from nni_cream.runs.rehearsals.data_shape import DataShape
from nni_cream.runs.rehearsals.retrain_rehearsal import rehearse_retraining
from nni_cream.runs.rehearsals.training_memory import bytes_of
from nni_cream.runs.retrain_run import run_retraining
from nni_cream.training import seeded
from nni_cream.training.retrain_module import FullClassificationModule

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SPACE: dict[str, Any] = {
    "name": "digits",
    "arguments": {"channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]},
}
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CHOICES = {"layer_1": "conv_3x3", "layer_2": "mbconv_k3e2"}
RECIPE = {
    "epochs": 3,
    "batch_size": 40,
    "optimizer": "rmsproptf",
    "learning_rate": 0.02,
    "warmup_fraction": 1 / 3,
    "label_smoothing": 0.1,
    "augment": "shift",
    "erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema_decay": 0.8,
}


def configuration(trainer: dict[str, Any] | None = None, images: Any = None, **recipe: Any) -> dict[str, Any]:
    return config.RETRAIN.resolve(
        {
            "data": images or {"name": "digits", "train": 200, "validation": 100},
            "recipe": {**RECIPE, **recipe},
            "trainer": {"accelerator": "cpu", "threads": 1, "device_batch_size": 20, **(trainer or {})},
        }
    )


def write_result(
    folder: Path,
    choices: dict[str, str] = CHOICES,
    accuracy: float = 0.4,
    name: str = "best",
    space: dict[str, Any] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = {"name": "digits", "arguments": {}, "fingerprint": ""}
    known = {"other_costs": {"latency": 0.002}, "score": 0.35}
    best = Best(space or SPACE, choices, accuracy, 1000.0, "cost_of_a_user", images, 4, {}, **known)  # type: ignore[arg-type]
    best.save(folder / f"{name}.json")
    with seeded(7):
        torch.save(build_network(best).state_dict(), folder / ("weights.pt" if name == "best" else f"{name}.pt"))
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def undisturbed(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_retraining(searched, configuration(), tmp_path_factory.mktemp("undisturbed") / "out").out


def texts(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in ("best.json", "metrics.jsonl", "config.yml", "source.json")}


def weights(folder: Path, name: str = "weights.pt") -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / name, weights_only=True))


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_retraining_learns_and_leaves_what_a_search_leaves(undisturbed: Path) -> None:
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10), (3, 15)]
    assert {"train_loss", "val_loss", "val_acc", "val_top5", "ema_loss", "ema_acc", "ema_top5"} < lines[0].keys()
    assert lines[-1]["ema_loss"] < lines[0]["ema_loss"]
    best = load_best(undisturbed)
    assert (best.space, best.choices, best.accuracy) == (SPACE, CHOICES, 0.4)
    assert (best.cost, best.other_costs, best.score, best.seed) == (1000.0, {"latency": 0.002}, 0.35, 4)
    assert best.retrained is not None
    assert best.retrained["validation_accuracy"] == pytest.approx(lines[-1]["ema_acc"])
    assert best.retrained["weights"] == "average"
    assert config.RETRAIN.load(undisturbed / "config.yml") == configuration()


def test_same_seed_gives_the_same_files_whatever_was_drawn_before(
    undisturbed: Path, searched: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    again = run_retraining(searched, configuration(), tmp_path / "out").out
    assert texts(again) == texts(undisturbed)
    assert same_weights(weights(again), weights(undisturbed))


def stop_after(epoch: int) -> Any:
    def listener(figures: dict[str, float]) -> None:
        if figures["epoch"] == epoch:
            raise RuntimeError("stopped by the test")

    return listener


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_retraining_that_broke_off_resumes_and_ends_as_the_undisturbed_one(
    undisturbed: Path, searched: Path, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(searched, configuration(), tmp_path / "out", on_epoch=stop_after(epoch))
    run_retraining(searched, configuration(), tmp_path / "out", resume=True)
    assert texts(tmp_path / "out") == texts(undisturbed)
    assert same_weights(weights(tmp_path / "out"), weights(undisturbed))


def test_retraining_killed_within_an_epoch_runs_that_epoch_again(
    undisturbed: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FullClassificationModule.on_train_batch_end

    def stop_at_step(self: FullClassificationModule, *arguments: Any) -> None:
        original(self, *arguments)
        if self.trainer.global_step == 8:
            raise RuntimeError("stopped by the test")

    with monkeypatch.context() as patched:
        patched.setattr(FullClassificationModule, "on_train_batch_end", stop_at_step)
        with pytest.raises(RuntimeError, match="stopped by the test"):
            run_retraining(searched, configuration(), tmp_path / "out")
    with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 10}\n{"epo')  # killed between figures and checkpoint, then within a line
    run_retraining(searched, configuration(), tmp_path / "out", resume=True)
    assert texts(tmp_path / "out") == texts(undisturbed)
    assert same_weights(weights(tmp_path / "out"), weights(undisturbed))


def test_unfinished_global_batch_at_the_end_of_an_epoch_is_no_step(searched: Path, tmp_path: Path) -> None:
    settings = configuration(batch_size=80, epochs=2)  # 200 images: two global batches, and half of one
    out = run_retraining(searched, settings, tmp_path / "out").out
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_evaluation_equals_an_independent_computation(undisturbed: Path) -> None:
    figures = evaluate_result(undisturbed, configuration())
    pixels, labels = data.create("digits", train=200, validation=100).test[:]
    network = build_network(load_best(undisturbed)).eval()
    network.load_state_dict(weights(undisturbed))
    with torch.no_grad():
        logits = network(pixels).double()
    order = logits.argsort(dim=1, descending=True)
    assert figures["images"] == len(labels)
    assert figures["top1"] == (order[:, 0] == labels).double().mean().item()
    assert figures["top5"] == (order[:, :5] == labels[:, None]).any(dim=1).double().mean().item()
    assert figures["loss"] == pytest.approx((logits.logsumexp(1) - logits[range(len(labels)), labels]).mean().item())
    best = load_best(undisturbed)
    assert best.retrained is not None
    assert best.retrained["test_accuracy"] == figures["top1"]


def test_retrained_folder_is_a_result_to_start_from(undisturbed: Path, searched: Path, tmp_path: Path) -> None:
    settings = configuration(epochs=1, warmup_fraction=0, start="supernet", learning_rate=1e-9, ema_decay=None)
    started = run_retraining(undisturbed, settings, tmp_path / "out").out
    first, last = weights(undisturbed), weights(started)
    torch.testing.assert_close(last["classifier.weight"], first["classifier.weight"], rtol=0, atol=1e-5)
    named = run_retraining(searched, settings, tmp_path / "named", weights=undisturbed / "weights.pt").out
    assert same_weights(weights(named), last)


def test_weights_of_another_architecture_are_refused_before_anything_is_written(searched: Path, tmp_path: Path) -> None:
    other = write_result(tmp_path / "other", {**CHOICES, "layer_2": "conv_1x1"})
    with pytest.raises(FileError, match="expected the weights of this architecture"):
        run_retraining(searched, configuration(start="supernet"), tmp_path / "out", weights=other / "weights.pt")
    assert not (tmp_path / "out").exists()


def test_weights_without_a_use_for_them_are_refused(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.start is scratch"):
        run_retraining(searched, configuration(), tmp_path / "out", weights=searched / "weights.pt")


def test_best_other_entry_of_the_board_teaches(searched: Path, tmp_path: Path) -> None:
    for number, (operation, accuracy) in enumerate([("conv_1x1", 0.6), ("mbconv_k3e2", 0.9), ("conv_3x3", 0.8)], 1):
        write_result(tmp_path / "s" / "pareto", {**CHOICES, "layer_2": operation}, accuracy, f"0{number}")
    write_result(tmp_path / "s")  # the second entry is the architecture itself
    settings = configuration(epochs=1, warmup_fraction=0, teacher="board")
    taught = run_retraining(tmp_path / "s", settings, tmp_path / "board").out
    named = configuration(epochs=1, warmup_fraction=0, teacher=str(tmp_path / "s" / "pareto" / "03.json"))
    assert same_weights(weights(run_retraining(tmp_path / "s", named, tmp_path / "named").out), weights(taught))
    alone = run_retraining(tmp_path / "s", configuration(epochs=1, warmup_fraction=0), tmp_path / "alone").out
    assert not same_weights(weights(alone), weights(taught))
    with pytest.raises(ConfigError, match=r"recipe\.teacher is board; expected .* has none"):
        run_retraining(searched, settings, tmp_path / "none")


def test_finished_result_is_kept_unless_forced(undisturbed: Path, searched: Path) -> None:
    before = texts(undisturbed)
    with pytest.raises(FileError, match="holds a result already"):
        run_retraining(searched, configuration(), undisturbed)
    assert run_retraining(searched, configuration(), undisturbed, resume=True).best == load_best(undisturbed)
    assert texts(undisturbed) == before


def test_resuming_another_architecture_or_recipe_is_refused(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(searched, configuration(), tmp_path / "out", on_epoch=stop_after(1))
    with pytest.raises(ConfigError, match=r"other values of recipe\.mixup"):
        run_retraining(searched, configuration(mixup=0.4), tmp_path / "out", resume=True)
    other = write_result(tmp_path / "other", {**CHOICES, "layer_2": "conv_1x1"})
    with pytest.raises(ConfigError, match="trains another architecture"):
        run_retraining(other, configuration(), tmp_path / "out", resume=True)
    (tmp_path / "out" / "last.ckpt").write_bytes(b"half")
    with pytest.raises(FileError, match=r"last\.ckpt: is broken"):
        run_retraining(searched, configuration(), tmp_path / "out", resume=True)


def test_data_of_other_classes_or_channels_is_told(searched: Path, tmp_path: Path, monkeypatch: Any) -> None:
    module = (
        "from nni_cream import data\n"
        "from dataclasses import replace\n"
        "def more_classes():\n    return replace(data.create('digits'), num_classes=12)\n"
    )
    (tmp_path / "images_of_a_user.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    settings = configuration(images="images_of_a_user:more_classes")
    uses = (lambda: run_retraining(searched, settings, tmp_path / "out"), lambda: evaluate_result(searched, settings))
    for use in uses:
        with pytest.raises(SpaceError, match=r"space\.num_classes is 10; expected 12, as in the data\. Give the data"):
            use()


def test_checkpoint_of_something_else_is_refused_and_kept(searched: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(searched, configuration(), out, on_epoch=stop_after(1))
    checkpoint = out / "last.ckpt"
    whole = checkpoint.read_bytes()
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["_model.more"] = content["state_dict"].pop("_model.classifier.bias")
    changed = bytearray(whole)
    bias = content["state_dict"]["_model.more"].numpy().tobytes()
    changed[whole.index(bias)] ^= 1
    torch.save(content, tmp_path / "other.ckpt")
    seal(tmp_path / "other.ckpt")
    shutil.copy(undisturbed / "weights.pt", tmp_path / "weights.ckpt")
    seal(tmp_path / "weights.ckpt")
    for bad, message in (
        (bytes(changed), r"last\.ckpt: is broken"),
        ((tmp_path / "weights.ckpt").read_bytes(), "is no checkpoint of a training"),
        ((tmp_path / "other.ckpt").read_bytes(), r"_model\.classifier\.bias: missing in the file, the network's is 10"),
    ):
        checkpoint.write_bytes(bad)
        with pytest.raises(FileError, match=message):
            run_retraining(searched, configuration(), out, resume=True)
        assert checkpoint.read_bytes() == bad


def test_unfinished_retraining_is_kept_if_the_forced_one_cannot_start(searched: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(searched, configuration(), out, on_epoch=stop_after(1))
    before = (out / "last.ckpt").read_bytes()
    for wrong in (configuration(auto_augment="rand-m9-mstd0.5"), configuration(batch_size=400)):
        with pytest.raises(ConfigError, match="recipe"):
            run_retraining(searched, wrong, out, force=True)
    assert (out / "last.ckpt").read_bytes() == before


def test_result_is_not_trained_into_its_own_folder(tmp_path: Path) -> None:
    result = write_result(tmp_path / "result")
    (result / "config.yml").write_text("# nni_cream output folder, written by a test\n")
    with pytest.raises(ConfigError, match="expected another folder than that of RESULT"):
        run_retraining(result, configuration(), result, force=True)
    assert load_best(result).choices == CHOICES


def test_other_weights_to_start_from_are_refused_as_long_as_they_matter(
    searched: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = configuration(start="supernet", epochs=2), tmp_path / "out"
    with monkeypatch.context() as killed:
        killed.setattr(
            "nni_cream.runs.recipe_run.abandoned_on_failure", lambda *_: (_ for _ in ()).throw(RuntimeError("killed"))
        )
        with pytest.raises(RuntimeError, match="killed"):
            run_retraining(searched, settings, out, weights=undisturbed / "weights.pt")
    with pytest.raises(ConfigError, match=r"was started from the weights .*undisturbed.*--weights"):
        run_retraining(searched, settings, out, resume=True)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(searched, settings, out, weights=undisturbed / "weights.pt", resume=True, on_epoch=stop_after(1))
    run_retraining(searched, settings, out, resume=True)
    assert load_best(out).retrained is not None


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_result_has_single_precision_whatever_it_was_trained_in(precision: str, searched: Path, tmp_path: Path) -> None:
    settings = configuration({"precision": precision}, epochs=1, warmup_fraction=0, teacher=str(searched))
    best = run_retraining(searched, settings, tmp_path / "out").best
    kinds = {value.dtype for value in weights(tmp_path / "out").values() if value.is_floating_point()}
    assert kinds == {torch.float32}
    assert best.retrained is not None
    assert evaluate_result(tmp_path / "out", settings)["loss"] == best.retrained["test_loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 12}, r"space\.num_classes is 12; expected 10"),
        ({"input_channels": 3}, r"space\.input_channels is 3; expected 1"),
    ],
)
def test_teacher_of_other_images_is_told(
    arguments: dict[str, int], message: str, searched: Path, tmp_path: Path
) -> None:
    space = {"name": "digits", "arguments": {**SPACE["arguments"], **arguments}}
    teacher = write_result(tmp_path / "teacher", space=space)
    with pytest.raises(ConfigError, match=rf"recipe\.teacher is .*{message}"):
        run_retraining(searched, configuration(teacher=str(teacher)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_too_small_for_the_strides_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="of at least 32 pixels, since the strides"):
        run_retraining("cream-14", configuration(), tmp_path / "out")
    space = {"name": "cream", "arguments": {"depths": [1, 1, 1, 1, 1], "num_classes": 10, "input_channels": 1}}
    searched = write_result(
        tmp_path / "searched", {f"stage_{stage}_block_1": "k3e4" for stage in range(1, 6)}, space=space
    )
    with pytest.raises(SpaceError, match=r"images are 8x8 pixels.*at least 32x32"):
        evaluate_result(searched, configuration())


def test_cost_of_a_published_network_is_that_with_the_users_images() -> None:
    network = spaces.published("cream-14")
    images = DataShape((3, 64, 64), 1000, 1, 1)
    source = find_source("cream-14")
    assert source.cost_for(source.build(images), images) == pytest.approx(network.macs, rel=0.01)
    fewer = DataShape((3, 64, 64), 10, 1, 1)
    built = source.build(fewer)
    assert source.cost_for(source.build(images), images) - source.cost_for(built, fewer) == 1280 * 990


def test_further_multiply_adds_are_those_with_the_users_images(searched: Path) -> None:
    images = DataShape((1, 16, 16), 10, 1, 1)
    source = find_source(searched)
    network = source.build(images)
    known = replace(source, best=replace(load_best(searched), other_costs={"macs": 1.0, "latency": 0.002}))
    assert known.other_costs_for(network, images) == {"macs": count_macs(network, (1, 16, 16)), "latency": 0.002}


def test_hardware_that_is_not_there_is_told(searched: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.accelerator is tpu; expected cpu or auto"):
        evaluate_result(searched, configuration({"accelerator": "tpu"}))


def test_workers_and_an_interruption_change_nothing_for_images_in_memory(
    undisturbed: Path, searched: Path, tmp_path: Path
) -> None:
    settings = configuration()
    settings["loader"] |= {"workers": 1}
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(searched, settings, tmp_path / "out", on_epoch=stop_after(1))
    run_retraining(searched, settings, tmp_path / "out", resume=True)
    assert same_weights(weights(tmp_path / "out"), weights(undisturbed))
    whole = run_retraining(searched, settings, tmp_path / "whole").out
    assert same_weights(weights(whole), weights(undisturbed))


def picture_folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in range(3):
        (root / f"class_{label}").mkdir(parents=True)
        for number in range(16):
            pixels = rng.integers(0, 100, (20, 24, 3), dtype=np.uint8) + 70 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"class_{label}" / f"{number}.jpg")
    return root


def test_pictures_are_changed_alike_by_any_number_of_workers_and_after_an_interruption(tmp_path: Path) -> None:
    space = {"name": "digits", "arguments": {**SPACE["arguments"], "num_classes": 3, "input_channels": 3}}
    result = write_result(tmp_path / "searched", space=space)
    images = {"name": "folder", "root": str(picture_folder(tmp_path / "pictures")), "image_size": 16}
    arguments = {"batch_size": 8, "auto_augment": "rand-m9-mstd0.5", "epochs": 2, "augment": "none"}
    alone = configuration({"device_batch_size": None}, images, **arguments)
    helped = {**alone, "loader": {**alone["loader"], "workers": 2}}
    undisturbed = run_retraining(result, alone, tmp_path / "alone").out
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_retraining(result, helped, tmp_path / "helped", on_epoch=stop_after(1))
    run_retraining(result, helped, tmp_path / "helped", resume=True)
    assert same_weights(weights(tmp_path / "helped"), weights(undisturbed))
    assert (tmp_path / "helped" / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()
    plain = configuration({"device_batch_size": None}, images, **{**arguments, "auto_augment": None})
    assert not same_weights(weights(run_retraining(result, plain, tmp_path / "plain").out), weights(undisturbed))


def test_picture_changes_are_refused_for_images_in_memory(searched: Path, tmp_path: Path) -> None:
    settings = configuration(auto_augment="rand-m9-mstd0.5")
    with pytest.raises(ConfigError, match=r"recipe\.auto_augment is .* are tensors in memory"):
        run_retraining(searched, settings, tmp_path / "out")
    assert not (tmp_path / "out" / "config.yml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 400, "trainer": {"device_batch_size": 100}},
            "expected at most 200, the images of the training part",
        ),
        ({"trainer": {"device_batch_size": 15}}, "expected a divisor of 40"),
        (
            {"batch_size": 45, "trainer": {"device_batch_size": 15}},
            "expected an even number, since Mixup and CutMix mix pairs",
        ),
        ({"optimizer": "sgdd"}, "Did you mean 'sgd"),
        ({"dropout": 0.2}, "the network has no layer Dropout"),
    ],
)
def test_recipe_that_cannot_be_followed_is_told(
    changes: dict[str, Any], message: str, searched: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_retraining(searched, configuration(**changes), tmp_path / "out")
    assert not (tmp_path / "out" / "config.yml").exists()


def test_result_that_is_nothing_known_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cream-28: there is no such file or folder.*cream-287"):
        run_retraining("cream-28", configuration(), tmp_path / "out")
    with pytest.raises(FileError, match="Name a file with --weights"):
        evaluate_result("cream-14", configuration())


def test_checkpoint_with_the_published_names_is_evaluated(tmp_path: Path) -> None:
    with seeded(2):
        network = spaces.create("cream-14", num_classes=10, input_channels=1)
    ours = network.state_dict()
    theirs = {name.replace("stem.0.", "conv_stem.").replace("stem.1.", "bn1."): ours[name] for name in ours}
    assert theirs.keys() != ours.keys()
    for content, name in ((ours, "ours.pt"), ({"state_dict_ema": theirs}, "theirs.pth.tar")):
        torch.save(content, tmp_path / name)
    images = {"name": "digits", "image_size": 32}
    first, second = (
        evaluate_result("cream-14", configuration(images=images), weights=tmp_path / name)
        for name in ("ours.pt", "theirs.pth.tar")
    )
    assert first["loss"] == second["loss"]


def test_published_network_is_rehearsed_for_the_users_classes() -> None:
    images = {"name": "digits", "train": 200, "validation": 100, "image_size": 32}
    settings = configuration({"devices": 8, "device_batch_size": None}, images, dropout=0.2, erasing=0.0, mixup=0.0)
    rehearsal = rehearse_retraining("cream-14", settings, images_at_once=2)
    shape = DataShape((1, 32, 32), 10, 200, 100)
    network = spaces.create("cream-14", num_classes=shape.num_classes, input_channels=1)
    parameters = bytes_of(network.parameters())
    assert rehearsal.memory["parameters"] == rehearsal.memory["gradients"] == parameters
    assert rehearsal.memory["moving average"] == parameters + bytes_of(network.buffers())
    assert rehearsal.memory["optimizer"] >= 2 * parameters  # RMSprop keeps squares and momentum
    assert rehearsal.memory["activations"] > 0
    assert (rehearsal.steps_per_epoch, rehearsal.epochs, rehearsal.devices) == (5, 3, 1)
    assert rehearsal.seconds_per_step == pytest.approx(rehearsal.seconds_per_image * 40)
    assert rehearsal.seconds == pytest.approx(rehearsal.seconds_per_step * 15)
    assert any("of the 8 configured devices" in note for note in rehearsal.assumptions)
    assert any("measured with 2" in note for note in rehearsal.assumptions)


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("retrain_cream_*.yml")), ids=lambda file: file.stem)
def test_file_of_a_published_network_is_rehearsed_at_its_size(file: Path) -> None:
    settings = config.RETRAIN.load(file)
    settings["trainer"] |= {
        "precision": "32-true",
        "threads": 1,
    }  # bfloat16 takes minutes where a CPU has to imitate it
    name = file.stem.removeprefix("retrain_").replace("_", "-")
    assert f"nni-cream retrain {name} experiments/{file.name}" in file.read_text()
    assert settings["data"]["arguments"]["image_size"] == spaces.published(name).image_size
    rehearsal = rehearse_retraining(name, settings, images_at_once=2)
    assert rehearsal.seconds > 0
    assert min(rehearsal.memory[part] for part in ("parameters", "gradients", "optimizer", "activations")) > 0
    assert rehearsal.epochs == 500
    assert rehearsal.steps_per_epoch == 1_271_167 // 1024
    assert rehearsal.memory["parameters"] == pytest.approx(4 * spaces.published(name).params, rel=0.01)


@pytest.mark.integration
def test_file_for_digits_trains_a_good_network(searched: Path, tmp_path: Path) -> None:
    result = run_retraining(searched, config.RETRAIN.load(EXPERIMENTS / "retrain_digits.yml"), tmp_path / "out")
    assert result.best.retrained is not None
    assert result.best.retrained["test_accuracy"] > 0.93
