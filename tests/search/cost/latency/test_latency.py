from __future__ import annotations

import json
import logging

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, Repeat

from nni_cream.errors import ConfigError, FileError, SpaceError
from nni_cream.search import LatencyModel, LatencySettings, LatencyTable, RandomPaths, measure_table
from nni_cream.search.cost.latency.stopwatch import Stopwatch, structure
from nni_cream.search.ranks import Ranks
from tests.search.cost.latency.clocked import Clock, ClockedSpace, Taking, expected
from tests.search.small import LayerSpace, ValueSpace, supernet

X = torch.zeros(2, 1, 8, 8)


def model(settings: LatencySettings | None = None, images: torch.Tensor = X, space=ClockedSpace) -> LatencyModel:
    made = LatencyModel(supernet(space()), (images,), settings or LatencySettings(device="cpu"), clock=Clock())
    made.prepare()
    return made


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    settings = LatencySettings(device="cpu", image_sizes=[16, 8])
    return measure_table(supernet(ClockedSpace()), (X,), settings, clock=Clock())


def given(table: LatencyTable, **changes) -> LatencySettings:
    content = table.to_json() | changes
    return LatencySettings(device=content["device"], table=LatencyTable.from_json(json.loads(json.dumps(content))))


def paths(space=ClockedSpace, count: int = 30):
    sampler = RandomPaths(supernet(space()).space, seed=8)
    return [sampler.draw() for _ in range(count)]


def test_the_table_gives_what_the_layers_of_a_path_take():
    latency = model()
    assert latency.additive
    for path in paths():
        assert latency(path) == pytest.approx(expected(path), rel=1e-9)
        assert latency.measure(path) == pytest.approx(expected(path), rel=1e-9)
    assert latency.bounds() == pytest.approx((0.008, 0.030))


def test_the_check_counts_whole_networks_that_the_fit_has_not_seen(table, monkeypatch):
    check = dict(table.check)
    least, middle, most = check.pop("seconds")
    assert 4 * 0.008 - 1e-9 <= least < middle < most <= 4 * 0.030 + 1e-9  # 16x16 pixels, the largest size
    assert check == {"paths": 30, "median_error": 0.0, "worst_error": 0.0}
    plain = Stopwatch.time

    def slow_on_every_other_network(self, runs):
        odd = {("network", index) for index in range(1, 60, 2)}
        return {key: taken * (2 if key in odd else 1) for key, taken in plain(self, runs).items()}

    monkeypatch.setattr(Stopwatch, "time", slow_on_every_other_network)
    settings = LatencySettings(device="cpu", repeats=1, warmup=0)
    doubled = measure_table(supernet(ClockedSpace()), (X,), settings, clock=Clock())
    assert doubled.check | {"median_error": 0.5, "worst_error": 0.5} == doubled.check


def test_a_network_that_takes_longer_than_its_blocks_is_fitted(caplog):
    class Slowed(ClockedSpace):
        def forward(self, x):
            before = Clock.now
            output = super().forward(x)
            Clock.now += 0.25 * (Clock.now - before)
            return output

    latency = model(space=Slowed)
    assert latency.latencies is not None
    assert latency.latencies.check["median_error"] < 0.02
    for path in paths(Slowed):
        assert latency(path) == pytest.approx(1.25 * expected(path), rel=0.02)
    assert not caplog.records


def test_a_table_that_is_far_off_is_warned_of(caplog):
    class Squared(ClockedSpace):
        def forward(self, x):
            before = Clock.now
            output = super().forward(x)
            Clock.now += 1e5 * (Clock.now - before) ** 3
            return output

    with caplog.at_level(logging.WARNING):
        model(space=Squared)
    assert "is off by" in caplog.text


def test_a_batch_takes_what_its_images_take():
    latency = model(LatencySettings(device="cpu", batch_size=3))
    assert latency(paths()[0]) == pytest.approx(3 * expected(paths()[0]))


def test_equal_blocks_are_timed_once_and_unequal_ones_apart():
    class Counting(Taking):
        runs = 0

        def forward(self, x):
            Counting.runs += 1
            return super().forward(x)

    class Repeated(LayerSpace):
        def __init__(self):
            super().__init__(layers=1)
            choices = [LayerChoice([Counting(1), Counting(2)], label=f"same_{i}") for i in range(6)]
            self.layers = torch.nn.Sequential(*choices)

    settings = LatencySettings(device="cpu", paths=3, warmup=0, repeats=5)
    latency = model(settings, space=Repeated)
    networks = 5 * 2 * 3 * 6
    recording = 6
    assert Counting.runs == networks + recording + 5 * 2
    assert latency({f"same_{i}": 1 for i in range(6)}) - latency({f"same_{i}": 0 for i in range(6)}) == pytest.approx(
        6 / 1000
    )


