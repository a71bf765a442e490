from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nni_cream import config
from nni_cream.errors import ConfigError, SearchError
from nni_cream.from_config import make_strategy
from nni_cream.results.rebuilt_network import build_network
from nni_cream.runs.search_run import run_search
from nni_cream.search import BestMatcher

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SPACE = {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]}


def configuration(**search: Any) -> dict[str, Any]:
    return config.resolve(
        {
            "space": SPACE,
            "data": {"name": "digits", "train": 200, "validation": 100},
            "search": {
                "epochs": 3,
                "board_size": 4,
                "warmup": 0,
                "batch_size": 50,
                "matching": {"name": "meta", "interval": 3},
                **search,
            },
            "trainer": {"accelerator": "cpu", "threads": 1},
        }
    )


def texts(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in ("board.json", "best.json", "metrics.jsonl", "history.jsonl")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_search(configuration(), tmp_path_factory.mktemp("undisturbed") / "out").out


def stop_after(epoch: int) -> Any:
    def listener(figures: dict[str, float], update: dict[str, Any]) -> None:
        if figures["epoch"] == epoch:
            raise RuntimeError("stopped by the test")

    return listener


def test_same_seed_gives_the_same_files(undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what the caller drew before does not matter
    again = run_search(configuration(), tmp_path / "out").out
    assert texts(again) == texts(undisturbed)
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (again, undisturbed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_another_seed_gives_another_search(undisturbed: Path, tmp_path: Path) -> None:
    other = run_search(configuration(seed=1), tmp_path / "out").out
    assert texts(other)["metrics.jsonl"] != texts(undisturbed)["metrics.jsonl"]


def test_search_leaves_the_random_numbers_of_its_caller_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_search(configuration(epochs=1), tmp_path / "out")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("epoch", [1, 2])
def test_search_that_broke_off_resumes_and_ends_as_the_undisturbed_one(
    undisturbed: Path, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(configuration(), tmp_path / "out", on_epoch=stop_after(epoch))
    seen: list[tuple[float, bool]] = []
    run_search(
        configuration(),
        tmp_path / "out",
        resume=True,
        on_epoch=lambda figures, update: seen.append((figures["epoch"], "choices" in update)),
    )
    assert seen == [(number, number == epoch + 1) for number in range(epoch + 1, 4)]
    assert texts(tmp_path / "out") == texts(undisturbed)


def test_search_killed_after_its_last_epoch_only_needs_its_result(undisturbed: Path, tmp_path: Path) -> None:
    out = run_search(configuration(), tmp_path / "out").out
    expected = torch.load(out / "weights.pt", weights_only=True)
    (out / "best.json").unlink()
    (out / "weights.pt").unlink()
    run_search(configuration(), out, resume=True)
    assert texts(out) == texts(undisturbed)
    weights = torch.load(out / "weights.pt", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_search_killed_before_its_first_checkpoint_starts_again(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(configuration(), tmp_path / "out", on_epoch=stop_after(1))
    (tmp_path / "out" / "last.ckpt").unlink()
    run_search(configuration(), tmp_path / "out", resume=True)
    assert texts(tmp_path / "out") == texts(undisturbed)


def test_figures_that_the_checkpoint_does_not_know_of_are_written_anew(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(configuration(), tmp_path / "out", on_epoch=stop_after(1))
    with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
        file.write(
            '{"epoch": 2, "step": 8}\n{"epoch": 3, "st'
        )  # killed between figures and checkpoint, then within a line
    run_search(configuration(), tmp_path / "out", resume=True)
    assert texts(tmp_path / "out") == texts(undisturbed)


def test_search_that_fails_at_once_leaves_the_result_before_in_its_place(tmp_path: Path) -> None:
    out = run_search(configuration(epochs=1), tmp_path / "out").out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    wild = configuration(learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(SearchError, match="step"):
        run_search(wild, out, force=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_forced_search_replaces_the_result_in_the_end(tmp_path: Path) -> None:
    out = run_search(configuration(epochs=1), tmp_path / "out").out
    run_search(configuration(epochs=2), out, force=True)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (out / "previous").exists()


def test_training_too_short_for_its_warm_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, SearchError), match=r"warm"):
        run_search(configuration(epochs=2, warmup=2), tmp_path / "out")
    assert not any((tmp_path / "out").glob("*"))


def test_result_says_where_it_comes_from_and_builds_its_network(undisturbed: Path) -> None:
    result = run_search(configuration(), undisturbed, resume=True)
    best = result.best
    assert best.space == {"name": "digits", "arguments": {key: value for key, value in SPACE.items() if key != "name"}}
    assert best.data["arguments"] == {"train": 200, "validation": 100, "seed": 0}
    assert len(best.data["fingerprint"]) == 64
    assert (best.seed, best.cost_name) == (0, "macs")
    assert {"python", "nni_cream", "nni", "torch"} <= best.versions.keys()
    weights = torch.load(undisturbed / "weights.pt", weights_only=True)
    build_network(best).load_state_dict(weights)
    # Over, a search ranks by the final validation, whatever the scores were until then.
    validated = [entry["validated"] for entry in result.board["entries"]]
    assert validated == sorted(validated, reverse=True)
    assert best.accuracy == validated[0]


def test_checkpoint_holds_nothing_that_runs_code_when_loaded(undisturbed: Path) -> None:
    checkpoint = torch.load(undisturbed / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 2


def test_cost_of_the_users_own_is_named_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "def width(network, inputs):\n    return float(sum(1 for _ in network.modules()))\n"
    (tmp_path / "costs_of_a_user.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    result = run_search(configuration(cost="costs_of_a_user:width", epochs=1), tmp_path / "out")
    assert result.best.cost_name == "width"
    frozen = build_network(result.best)
    # The supernet's own freeze may wrap a choice in a container; the cost is that of the network it gave.
    assert result.best.cost == pytest.approx(sum(1 for _ in frozen.modules()), abs=4)
    assert json.loads((result.out / "board.json").read_text())["cost_name"] == "width"


def test_settings_of_the_search_reach_the_strategy() -> None:
    settings = configuration(margin=0.2, matching="best", cost_range=[None, 1e6], scoring={"rescore_interval": 2})[
        "search"
    ]
    strategy = make_strategy(settings)
    assert (strategy.board.capacity, strategy.board.margin) == (4, 0.2)
    assert isinstance(strategy._settings.matching, BestMatcher)
    assert strategy._settings.cost_range == ((None, 1e6),)
    assert strategy._settings.scoring.rescore_interval == 2


def test_trainer_settings_reach_lightning(tmp_path: Path) -> None:
    settings = configuration(epochs=1)
    settings["trainer"] |= {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    settings["search"]["ema_decay"] = 0.9
    result = run_search(settings, tmp_path / "out")
    metrics = json.loads((result.out / "metrics.jsonl").read_text())
    assert metrics["step"] == 2  # four batches, two to a step
