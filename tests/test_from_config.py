"""Arguments of Lightning's trainer that a configuration decides."""

from __future__ import annotations

import pytest
import torch

from nni_cream.from_config import shared_by_all


@pytest.mark.parametrize(
    ("accelerator", "gpus", "several"), [("auto", 2, True), ("gpu", 2, True), ("auto", 1, False), ("cpu", 2, False)]
)
def test_automatic_devices_are_connected_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpus: int, several: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    settings = {"accelerator": accelerator, "devices": "auto", "strategy": "auto", "timeout_seconds": 600.0}
    assert (shared_by_all(settings) != "auto") == several
