"""Searches of one space write down the same network before their first step; one look at it is enough for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import Tensor, nn


@pytest.fixture(scope="package", autouse=True)
def _each_network_is_exported_once() -> Iterator[None]:
    """Let the check of a search remember networks that it has exported; a failure is not remembered.

    Tracing takes a fifth of a small search. It depends on the layers and the shape of the images, not on the weights.
    """
    from nni_cream.runs import search_run

    check, exported = search_run.check_exportable, set[tuple[type[nn.Module], str, tuple[int, ...]]]()

    def once(network: nn.Module, images: Tensor) -> None:
        key = type(network), str(network), tuple(images.shape)
        if key not in exported:
            check(network, images)
            exported.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_run, "check_exportable", once)
        yield
