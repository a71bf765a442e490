"""Latency as a user configures it: the ``latency`` section, the file of a table, and measuring one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nni_cream import data, spaces
from nni_cream.errors import ConfigError
from nni_cream.from_config import fit_space, latency_settings
from nni_cream.search import LatencyTable, Supernet, measure_table
from nni_cream.strategy import CreamStrategy

__all__ = ["measure_latencies"]


def measure_latencies(config: Mapping[str, Any]) -> LatencyTable:
    """Measure the table of a configuration's space, for the images of its data, on this machine.

    Parameters
    ----------
    config
        Resolved configuration.

    Returns
    -------
    LatencyTable
        With a check against whole networks.

    Raises
    ------
    CreamError
        Of the kind that fits: space or data is not usable, or the space allows no table.
    """
    if config["latency"]["table"] is not None:
        raise ConfigError(
            f"latency.table is {config['latency']['table']!r}; expected none, since that table exists. Leave it out to "
            "measure another one."
        )
    settings = latency_settings(config["latency"])
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])
    config = fit_space(config, splits)
    space = spaces.create(config["space"]["name"], **config["space"]["arguments"])
    image = splits.train[0][0]
    spaces.check_images(space, image.shape)
    supernet = Supernet(CreamStrategy(board_size=1).mutate_model(space))
    return measure_table(supernet, (image[None],), settings, config["search"]["seed"])
