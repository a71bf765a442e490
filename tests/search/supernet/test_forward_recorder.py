"""Running a user's step without a trace."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from nni_cream.search.supernet.forward_recorder import muted


class Recording(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(2, 3)
        self.encoder.seen = 0
        self.nested, self.kinds, self.last = {"losses": [1.0]}, Counter(a=1), deque([1], maxlen=3)
        self.matrix, self.table, self.names = torch.zeros(2), np.zeros(2), {"a"}

    def note(self) -> None:
        self.nested["losses"].append(2.0)
        self.kinds["b"] += 1
        self.last.append(2)
        self.matrix += 1
        self.table += 1
        self.names.add("b")
        self.encoder.seen += 1
        self.made_inside = True


def records(module: Recording) -> str:
    return repr({name: value for name, value in vars(module).items() if name != "log" and not name.startswith("_")})


@pytest.mark.parametrize("fails", [False, True])
def test_a_users_records_are_as_before(fails):
    module = Recording()
    losses, before = module.nested["losses"], records(module)
    try:
        with muted(module):
            module.note()
            assert module.nested["losses"] == [1.0, 2.0]
            assert module.encoder.seen == 1
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert records(module) == before
    assert module.nested["losses"] is losses
    assert module.encoder.seen == 0


def test_layers_that_list_their_parameters_get_their_gradients():
    module, x = Recording(), torch.randn(4, 1, 2)
    expected = torch.autograd.grad(module.encoder(x)[0].sum(), [*module.encoder.parameters()])
    with muted(module):
        found = torch.autograd.grad(module.encoder(x)[0].sum(), [*module.encoder.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
