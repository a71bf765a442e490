"""The validation subset is in memory once, in the format in which the network gets its inputs."""

from __future__ import annotations

import pytest
import torch

from tests.search.small import LayerSpace, cream, digits, evaluator, run

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("precision", "kept"),
    # A mixed format keeps float32 inputs: a network may compute something in float32 before its first convolution.
    [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)],
)
def test_subset_is_in_memory_once_and_holds_the_inputs_of_validation(precision, kept):
    settings = {"board_size": 2, "warmup": 0, "score_images": 64, "matching": "none"}
    use = evaluator(max_epochs=1, limit_train_batches=3, limit_val_batches=0, precision=precision)
    module = run(LayerSpace(), cream(**settings), use).oneshot_module
    images = [images for images, _ in module.scorer.subset.chunks]
    assert {item.dtype for item in images} == {kept}
    assert sum(item.untyped_storage().nbytes() for item in images) == 64 * 8 * 8 * kept.itemsize
    given = {tuple(image.flatten().tolist()) for image in digits(200, start=1000).tensors[0].to(kept)}
    assert all(tuple(image.flatten().tolist()) in given for chunk in images for image in chunk)
