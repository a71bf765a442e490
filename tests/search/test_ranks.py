from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from nni_cream.errors import SearchError
from nni_cream.search.ranks import Ranks
from tests.ranks import in_ranks


def connected(rank: int) -> Ranks:
    dist.init_process_group("gloo", rank=rank, world_size=2)
    return Ranks.of(2)


def test_a_single_process_decides_alone():
    ranks = Ranks.of(1)
    assert ranks.leads
    assert ranks.first(lambda: 3) == 3
    assert ranks.gather(lambda: 3) == [3]
    assert ranks.any([False, True]) == [False, True]
    (mean,) = ranks.mean([torch.ones(2)])
    assert mean.tolist() == [1, 1]
    ranks.check_same({"path": "a"}, 1)


def test_several_devices_without_torchs_processes_are_refused():
    with pytest.raises(SearchError, match=r"the trainer has 2 devices, .* expected 'ddp_find_unused_parameters_true'"):
        Ranks.of(2)


def test_two_processes_go_by_the_first_and_share_what_each_has(tmp_path):
    def work(rank: int) -> list:
        ranks = connected(rank)
        shapes = [torch.full((2, 1), float(rank)), torch.full((3,), 4.0 * rank)]
        means = [[list(mean.shape), mean.flatten().tolist()] for mean in ranks.mean(shapes)]
        flags = ranks.any([rank == 1, False, True])
        return [ranks.leads, ranks.first(lambda: rank), ranks.gather(lambda: 10 * rank), means, flags]

    first, second = in_ranks(2, work, tmp_path)
    means = [[[2, 1], [0.5, 0.5]], [[3], [2.0, 2.0, 2.0]]]
    assert first == [True, 0, [0, 10], means, [True, False, True]]
    assert second == [False, 0, [0, 10], means, [True, False, True]]


def test_a_failure_of_one_process_ends_all_and_is_named(tmp_path):
    def work(rank: int) -> list:
        ranks, texts = connected(rank), []

        def fail(failing: int) -> int:
            if rank == failing:
                raise ValueError("broken")
            return rank

        for share in (lambda: ranks.first(lambda: fail(0)), lambda: ranks.gather(lambda: fail(1))):
            with pytest.raises((ValueError, SearchError)) as caught:
                share()
            texts.append(f"{type(caught.value).__name__}: {caught.value}".partition(" (process")[0])
        return [texts, ranks.gather(lambda: rank)]

    first, second = in_ranks(2, work, tmp_path)
    assert first[0] == [
        "ValueError: broken",
        "SearchError: rank 1 of 2 has failed, so rank 0 ends, too: ValueError: broken",
    ]
    assert second[0] == [
        "SearchError: rank 0 of 2 has failed, so rank 1 ends, too: ValueError: broken",
        "ValueError: broken",
    ]
    assert first[1] == second[1] == [0, 1], "they can go on talking"


def test_what_differs_is_named_in_all_processes(tmp_path):
    def work(rank: int) -> str:
        ranks = connected(rank)
        ranks.check_same({"path": "a", "board": "b"}, 1)
        with pytest.raises(SearchError) as caught:
            ranks.check_same({"path": "a", "board": f"b{rank}"}, 7)
        return str(caught.value)

    first, second = in_ranks(2, work, tmp_path)
    assert first == second
    assert first.startswith("the board of rank 1 differs from that of rank 0 at step 7; expected the same")
    assert first.endswith("b1 instead of b0")
