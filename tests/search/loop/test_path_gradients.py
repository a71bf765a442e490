from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nni_cream.search.loop.path_gradients import average_gradients, stop_ddp
from nni_cream.search.ranks import Ranks
from tests.ranks import in_ranks


def test_gradients_become_means_and_a_weight_that_no_process_used_keeps_none(tmp_path):
    def work(rank: int) -> list:
        dist.init_process_group("gloo", rank=rank, world_size=2)
        both, first, none, frozen = (nn.Parameter(torch.zeros(2)) for _ in range(4))
        frozen.requires_grad_(False)
        both.grad = torch.full((2,), 1.0 + rank)
        if rank == 0:
            first.grad = torch.ones(2)
        average_gradients([both, first, none, frozen], Ranks.of(2))
        return [None if weight.grad is None else weight.grad.tolist() for weight in (both, first, none, frozen)]

    assert in_ranks(2, work, tmp_path) == [[[1.5, 1.5], [0.5, 0.5], None, None]] * 2


def test_a_gradient_keeps_its_layout():
    weight = nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
    gradient = weight.grad = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    average_gradients([weight], Ranks())
    assert weight.grad is gradient
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("more", "hook", "obeys"),
    [({}, None, False), ({"broadcast_buffers": False}, None, True), ({"broadcast_buffers": False}, print, False)],
)
def test_ddp_sends_no_gradients_unless_the_user_asked_more_of_it(tmp_path, more, hook, obeys):
    def work(rank: int) -> list:
        dist.init_process_group("gloo", rank=rank, world_size=1)
        model = DistributedDataParallel(nn.Linear(2, 1), find_unused_parameters=True, **more)
        trainer = SimpleNamespace(model=model, strategy=SimpleNamespace(_ddp_comm_hook=hook))
        return [stop_ddp(trainer), model.require_backward_grad_sync]

    assert in_ranks(1, work, tmp_path) == [[obeys, not obeys]]
    assert not stop_ddp(SimpleNamespace(model=nn.Linear(2, 1)))
