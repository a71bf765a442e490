"""The published procedure, transcribed, for benchmarks/step_cost.py.

Its meta update differentiates through the virtual step by double back-propagation. For each match, probe images pass
through every entry of the board again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nni_cream.search.scoring.validation_subset import parts_by_turns
from nni_cream.search.supernet.forward_recorder import muted, observed
from nni_cream.search.supernet.outputs import main_output

__all__ = ["transcribe", "unrolled_update"]


def transcribe(module: Any) -> None:
    """From now on let a search follow the published procedure."""
    pick = module.matcher.pick

    def forwarding(path: Any, entries: Any) -> Any:
        module.matcher.forget()  # each entry's output is computed again
        return pick(path, entries)

    module.matcher.pick = forwarding
    _make_differentiable_twice(module.supernet.space)
    module._update_matcher = lambda path, batch: unrolled_update(module, path, batch)


def _make_differentiable_twice(network: Any) -> None:
    """Let hard sigmoids compute the same in a way whose derivative torch can differentiate again."""
    for module in network.modules():
        if isinstance(module, nn.Hardsigmoid):
            module.forward = lambda inputs: nn.functional.relu6(inputs + 3) / 6


def unrolled_update(module: Any, path: Any, batch: Any) -> None:
    """One step of the meta network by differentiating through the virtual SGD step of the weights."""
    match = module.matcher.pick(path, module.board.entries)
    network = module.supernet.space
    module.supernet.activate(path)
    with muted(module.training_module), module.supernet.detached(grad=True):
        with observed(network) as calls:
            task_loss = module._task_loss(batch)
        distillation_loss = module.distiller.teach(path, match, calls, batch).loss
        module.supernet.activate(path)
        rho = module.matcher.weight(match)
        loss = (rho * distillation_loss + (2 - rho) * task_loss) / 2
        named = {name: item for name, item in network.named_parameters() if item.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True, allow_unused=True)
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        moved = {
            name: item if gradient is None else item - rate * gradient
            for (name, item), gradient in zip(named.items(), gradients, strict=True)
        }
        # The images of ours, so that the same is compared.
        images, labels = next(parts_by_turns(*module.scorer.subset.chunks[0], at_once=module._batch_size))
        logits = main_output(torch.func.functional_call(network, moved, (images,)))
        validation_loss = torch.nn.functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(validation_loss, rho)
        module.matcher.update(match, float(gradient))
