"""The truth that one-shot scores are compared with: architectures of a space, each trained alone with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nni_cream import spaces
from nni_cream.errors import CreamError, FileError, StudyError
from nni_cream.files import read_json
from nni_cream.json_reader import NAMED, NOT_NEGATIVE, OBJECT, SHARE, WHOLE, Fields, format_of, nullable, one_or_more
from nni_cream.options import TEXT
from nni_cream.search import CostModel, RandomPaths, Supernet, decode_path, encode_path, path_key
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.encoded_path import PATH_FIELDS
from nni_cream.strategy import CreamStrategy
from nni_cream.studies.correlation import FEWEST, reliability
from nni_cream.studies.jobs import Job, Records
from nni_cream.studies.outcomes import ALONE
from nni_cream.studies.parts import StudyParts, load_parts
from nni_cream.studies.stand_alone import train_alone

__all__ = [
    "Truth",
    "canonical_paths",
    "draw_architectures",
    "gather_truth",
    "load_truth",
    "read_architectures",
    "truth_jobs",
]

_KIND = "truth"
_FIELDS: dict[str, Fields] = {
    "kind": format_of(_KIND),
    "space": NAMED,
    "data": {**NAMED, "fingerprint": nullable(TEXT), "judging_images": WHOLE},
    "recipe": OBJECT,
    "seeds": one_or_more(WHOLE),
    "architectures": [{"choices": PATH_FIELDS, "accuracies": {str: SHARE}, "macs": NOT_NEGATIVE}],
}
work = train_alone


@dataclass(frozen=True, eq=False)
class Truth:
    """Accuracies of architectures that were trained alone.

    Parameters
    ----------
    space
        ``name`` and ``arguments``.
    data
        ``name``, ``arguments``, ``fingerprint`` and ``judging_images``; of others' images no
        fingerprint is known.
    recipe
        How each was trained.
    seeds
        All seeds of the study.
    architectures
        Their choices.
    accuracies
        Seed to accuracy on the judging images, for each architecture. Missing seeds are left out.
    macs
        Multiply-adds of each for one image.
    made_by
        Command, date and versions.
    """

    space: Mapping[str, Any]
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    seeds: tuple[int, ...]
    architectures: tuple[Mapping[str, Any], ...]
    accuracies: tuple[Mapping[int, float], ...]
    macs: tuple[float, ...]
    made_by: Mapping[str, Any]

    @property
    def known(self) -> list[int]:
        """Numbers of the architectures with all seeds."""
        return [number for number, own in enumerate(self.accuracies) if all(seed in own for seed in self.seeds)]

    def part(self, number: int | None) -> Truth:
        """Return the truth of some architectures that are known with all seeds, drawn with seed 0; of all for ``None``.

        Raises :class:`~nni_cream.errors.StudyError` if there are fewer.
        """
        if number is None:
            return self
        if number > len(self.known):
            raise StudyError(
                f"study.scored is {number}; expected at most {len(self.known)}, the architectures of the truth with "
                "all seeds, or null for all of them."
            )
        return self.at(sorted(np.random.default_rng(0).choice(self.known, size=number, replace=False)))

    def at(self, places: Sequence[int]) -> Truth:
        """Return the truth of the architectures with these numbers."""
        return replace(
            self,
            architectures=tuple(self.architectures[place] for place in places),
            accuracies=tuple(self.accuracies[place] for place in places),
            macs=tuple(self.macs[place] for place in places),
        )

    @property
    def complete(self) -> bool:
        """Whether every training is done."""
        return len(self.known) == len(self.architectures)

    @property
    def table(self) -> NDArray[np.float64]:
        """Accuracies of the known architectures, shape (architectures, seeds)."""
        return np.array([[self.accuracies[number][seed] for seed in self.seeds] for number in self.known])

    @property
    def means(self) -> list[float]:
        """Mean accuracy over the seeds for each known architecture."""
        return [float(value) for value in self.table.mean(axis=1)] if self.known else []

    @property
    def reliability(self) -> float | None:
        """Reliability of the means (Spearman-Brown), or ``None`` where it is undefined."""
        table = self.table
        if len(table) < FEWEST or len(self.seeds) < 2 or (table == table[0]).all(axis=0).any():
            return None
        return reliability(table)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "kind": _KIND,
            "complete": self.complete,
            "reliability": self.reliability,
            "space": dict(self.space),
            "data": dict(self.data),
            "recipe": dict(self.recipe),
            "seeds": list(self.seeds),
            **self.made_by,
            "architectures": [
                {
                    "choices": dict(choices),
                    "accuracies": {str(seed): value for seed, value in own.items()},
                    "macs": macs,
                }
                for choices, own, macs in zip(self.architectures, self.accuracies, self.macs, strict=True)
            ],
        }

    @property
    def trained_here(self) -> bool:
        """Whether its architectures were trained on known images; a table of others says nothing of them."""
        return self.data["fingerprint"] is not None

    def fitted(self, space: Mapping[str, Any], parts: StudyParts | None) -> Truth:
        """Check that scores of a space on these images can be compared with this truth; return it in canonical paths.

        A truth of others is compared without images, so ``parts`` may be ``None`` there. Of the arguments of its space
        only those count that it names.
        Raises :class:`~nni_cream.errors.StudyError` if the space or the images differ, an architecture is not of the
        space or is there twice, fewer than ten are known, or all accuracies are equal.
        """
        own_space: Any = dict(self.space)
        other: Any = dict(space)
        if not self.trained_here:
            given = space["arguments"]
            other["arguments"] = {key: given[key] for key in own_space["arguments"] if key in given}
            if own_space["name"] != other["name"]:
                own_space, other = own_space["name"], other["name"]
        if own_space != other:
            raise StudyError(
                f"the space of the truth is {own_space}; expected {other}, as configured. Take the truth of that "
                "space, or make one with `nni-cream study truth`."
            )
        if self.trained_here:
            assert parts is not None
            self._check_images(parts)
        if len(self.known) < FEWEST:
            raise StudyError(
                f"the truth has {len(self.known)} architectures with all seeds; expected at least {FEWEST}. Train the "
                "missing ones with `nni-cream study truth`."
            )
        if len(set(self.means)) == 1:
            raise StudyError(
                f"all {len(self.known)} accuracies of the truth are {self.means[0]:g}; expected different ones, since "
                "tau is undefined. Make a truth with longer training, or with a space whose operations differ more."
            )
        names = [f"the truth's architecture {number}" for number in range(len(self.architectures))]
        return replace(self, architectures=tuple(different_paths(self.architectures, space, names)))

    def _check_images(self, parts: StudyParts) -> None:
        own, found = self.data["fingerprint"], parts.splits.fingerprint
        if own != found or self.data["judging_images"] != len(parts.indices["judging"]):
            raise StudyError(
                f"the truth was measured on other images: data hash {own[:12]}... with {self.data['judging_images']} "
                f"judging images; expected {found[:12]}... with {len(parts.indices['judging'])}. Use the same `data` "
                "and `study.judging_images`, or make a truth on these images with `nni-cream study truth`."
            )


def draw_architectures(space: Mapping[str, Any], number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw different architectures uniformly from a space, as JSON-safe choices.

    Raises :class:`~nni_cream.errors.StudyError` if the space has fewer than ``number``.
    """
    sampler = RandomPaths(spaces.create(space["name"], **space["arguments"]), seed)
    found: dict[str, dict[str, Any]] = {}
    for _ in range(100 * number):
        path = sampler.draw()
        found.setdefault(path_key(path), encode_path(path))
        if len(found) == number:
            return list(found.values())
    raise StudyError(
        f"study.architectures is {number}; expected at most {len(found)}, the different ones that were found. Ask for "
        "fewer."
    )


