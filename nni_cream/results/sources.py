"""Results that a user may name: a file, a folder, or a published network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.errors import ConfigError, FileError
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.cost_check import check_costs, count_macs
from nni_cream.results.output_folder import BEST, PARETO, WEIGHTS, inside
from nni_cream.results.rebuilt_network import build_path
from nni_cream.results.trust import check_space_code

if TYPE_CHECKING:
    from torch import nn

    from nni_cream.from_config import Images

__all__ = ["Source", "best_teacher", "find_source"]


@dataclass(frozen=True)
class Source:
    """An architecture that is to be trained or measured.

    Parameters
    ----------
    space
        ``name`` and ``arguments`` of its search space.
    choices
        Its path, as plain JSON values.
    cost
        Complexity of one image.
    cost_name
        What the cost counts.
    accuracy
        One-shot accuracy; ``None`` for a published network, which was not searched here.
    place
        The ``best.json`` that it was read from; ``None`` for a published network.
    best
        Its content; likewise.
    trust_code
        Whether the user lets the result name a class to import.
    """

    space: Mapping[str, Any]
    choices: Mapping[str, Any]
    cost: float
    cost_name: str
    accuracy: float | None
    place: Path | None
    best: Best | None = None
    trust_code: bool = False

    def check_code(self) -> None:
        """Raise ``FileError`` if the result names a class to import, and the user does not allow it."""
        if self.place is not None:
            check_space_code(self.space, self.place, self.trust_code)

    def build(self, images: Images) -> nn.Module:
        """Build the network with new weights, drawn from torch's global generator.

        Parameters
        ----------
        images
            Decide classes, channels and size of a published network; a searched one is built as it was searched.

        Returns
        -------
        torch.nn.Module
            The network.

        Raises
        ------
        SpaceError
            If the space is not made for images of this shape.
        FileError
            If the file gives it other costs than it has, or names a class to import (see :meth:`check_code`).
        """
        from nni_cream import spaces

        self.check_code()
        if self.place is not None:
            name, arguments = self.space["name"], self.space["arguments"]
            spaces.check_arguments(name, arguments, images.num_classes, images.input_shape)
        built: Any = build_path(self.space_for(images), self.choices)
        spaces.check_images(built, images.input_shape)
        network: nn.Module = built
        if self.best is not None and self.place is not None:
            check_costs(self.best, self.place, network, images)
        return network

    def cost_for(self, network: nn.Module, images: Images) -> float:
        """Return the cost of one image of a data set.

        Parameters
        ----------
        network
            Of :meth:`build`.
        images
            The data set; with other images than those of its search, an architecture costs less or more.

        Returns
        -------
        float
            In the unit that ``cost_name`` says.
        """
        return self._cost_for(network, images, self.cost_name, self.cost)

    def other_costs_for(self, network: nn.Module, images: Images) -> dict[str, float] | None:
        """Return the further costs of one image of a data set, if there are any; see :meth:`cost_for`."""
        others = None if self.best is None else self.best.other_costs
        if others is None:
            return None
        return {name: self._cost_for(network, images, name, cost) for name, cost in others.items()}

    def _cost_for(self, network: nn.Module, images: Images, name: str, known: float) -> float:
        return count_macs(network, images.input_shape) if name == "macs" else known

    def space_for(self, images: Images) -> dict[str, Any]:
        """Return the space with the arguments that fit a data set; see :meth:`build`."""
        arguments = dict(self.space["arguments"])
        if self.place is None:
            channels, height, width = images.input_shape
            arguments |= {"num_classes": images.num_classes, "input_channels": channels, "image_size": height}
            if height != width:
                del arguments["image_size"]  # there is no other size that it is planned for
        return {"name": self.space["name"], "arguments": arguments}

    def weights(self, named: Path | None) -> Path:
        """Find the weights that belong to the architecture.

        Parameters
        ----------
        named
            File that the user names.

        Returns
        -------
        Path
            It, or the one beside the architecture: ``weights.pt`` beside ``best.json``, ``01.pt`` beside ``01.json``.

        Raises
        ------
        FileError
            If there is none.
        """
        found = named or self.weights_beside()
        if found is None:
            missing = "a published network has no weights here"
            if self.place is not None:
                missing = f"{self.place.parent}: there are no weights beside {self.place.name}"
            raise FileError(f"{missing}. Name a file with --weights.")
        return found

    def weights_beside(self) -> Path | None:
        """Return the file of weights beside the architecture, ``None`` if there is none."""
        if self.place is None:
            return None
        beside = self.place.with_name(WEIGHTS) if self.place.name == BEST else self.place.with_suffix(".pt")
        return beside if beside.exists() else None

    def load(self, network: nn.Module, named: Path | None = None) -> Path:
        """Put the weights that belong to the architecture into its network.

        Parameters
        ----------
        network
            Of :meth:`build`.
        named
            File that the user names; the published checkpoints' names of weights are understood.

        Returns
        -------
        Path
            Where the weights were.

        Raises
        ------
        FileError
            If there are none, or they do not fit.
        """
        from nni_cream import spaces
        from nni_cream.training.weights import fit_weights, read_weights

        path = self.weights(named)
        weights = read_weights(path)
        if self.space["name"] == "cream":
            weights = spaces.from_published_checkpoint(weights)
        fit_weights(network, weights, path)
        return path

    def identity(self) -> dict[str, Any]:
        """Return what tells it from other architectures, as plain JSON values."""
        return {"space": dict(self.space), "choices": dict(self.choices)}


def find_source(result: str | Path, *, trust_code: bool = False) -> Source:
    """Find what the user means by RESULT.

    Parameters
    ----------
    result
        A ``best.json``, a folder that holds one, or the name of a published network.
    trust_code
        Whether it may name a space as ``package.module:Class``, which is then imported.

    Returns
    -------
    Source
        The architecture.

    Raises
    ------
    ConfigError
        If it is neither a file nor a folder nor the name of a network.
    FileError
        If the file is broken.
    """
    if os.path.lexists(result):
        place = inside(Path(result), BEST)
        return _source_of(load_best(place), place, trust_code)
    from nni_cream import spaces

    if str(result) not in spaces.list_networks():
        raise ConfigError(
            f"{result}: there is no such file or folder, nor a published network of this name; expected a best.json, "
            f"the output folder of a search, or one of {', '.join(spaces.list_networks())}."
        )
    network = spaces.published(str(result))
    return Source(network.space, network.choices, network.macs, "macs", None, None)


def _source_of(best: Best, place: Path, trust_code: bool) -> Source:
    return Source(best.space, best.choices, best.cost, best.cost_name, best.accuracy, place, best, trust_code)


def best_teacher(source: Source) -> Source:
    """Find the best other entry of the board that an architecture comes from.

    Parameters
    ----------
    source
        The architecture.

    Returns
    -------
    Source
        The most accurate entry in ``pareto/`` with another path.

    Raises
    ------
    ConfigError
        If there is none.
    """
    folder = None if source.place is None else source.place.parent / PARETO
    found = [] if folder is None else [(load_best(path), path) for path in sorted(folder.glob("*.json"))]
    others = [(best, path) for best, path in found if best.choices != source.choices]
    if not others:
        raise ConfigError(
            "recipe.teacher is board; expected a folder with other entries of a board, and "
            f"{folder or 'a published network'} has none. Give the output folder of a search as RESULT, or name "
            "another result as the teacher."
        )
    return _source_of(*max(others, key=lambda item: item[0].accuracy), source.trust_code)
