"""What a space changes on a layer after it is built, such as ``norm.eps = 1e-3`` or a zero gamma."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nni_cream.errors import SpaceError
from nni_cream.rng import preserved_rng
from nni_cream.search.supernet.layers.layer_sizes import (
    Combination,
    Cut,
    LayerSizes,
    cuts_of,
    plain_attributes,
    same,
    shapes_of,
    sliced,
)

__all__ = ["keep_changes"]


def keep_changes(layer: nn.Module, original: nn.Module, sizes: LayerSizes) -> None:
    """Give a layer of all sizes what the space changed on the layer that it replaces.

    Parameters
    ----------
    layer
        The layer with weights of the largest sizes.
    original
        The layer that the space built, of the sizes of the first choices.
    sizes
        All sizes of the layer; it learns the attributes that the space added, and the weights of which only the values
        of some sizes are kept.

    Raises
    ------
    SpaceError
        If something cannot be kept: hooks, parametrizations, other weights, or an attribute that a choice decides.
    """
    combination = _combination_of(original, sizes)
    weights = [*original.parameters()]
    if weights:
        # Also those that only other sizes have.
        layer.to(weights[0]).requires_grad_(any(weight.requires_grad for weight in weights))
    for path, module in original.named_modules():
        _keep_attributes(layer.get_submodule(path), path, module, sizes, combination)
    # The fresh layer is only for comparison, so the space's random numbers stay as they were.
    with preserved_rng():
        fresh = sizes.fresh(combination)
    names = [name for name in combination.shapes if not _keep_values(layer, original, fresh, name, sizes)]
    sizes.partly_kept = f"{sizes.title}: {', '.join(names)}" if names else None


def _combination_of(original: nn.Module, sizes: LayerSizes) -> Combination:
    """Find the combination that the space built; raise ``SpaceError`` if there is none."""
    shapes = shapes_of(original)
    fitting = [item for item in sizes.combinations if item.shapes == shapes]
    if not fitting:
        raise SpaceError(
            f"{sizes.title} holds {[*shapes]} with other names or shapes than its arguments give "
            f"({[*sizes.combinations[0].shapes]}); a supernet builds it of its arguments, so set these instead"
        )
    attributes = {path: plain_attributes(module) for path, module in original.named_modules()}
    changes = [_decided_changes(attributes, item, sizes) for item in fitting]
    fewest = min(changes, key=len)
    if fewest:
        raise SpaceError(
            f"{sizes.title}: {fewest[0]} was changed after it was built, but a choice decides it; change the values "
            "of the choice instead"
        )
    return fitting[changes.index(fewest)]


def _decided_changes(attributes: dict[str, dict[str, Any]], item: Combination, sizes: LayerSizes) -> list[str]:
    return [
        f"{path}.{name}".lstrip(".")
        for path, own in item.attributes.items()
        for name in own.keys() - set(sizes.shared[path])
        if path not in attributes or not same(attributes[path].get(name), own[name])
    ]


def _keep_attributes(own: nn.Module, path: str, module: nn.Module, sizes: LayerSizes, combination: Combination) -> None:
    if any(name.endswith("hooks") and value for name, value in vars(module).items()):
        raise SpaceError(
            f"{sizes.title} has hooks, which would be lost when a path is frozen; register them on a module around it"
        )
    attributes = plain_attributes(module)
    added = [name for name in attributes if name not in combination.attributes.get(path, ())]
    if "forward" in added or path not in combination.attributes:
        raise SpaceError(f"{sizes.title}: its parts or its forward were replaced, which a frozen path would not have")
    sizes.shared[path] += added
    own.__dict__.update({name: attributes[name] for name in sizes.shared[path] if name in attributes})


@torch.no_grad()
def _keep_values(layer: nn.Module, original: nn.Module, fresh: nn.Module, name: str, sizes: LayerSizes) -> bool:
    """Copy a weight or buffer into the layer; return whether the layer has the space's values everywhere."""
    path, _, leaf = name.rpartition(".")
    source, target = (_tensor(module, path, leaf) for module in (original, layer))
    if source.dtype != target.dtype or source.device != target.device:
        target.data = target.data.to(source)
    target.requires_grad_(source.requires_grad)
    if source.shape == target.shape:
        target.copy_(source)
        return True
    # A single random value is no constant, but one that torch sets to a constant itself is.
    if _constant(source) and (source.numel() > 1 or _constant(target)):
        target.fill_(source.flatten()[0])
        return True
    cuts = cuts_of(original.get_submodule(path), leaf, source.shape, target.shape)
    _paste(target, cuts, source)
    return _alike(source, _tensor(fresh, path, leaf))


def _tensor(module: nn.Module, path: str, leaf: str) -> Tensor:
    owner = module.get_submodule(path)
    tensor = owner._parameters[leaf] if leaf in owner._parameters else owner._buffers[leaf]
    assert tensor is not None
    return tensor


def _constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())


def _paste(target: Tensor, cuts: list[Cut], source: Tensor) -> None:
    if all(parts == 1 for _, parts, _, _ in cuts):
        place = sliced(target, cuts)
        assert place is not None
        place.copy_(source)
        return
    # By position: a slice of several blocks is a copy, so it cannot be written through.
    places = sliced(torch.arange(target.numel(), device=target.device).view(target.shape), cuts)
    assert places is not None
    target.view(-1)[places.flatten()] = source.flatten()


def _alike(values: Tensor, fresh: Tensor) -> bool:
    """Return whether values may be torch's own initial ones, by their mean and spread."""
    count = values.numel()
    if count < 4:
        return True  # too few to say
    spread, expected = float(values.float().std()), float(fresh.float().std())
    if not expected or not spread:
        return spread == expected
    shift = abs(float(values.float().mean() - fresh.float().mean()))
    # Wide for few values: a warning about torch's own would be noise.
    return abs(math.log(spread / expected)) < 0.1 + 6 / math.sqrt(count) and shift < 8 * max(
        spread, expected
    ) / math.sqrt(count)
