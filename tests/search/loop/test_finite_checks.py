from __future__ import annotations

import pytest
import torch

from nni_cream.errors import SearchError
from nni_cream.search.loop.finite_checks import check_weights
from tests.benchmarks.loaded import benchmark

WEIGHTS = [
    torch.randn(3, 4),
    torch.zeros(0),
    torch.full((300,), 60000.0).half(),
    torch.ones(2).double(),
    torch.arange(3),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found_whatever_its_type(dtype, value):
    broken = torch.ones(40, dtype=dtype)
    broken[17] = value
    with pytest.raises(SearchError, match="not finite at step 5"):
        check_weights([*WEIGHTS, broken], 5)


def test_large_weights_are_finite():
    check_weights([*WEIGHTS, torch.full((100, 100), 3e38), torch.full((9,), 1e308, dtype=torch.float64)], 5)
    check_weights([], 5)


def test_weights_are_read_once_however_many_there_are():
    with benchmark("host_reads").HostReads("cpu") as reads:
        check_weights([torch.randn(3, 3) for _ in range(200)], 5)
    assert len(reads.places) == 1