def read_architectures(path: Path, space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read a JSON list of architectures, each a mapping of labels to choices.

    Raises :class:`~nni_cream.errors.StudyError` if one of them is not of the space, or is listed twice.
    """
    hint = "Name it with study.architectures, or give their number."
    content: list[dict[str, Any]] = read_json(path, "a list of architectures", hint, [PATH_FIELDS])
    return different_paths(content, space, [f"{path}: architecture {number}" for number in range(len(content))])


def different_paths(
    architectures: Sequence[Mapping[str, Any]], space: Mapping[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return canonical paths, as JSON-safe choices.

    Raises :class:`~nni_cream.errors.StudyError`, with the name of the first that is not of the space or is there twice.
    """
    paths = canonical_paths(architectures, space, names)
    first: dict[str, str] = {}
    for name, key in zip(names, map(path_key, paths), strict=True):
        if first.setdefault(key, name) != name:
            raise StudyError(
                f"{name} is the same as {first[key]}; expected different ones, and unused choices do not count. Keep "
                "one of them."
            )
    return paths


def canonical_paths(
    architectures: Sequence[Mapping[str, Any]], space: Mapping[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Do the same where architectures may be there twice."""
    built = spaces.create(space["name"], **space["arguments"])
    mutables, usage = built.simplify(), Usage(built)
    paths = []
    for name, choices in zip(names, architectures, strict=True):
        try:
            paths.append(encode_path(usage.canonical(decode_path(choices, mutables))))
        except CreamError as error:
            raise StudyError(f"{name} is not of the space: {error}") from error
    return paths


def truth_jobs(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Job]]:
    """List what all trainings of a truth share, and the trainings: all with the first seed, then with the next."""
    wanted = config["study"]["architectures"]
    number = isinstance(wanted, int)
    paths = draw_architectures(config["space"], wanted) if number else read_architectures(Path(wanted), config["space"])
    shared = {
        "study": _KIND,
        "space": config["space"],
        "data": config["data"],
        "judging_images": config["study"]["judging_images"],
        "recipe": config["recipe"],
        "accelerator": config["trainer"]["accelerator"],
    }
    jobs = [
        Job(f"{number:03d} seed {seed}", {"path": path, "seed": seed}, ALONE)
        for seed in config["study"]["seeds"]
        for number, path in enumerate(paths)
    ]
    return shared, jobs


def gather_truth(config: Mapping[str, Any], jobs: Sequence[Job], records: Records, made_by: Mapping[str, Any]) -> Truth:
    """Build the truth from the records that exist. ``made_by`` is added to its file."""
    parts = load_parts(config["data"], config["study"]["judging_images"])
    results = records.results(jobs)
    paths: dict[str, Mapping[str, Any]] = {}
    accuracies: dict[str, dict[int, float]] = {}
    for job in jobs:
        key = path_key(job.arguments["path"])
        paths[key] = job.arguments["path"]
        own = accuracies.setdefault(key, {})
        if job.key in results:
            own[job.arguments["seed"]] = results[job.key]["accuracy"]
    splits = parts.splits
    return Truth(
        space=config["space"],
        data={
            "name": splits.name,
            "arguments": {key: value for key, value in splits.arguments.items() if key != "root"},
            "fingerprint": splits.fingerprint,
            "judging_images": len(parts.indices["judging"]),
        },
        recipe=config["recipe"],
        seeds=tuple(config["study"]["seeds"]),
        architectures=tuple(paths.values()),
        accuracies=tuple(accuracies.values()),
        macs=tuple(_count_macs(config["space"], list(paths.values()), splits.input_shape)),
        made_by=made_by,
    )


def _count_macs(space: Mapping[str, Any], paths: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> list[float]:
    supernet = Supernet(CreamStrategy(board_size=1).mutate_model(spaces.create(space["name"], **space["arguments"])))
    cost = CostModel(supernet, (torch.zeros(1, *shape),))
    return [cost(supernet.decode(path)) for path in paths]


def load_truth(path: str | Path) -> Truth:
    """Read the file of ``nni-cream study truth``; the ``FileError`` names the first wrong key."""
    hint = "`nni-cream study truth CONFIG.yml --out DIR` makes a truth."
    content = read_json(Path(path), "a truth", hint, _FIELDS)
    seeds, items = tuple(content["seeds"]), content["architectures"]
    if len(set(seeds)) < len(seeds):
        raise FileError(f"{path}: seeds are {list(seeds)}; expected different ones. {hint}")
    return Truth(
        space=content["space"],
        data={key: content["data"][key] for key in _FIELDS["data"]},
        recipe=content["recipe"],
        seeds=seeds,
        architectures=tuple(item["choices"] for item in items),
        accuracies=tuple(
            {seed: float(item["accuracies"][str(seed)]) for seed in seeds if str(seed) in item["accuracies"]}
            for item in items
        ),
        macs=tuple(float(item["macs"]) for item in items),
        made_by={key: content[key] for key in ("command", "date", "versions") if key in content},
    )