def test_runs_before_the_clock_counts_and_single_slow_ones_decide_nothing():
    seconds = iter([9.0, 9.0, 9.0, 1.0, 50.0, 2.0, 1.0, 2.0])

    def run():
        Clock.now += next(seconds)

    watch = Stopwatch(torch.device("cpu"), warmup=3, repeats=5, clock=Clock())
    assert watch.time({"run": run})["run"] == pytest.approx(2.0)


def test_latencies_between_two_measured_sizes_are_linear_in_the_pixels(table):
    path = paths()[0]
    sizes = {8: 1.0, 12: 144 / 64, 16: 4.0}
    for side, times in sizes.items():
        latency = model(given(table), torch.zeros(2, 1, side, side))
        assert latency(path) == pytest.approx(times * expected(path))


@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 17, 17), (3, 8, 8)])
def test_sizes_outside_the_measured_ones_are_refused(table, shape):
    with pytest.raises(SpaceError, match=r"expected one of 1x8x8, 1x16x16"):
        model(given(table), torch.zeros(2, *shape))


def test_a_table_survives_the_way_through_json(table):
    assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_a_table_of_another_space_is_refused_with_the_labels_that_differ(table):
    with pytest.raises(
        SpaceError, match=r"lacks the labels \['layer_0', 'layer_1', 'layer_2'\].*'layer', 'block_0', 'block_1'"
    ):
        model(given(table), space=LayerSpace)


def test_a_table_of_other_values_is_refused_with_the_label(table):
    content = json.loads(json.dumps(table.to_json()))
    for size in content["sizes"]:
        size["columns"]["block_1"]["idle"] = size["columns"]["block_1"].pop("fast")
    with pytest.raises(SpaceError, match=r"'block_1' are \['idle', 'slow'\]"):
        model(given(table, sizes=content["sizes"]))


def test_a_table_of_other_widths_is_refused(table):
    class Wider(ClockedSpace):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Linear(1, 11)

    with pytest.raises(SpaceError, match="layers of other shapes"):
        model(given(table), space=Wider)
    model(given(table, space=None), space=Wider)


def test_a_table_of_another_device_needs_its_name(table):
    phone = LatencyTable.from_json(table.to_json() | {"device": "phone"})
    with pytest.raises(ConfigError, match=r"latency.device is 'cpu'.*; expected 'phone'"):
        LatencySettings(device="cpu", table=phone)
    with pytest.raises(ConfigError, match=r"latency.device is 'tablet'; expected 'phone'"):
        LatencySettings(device="tablet", table=phone)
    assert model(LatencySettings(device="phone", table=phone))(paths()[0]) == pytest.approx(expected(paths()[0]))


def test_a_device_that_is_not_here_cannot_be_measured():
    with pytest.raises(ConfigError, match=r"'phone'; expected a device of torch here"):
        LatencySettings(device="phone")


@pytest.mark.parametrize("name", ["batch_size", "threads"])
def test_settings_that_contradict_the_table_are_refused(table, name):
    with pytest.raises(ConfigError, match=rf"{name} is 9; expected 1, as in the latency table"):
        LatencySettings(
            device="cpu", table=LatencyTable.from_json(table.to_json() | {"settings": {name: 1}}), **{name: 9}
        )


