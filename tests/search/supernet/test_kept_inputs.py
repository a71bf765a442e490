"""A path that writes to its input is refused: teachers and other paths get the same one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nni_cream.errors import SpaceError
from nni_cream.search.scoring.scorer import PathScorer
from nni_cream.search.scoring.scores import SCORES
from nni_cream.search.scoring.validation_subset import ValidationSubset
from nni_cream.search.supernet.forward_recorder import observed
from nni_cream.search.supernet.kept_inputs import kept


class Network(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=inplace)

    def forward(self, images: Any) -> Tensor:
        result: Tensor = self.first(images["image"]).flatten(1)
        return result


def refused(inplace: bool) -> AbstractContextManager[Any]:
    return pytest.raises(SpaceError, match="changes its input in place") if inplace else nullcontext()


@pytest.mark.parametrize("inplace", [False, True])
def test_path_in_training_that_writes_to_its_input_is_refused(inplace: bool) -> None:
    network = Network(inplace)
    with observed(network) as calls, refused(inplace):
        network({"image": torch.randn(2, 10)})
    assert len(calls) == (not inplace)


@pytest.mark.parametrize("inplace", [False, True])
def test_path_that_writes_to_the_validation_images_is_refused(inplace: bool) -> None:
    subset = ValidationSubset((({"image": torch.randn(4, 10)}, torch.tensor([0, 1, 2, 3])),))
    scorer = PathScorer(subset, Network(inplace), lambda path: None, nullcontext, SCORES["top1"])
    with refused(inplace):
        scorer.score({})


def test_inputs_made_under_inference_mode_have_no_count_of_writes() -> None:
    with torch.inference_mode():
        images = torch.randn(2)
        with kept([images]):
            pass
