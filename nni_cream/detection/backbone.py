"""The classification network that becomes the backbone of a detector, as the section ``backbone`` names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models

from nni_cream import spaces
from nni_cream.errors import ConfigError, FileError
from nni_cream.results.architecture_file import Best
from nni_cream.results.cost_check import count_macs
from nni_cream.results.rebuilt_network import build_path
from nni_cream.results.sources import Source, find_source
from nni_cream.training.weights import load_weights

__all__ = ["Backbone", "backbone_name", "find_backbone"]

_BESIDE = "beside"
_OWN_SIZE = (3, 224, 224)


@dataclass(frozen=True)
class Backbone:
    """A classification network.

    Parameters
    ----------
    space
        ``name`` and ``arguments`` of its search space; of torchvision's networks ``torchvision`` and the name.
    choices
        Its path.
    source
        Where it was found; ``None`` for torchvision's.
    weights
        File of its weights; ``None`` for new ones.
    """

    space: Mapping[str, Any]
    choices: Mapping[str, Any]
    source: Source | None
    weights: Path | None

    def build(self) -> nn.Module:
        """Build it, with new weights from torch's global generator or those of the file.

        Returns
        -------
        torch.nn.Module
            Images in, logits out.

        Raises
        ------
        FileError
            If the weights do not fit, or the result names a class to import.
        SpaceError
            If its space is not known here.
        """
        if self.source is None:
            network: nn.Module = models.get_model(self.space["arguments"]["network"], weights=None)
            if self.weights is not None:
                load_weights(network, self.weights)
            return network
        self.source.check_code()
        network = build_path(self.space, self.choices)
        if self.weights is not None:
            self.source.load(network, self.weights)
        return network

    def identity(self) -> dict[str, Any]:
        """Return what tells it from others, as plain JSON values."""
        weights = None if self.weights is None else str(self.weights.resolve())
        return {"space": dict(self.space), "choices": dict(self.choices), "weights": weights}

    def best(self, ap: float, **fields: Any) -> Best:
        """Return the architecture as a result.

        Parameters
        ----------
        ap
            Average precision of the detector, which stands for the accuracy of a backbone that was not searched.
        **fields
            Those of a :class:`Best` that the backbone does not decide.

        Returns
        -------
        Best
            With the cost of the classification network.
        """
        accuracy = None if self.source is None else self.source.accuracy
        if self.source is None:
            cost, name = count_macs(self.build(), _OWN_SIZE), "macs"
        else:
            cost, name = self.source.cost, self.source.cost_name
        return Best(dict(self.space), dict(self.choices), ap if accuracy is None else accuracy, cost, name, **fields)


def find_backbone(section: Mapping[str, Any], *, trust_code: bool = False) -> Backbone:
    """Find the network that a section means.

    Parameters
    ----------
    section
        ``name``: a result of a search or retraining, a published network such as ``cream-287``, or a classification
        network of torchvision; ``arguments``: ``weights``, a file, or ``beside`` for that beside the result.
    trust_code
        Whether a result may name a space as ``package.module:Class``, which is then imported.

    Returns
    -------
    Backbone
        Not yet built.

    Raises
    ------
    ConfigError
        If it is none of these.
    FileError
        If there are no such weights.
    """
    name, arguments = str(section["name"]), dict(section["arguments"])
    named = arguments.pop("weights", None)
    if arguments:
        raise ConfigError(f"backbone.{next(iter(arguments))} is no argument; expected name and weights.")
    if not (named is None or isinstance(named, str)):
        raise ConfigError(f"backbone.weights is {named!r}; expected a file, {_BESIDE}, or null for new weights.")
    if not os.path.lexists(name) and name in models.list_models(module=models):
        if named == _BESIDE:
            raise ConfigError(f"backbone.weights is {_BESIDE}; expected a file, since {name} is torchvision's.")
        space = {"name": "torchvision", "arguments": {"network": name}}
        return Backbone(space, {}, None, _file(named))
    try:
        source = find_source(name, trust_code=trust_code)
    except ConfigError as error:
        raise ConfigError(
            f"backbone.name: {error} Or name a classification network of torchvision, such as mobilenet_v3_small."
        ) from None
    weights = source.weights(None) if named == _BESIDE else _file(named)
    return Backbone(source.space, source.choices, source, weights)


def backbone_name(space: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """Return what people call a network: torchvision's or the published name, else that of its space."""
    for name in spaces.list_networks():
        network = spaces.published(name)
        if (network.space, network.choices) == (space, choices):
            return name
    return str(space["arguments"]["network"] if space["name"] == "torchvision" else space["name"])


def _file(named: str | None) -> Path | None:
    if named is not None and not Path(named).is_file():
        raise FileError(f"backbone.weights: there is no file {named}; expected weights of the backbone.")
    return None if named is None else Path(named)
