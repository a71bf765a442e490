"""The end of a search: the final validation of the board, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from nni_cream.data import DataSplits
from nni_cream.errors import FileError
from nni_cream.files import replacing, write_json
from nni_cream.from_config import scored_at_once
from nni_cream.results.architecture_file import Best
from nni_cream.results.board_file import board_file
from nni_cream.results.output_folder import OutputFolder
from nni_cream.results.rebuilt_network import build_network
from nni_cream.rng import preserved_rng
from nni_cream.search import Finalist, encode_path
from nni_cream.search.supernet.copies import copied
from nni_cream.search.supernet.verify import Inputs, named_as_in, same_network
from nni_cream.strategy import CreamStrategy
from nni_cream.training import Loading, make_loader
from nni_cream.versions import versions

__all__ = ["finish_search"]


def finish_search(
    config: Mapping[str, Any],
    splits: DataSplits,
    strategy: CreamStrategy,
    folder: OutputFolder,
    cost_name: str,
    console: Console | None = None,
) -> tuple[Best, dict[str, Any]]:
    """Validate the board's entries, choose the best, and write everything down; ``best.json`` last.

    The same weights give the same files: a search that is killed in here resumes from its last checkpoint, and does all
    of this again.

    Parameters
    ----------
    config
        Resolved configuration.
    splits
        The images.
    strategy
        Of the search, whose training is over.
    folder
        Where to write.
    cost_name
        What a path's cost counts.
    console
        Where to show progress; nowhere without it.

    Returns
    -------
    tuple
        The chosen architecture, and the content of ``board.json``.

    Raises
    ------
    CreamError
        If the board is empty, an accuracy is not finite, or a file cannot be written.
    """
    finalists = _finalists(config, splits, strategy, console)
    choices = strategy.oneshot_module.predictor.to_json()
    board = board_file(strategy.board, cost_name, config["search"]["epochs"], choices)
    write_json(folder.board, board)
    found = {finalist.entry.key: finalist for finalist in finalists}
    front = [found[entry.key] for entry in strategy.board.pareto()]
    images = next(iter(make_loader(splits.validation, 2)))[0]
    _save_front(folder.pareto, [(_describe(config, splits, cost_name, one), one) for one in front], images)
    chosen = finalists[0]
    best = _describe(config, splits, cost_name, chosen)
    _save_weights(folder.weights, best, chosen, images)
    best.save(folder.best)
    folder.finish()
    return best, board


def _finalists(
    config: Mapping[str, Any], splits: DataSplits, strategy: CreamStrategy, console: Console | None
) -> tuple[Finalist, ...]:
    settings, loading = config["search"], Loading(**config["loader"])
    # Those of one epoch, in an order that the seed decides; the search itself may be at any place in its own.
    training = make_loader(splits.train, settings["batch_size"], shuffle=True, loading=loading)
    validation = make_loader(splits.validation, scored_at_once(settings), loading=loading)
    count = len(strategy.board)
    return strategy.finalise(
        _shown(training, f"BatchNorm of the board's {count} entries", console),
        _shown(validation, f"validation of the board's {count} entries", console),
    )


def _shown(batches: Any, title: str, console: Console | None) -> Iterable[Any]:
    if console is None or not console.is_terminal:
        return batches  # type: ignore[no-any-return]
    return track(batches, title, total=len(batches), console=console, transient=True)


def _describe(config: Mapping[str, Any], splits: DataSplits, cost_name: str, finalist: Finalist) -> Best:
    entry = finalist.entry
    return Best(
        space={"name": config["space"]["name"], "arguments": config["space"]["arguments"]},
        choices=encode_path(entry.path),
        accuracy=entry.accuracy if entry.validated is None else entry.validated,
        cost=entry.cost,
        cost_name=cost_name,
        other_costs=dict(entry.other_costs) or None,
        data={"name": config["data"]["name"], "arguments": splits.arguments, "fingerprint": splits.fingerprint},
        seed=config["search"]["seed"],
        versions=versions(),
        score=entry.accuracy,
    )


def _save_front(folder: Path, front: list[tuple[Best, Finalist]], images: Tensor) -> None:
    """Write the entries that no other one beats in both accuracy and cost, cheapest first."""
    names = [f"{number:02d}" for number in range(1, len(front) + 1)]
    try:
        folder.mkdir(exist_ok=True)
        for name, (best, finalist) in zip(names, front, strict=True):
            _save_weights(folder / f"{name}.pt", best, finalist, images)
            best.save(folder / f"{name}.json")
        for old in folder.iterdir():  # of a longer front, written by a version that rounded otherwise
            if old.stem not in names:
                old.unlink()
    except OSError as error:
        raise FileError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _save_weights(path: Path, best: Best, finalist: Finalist, images: Tensor) -> None:
    """Write weights with the names that they have in the network of the file; refuse a file of another network."""
    with preserved_rng():
        rebuilt = build_network(best, trust_code=True)  # the user's own configuration names it
    network = finalist.network.float()  # as a network is built, whatever trainer.precision says
    same_network(copied(network), rebuilt, Inputs((images,), {}), dict(finalist.entry.path))
    # A forward pass of the check in training mode has changed the statistics of this network.
    weights = named_as_in(rebuilt, network.state_dict())
    with replacing(path) as temporary:
        torch.save(weights, temporary)