@pytest.mark.parametrize(
    "wrong",
    [{"repeats": 0}, {"warmup": -1}, {"paths": 2}, {"batch_size": 0}, {"threads": True}, {"image_sizes": []},
     {"image_sizes": [0]}, {"device": ""}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_their_name(wrong):
    with pytest.raises(ConfigError, match=f"latency.{next(iter(wrong))} is"):
        LatencySettings(**({"device": "cpu"} | wrong))


GOOD = {"format": "nni_cream.latency/1", "device": "phone", "sizes": [{"shape": [1, 8, 8], "columns": {"a": {"x": 1}}}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"latency table: the content is \[\]; expected an object with format, device, sizes"),
        (GOOD | {"format": "nni_cream.board/1"}, "nni_cream.board/1"),
        ({key: value for key, value in GOOD.items() if key != "device"}, "device is missing"),
        (GOOD | {"sizes": []}, r"sizes is \[\]; expected a list of at least one"),
        (GOOD | {"sizes": [3]}, r"sizes\[0\] is 3"),
        (GOOD | {"sizes": [{"shape": [1, "8"], "columns": {}}]}, r"sizes\[0\]\.shape\[1\] is '8'"),
        (
            GOOD | {"sizes": [{"shape": [1, 8, 8], "columns": {"a": {"x": -1}}}]},
            r"sizes\[0\].columns.a.x is -1; expected a number of at least 0",
        ),
        (GOOD | {"sizes": [{"shape": [1, 8, 8], "columns": {"a": {"x": float("nan")}}}]}, "columns.a.x is nan"),
        (GOOD | {"sizes": [{"shape": [1, 8, 8], "columns": {"a": {"x": 10**400}}}]}, "columns.a.x is 1000"),
        (GOOD | {"sizes": [{"shape": [1, 8, 8], "columns": {"a": 4}}]}, "columns.a is 4; expected an object"),
        (GOOD | {"sizes": [*GOOD["sizes"], {"shape": [1, 9, 9], "columns": {"b": {"x": 1}}}]}, "the same labels"),
        (GOOD | {"check": 5}, "check is 5"),
    ],
)
def test_a_broken_or_foreign_table_is_refused_with_the_key(content, message):
    with pytest.raises(FileError, match=message):
        LatencyTable.from_json(content)


def test_the_smallest_table_that_a_user_can_write_is_enough():
    assert LatencyTable.from_json(GOOD).sizes[0].columns == {"a": {"x": 1.0}}


def test_a_search_that_goes_on_does_so_by_the_latencies_measured_before():
    first = model()
    second = LatencyModel(
        supernet(ClockedSpace()), (X,), LatencySettings(device="cpu"), clock=lambda: pytest.fail("timed")
    )
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.prepare()
    assert second.table is not None
    assert [second(path) for path in paths()] == [first(path) for path in paths()]


def test_a_space_without_blocks_is_measured_network_by_network_and_remembered():
    latency = LatencyModel(supernet(ValueSpace()), (X,), LatencySettings(device="cpu", repeats=1, warmup=0))
    latency.prepare()
    path = RandomPaths(supernet(ValueSpace()).space).draw()
    first = latency(path)
    assert not latency.additive
    assert first > 0
    again = LatencyModel(
        supernet(ValueSpace()), (X,), LatencySettings(device="cpu"), clock=lambda: pytest.fail("timed")
    )
    again.load_state_dict(latency.state_dict())
    assert again(path) == first
    with pytest.raises(SpaceError, match="cannot be put into a table"):
        measure_table(supernet(ValueSpace()), (X,), LatencySettings(device="cpu"))


def test_all_processes_go_by_the_leaders_clock():
    told: list = []

    class First(Ranks):
        def first(self, decide):
            told.append(decide())
            return told[0]

    class Second(Ranks):
        def first(self, decide):
            return told[0]

    leader = LatencyModel(supernet(ClockedSpace()), (X,), LatencySettings(device="cpu"), ranks=First(), clock=Clock())
    leader.prepare()
    other = LatencyModel(
        supernet(ClockedSpace()),
        (X,),
        LatencySettings(device="cpu"),
        ranks=Second(),
        clock=lambda: pytest.fail("timed"),
    )
    other.prepare()
    assert [other(path) for path in paths()] == [leader(path) for path in paths()]


def test_measuring_leaves_the_supernet_the_threads_and_the_random_numbers_as_they_were():
    net = supernet(LayerSpace())
    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    modes = [module.training for module in net.space.modules()]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    settings = LatencySettings(device="cpu", repeats=1, warmup=0, paths=3, threads=threads + 1)
    table = measure_table(net, (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)),), settings)
    assert all(taken >= 0 for column in table.sizes[0].columns.values() for taken in column.values())
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())
    assert modes == [module.training for module in net.space.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_a_table_may_name_its_labels_in_any_order():
    orders = {8: "ab", 9: "ba"}
    sizes = [
        {"shape": [1, side, side], "columns": {label: {"x": 1} for label in labels}} for side, labels in orders.items()
    ]
    assert set(LatencyTable.from_json(GOOD | {"sizes": sizes}).sizes[1].columns) == {"a", "b"}


def test_a_choice_that_some_paths_use_more_often_than_others_has_no_table_but_is_measured():
    class Shared(ClockedSpace):
        def __init__(self):
            super().__init__()
            self.blocks = Repeat(lambda index: LayerChoice([Taking(1), Taking(9)], label="same"), (1, 4), label="depth")

    latency = model(LatencySettings(device="cpu", repeats=1, warmup=0), space=Shared)
    assert not latency.additive
    for depth in (1, 4):
        assert latency({"layer": 0, "depth": depth, "same": 1}) == pytest.approx((7 + 9 * depth) / 1000)


def test_a_choice_in_two_places_of_every_path_has_a_table():
    class Twice(ClockedSpace):
        def __init__(self):
            super().__init__()
            self.head = LayerChoice([Taking(4), Taking(6)], label="layer")

    latency = model(space=Twice)
    assert latency.additive
    path = {"depth": 1, "block_0": "fast", "block_1": "fast", "block_2": "fast"}
    assert latency({**path, "layer": 1}) - latency({**path, "layer": 0}) == pytest.approx((4 + 2) / 1000)


class Applying(torch.nn.Module):
    def __init__(self, function, steps):
        super().__init__()
        self.function, self.steps = function, steps


def test_layers_that_differ_in_a_function_or_a_list_are_not_taken_for_one():
    base = Applying(torch.relu, [1])
    assert structure(base) == structure(Applying(torch.relu, [1]))
    assert structure(base) != structure(Applying(torch.tanh, [1]))
    assert structure(base) != structure(Applying(torch.relu, [2]))
    assert structure(torch.nn.Conv2d(1, 1, 3)) == structure(torch.nn.Conv2d(1, 1, 3))
