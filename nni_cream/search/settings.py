"""The settings of a search: one small object a room, each option declared once with its default.

Neither torch nor NNI is imported here: the configuration derives its keys from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from schema import Schema

from nni_cream.errors import ConfigError, SearchError
from nni_cream.options import (
    FLAG,
    FRACTION,
    IMPORTABLE,
    NOTHING,
    RANGE,
    RANGES,
    SIZES,
    TEXT,
    Options,
    Rule,
    checked,
    named,
    number,
    one_of,
    option,
    several,
    whole,
)

if TYPE_CHECKING:
    from nni_cream.search.cost.latency.latency_table import LatencyTable

__all__ = ["COST_NAMES", "LatencyOptions", "Scoring", "SearchSettings", "Teaching"]

COST_NAMES = ("macs", "params", "latency")
_COST = one_of(*COST_NAMES) | IMPORTABLE
# Options that came later, each with what searches did before: their checkpoints can still be resumed.
_LATER = {"teaching": {"share": 1.0}}
_SHARES = ("top1", "balanced_accuracy", "binary", "multilabel", "miou")  # scores between 0 and 1
_MAPPING = Rule(Schema({}), "a mapping of the keys below")


@dataclass(frozen=True)
class Teaching(Options):
    """How a teacher teaches (paper, section 3.3). The defaults are the preset ``"careful"``.

    The preset ``"paper"`` is the paper's way; docs/evidence.md compares the two.

    Examples
    --------
    >>> Teaching.of("paper")
    Teaching(joint_loss='mix', start=None, gate=False, weights='current', share=1.0, temperature=1.0)
    >>> Teaching(temperature=0)
    Traceback (most recent call last):
    nni_cream.errors.ConfigError: teaching.temperature is 0; expected a number above 0.
    """

    prefix: ClassVar[str] = "teaching."
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "careful": {},
        "paper": {"joint_loss": "mix", "start": None, "gate": False, "weights": "current", "share": 1.0},
    }

    joint_loss: str = option(
        "add",
        one_of("mix", "add"),
        "How the two losses are joined: `mix`, the paper's [rho KD + (2 - rho) CE] / 2, or `add`, CE + rho KD.",
    )
    start: int | float | None = option(
        0.5,
        whole(0) | FRACTION | NOTHING,
        "Training before there are teachers: epochs, or a share of all; null starts with the board. "
        "Teaching never starts before the end of `warmup`.",
    )
    # A teacher that is worse on the batch would pull the student down.
    gate: bool = option(
        True, FLAG, "Distil only on batches where the teacher has a higher mean score than the student."
    )
    weights: str = option(
        "average",
        one_of("current", "average"),
        "Weights that teachers run with: the current ones, or their moving average (needs `ema_decay`).",
    )
    share: float = option(
        0.125,
        number(0, 1, above=True),
        "Share of the training steps that have a teacher, at even distances. Its forward pass is what teaching costs.",
    )
    temperature: float = option(
        1.0,
        number(0, above=True),
        "Both outputs are divided by it in soft_cross_entropy; the loss is multiplied by its square "
        "(Hinton et al., 2015).",
    )


@dataclass(frozen=True)
class Scoring(Options):
    """Cost of scoring paths: how many images, how often (METHOD.md, "Validation, cheaply and fairly")."""

    prefix: ClassVar[str] = "scoring."

    # Memory holds these for the whole search.
    images: int = option(2048, whole(2), "Validation images that score a candidate, the same for all candidates.")
    interval: int | None = option(
        None,
        whole(1) | NOTHING,
        "Training steps between two candidates once the board is full; null: 0.05 images are scored for each image "
        "trained on, one or two per cent of the cost.",
    )
    proposals: str = option(
        "predicted",
        one_of("trained", "predicted"),
        "Which paths are scored: of those `trained` since the last scoring, the one of the lowest loss; `predicted`: "
        "every second time, and at the end of the search, the best that the predictor knows of.",
    )
    rescore_interval: int | None = option(
        1, whole(1) | NOTHING, "Epochs between two rescorings of the board; null for never."
    )
    recalibration_images: int = option(
        2048, whole(2), "Training images that estimate BatchNorm statistics of each entry for its final validation."
    )


@dataclass(frozen=True)
class LatencyOptions(Options):
    """The options of :class:`~nni_cream.search.LatencySettings`.

    In Python ``table`` is a :class:`~nni_cream.search.LatencyTable`, in a file the path of one.
    """

    prefix: ClassVar[str] = "latency."

    device: str = option(
        "auto",
        TEXT,
        "`auto` (a GPU if there is one, else the CPU), a device of torch such as `cuda:0`, or the name in your table.",
    )
    table: LatencyTable | None = option(
        None,
        TEXT | NOTHING,
        "JSON file of `nni-cream latency`, or of your own; null to measure when the search starts.",
        plain=False,
    )
    batch_size: int | None = option(None, whole(1) | NOTHING, "Images at once; null for 1, or for the table's.")
    threads: int | None = option(
        None, whole(1) | NOTHING, "Threads of the CPU; null for those of the process, or for the table's."
    )
    warmup: int = option(3, whole(0), "Runs of each block before the clock counts.")
    repeats: int = option(11, whole(1), "Runs that the clock counts; the latency is their median.")
    paths: int = option(30, whole(3), "Random whole networks that fit the table, and as many that check it.")
    image_sizes: tuple[int, ...] | list[int] | None = option(
        None,
        SIZES | NOTHING,
        "Sides in pixels to measure at, with interpolation between them; null for that of the images.",
    )


@dataclass(frozen=True)
class SearchSettings(Options):
    """Everything that decides a search, apart from the space, the data and the user's own training recipe."""

    board_size: int = option(10, whole(1), "K, entries on the prioritized path board (paper: 10).")
    matching: Any = option(
        "meta",
        named("meta", "random", "best", "none"),
        "Who picks the teacher from the board: the meta network, chance, the best entry, or no teachers (SPOS).",
        plain=False,
    )
    cost: Any = option(
        "macs",
        _COST | several(_COST),
        "Cost of a path: multiply-adds of one image, parameters, seconds, or your `function(network, inputs)`; the "
        "first of several is the primary one.",
        plain=False,
    )
    cost_range: Any = option(None, RANGE | NOTHING | RANGES, "Only paths within these costs are sampled.", plain=False)
    # Python takes larger ones for scores in other units, such as the error of a regression.
    margin: float = option(
        0.05, number(0, 1), "Accuracy gap above which a costlier candidate may replace the weakest entry.", plain=False
    )
    warmup: int | float = option(
        1 / 6, whole(0) | FRACTION, "Training before the board starts: epochs, or a share of all (paper: 20 of 120)."
    )
    teaching: Any = option(
        "careful", one_of("careful", "paper") | _MAPPING, "How teachers teach.", plain=False, nested=Teaching
    )
    scoring: Any = option(Scoring(), _MAPPING, "How paths are scored, and how often.", plain=False, nested=Scoring)
    score: Any = option(
        "top1",
        one_of("top1", "balanced_accuracy", "binary", "multilabel", "miou", "negative_squared_error") | IMPORTABLE,
        "Score of a path: a mean over samples, or `balanced_accuracy` or `miou` of all; higher is better.",
        plain=False,
    )
    distillation: Any = option(
        "soft_cross_entropy",
        one_of("soft_cross_entropy", "binary_cross_entropy", "mean_squared_error") | IMPORTABLE,
        "Loss between the student's and the teacher's output.",
        plain=False,
    )
    sampling: Any = option("uniform", named("uniform"), "How paths are drawn.", plain=False)
    # The paper's 0.9998 suits its 150,000 steps; a short search would average its random start.
    ema_decay: float | None = option(
        0.99,
        number(0, 1, above=True, below=True) | NOTHING,
        "Decay of an average of the supernet's weights (paper: 0.9998), for averaged teachers, the final validation "
        "and the weights that are kept; null for none.",
    )
    seed: int = option(
        0, whole(0, bits=63), "Decides paths, teachers and the validation subset; in a file, weights and data, too."
    )
    latency: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # No rule of a single option can see these: they join two.
        rule = number(0, 1) if self.score.name in _SHARES else number(0)
        object.__setattr__(self, "margin", checked("margin", self.margin, rule))
        if self.teaching.weights == "average" and self.ema_decay is None:
            raise ConfigError(
                "teaching.weights is 'average'; expected 'current', since ema_decay is None. Set ema_decay, such as "
                "0.99, or teaching.weights to 'current'."
            )
        if self.teaching.temperature != 1 and self.distillation.name != "soft_cross_entropy":
            raise ConfigError(
                f"teaching.temperature is {self.teaching.temperature!r}; expected 1, since distillation "
                f"{self.distillation.name!r} has no temperature. Leave it out, or take 'soft_cross_entropy'."
            )

    def outline(self) -> dict[str, Any]:
        """Return the settings as plain values, functions and objects by their names."""
        plain = {item.name: _outlined(getattr(self, item.name)) for item in fields(self)}
        # A search that measures no latency may resume whatever its latency options say.
        plain["latency"] = self.latency.outline() if "latency" in self.cost else None
        return plain

    def check_same(self, saved: Mapping[str, Any]) -> None:
        """Raise SearchError, with names and values, if a checkpoint has other settings."""
        own = self.outline()
        saved = {name: {**_LATER[name], **value} if name in _LATER else value for name, value in saved.items()}
        # Other settings would give a result that neither search alone gives, with no trace of it.
        different = [name for name in own if name not in saved or saved[name] != own[name]]
        if different:
            listed = "; ".join(f"{name} was {saved.get(name)!r} and is {own[name]!r}" for name in different)
            raise SearchError(
                f"the checkpoint belongs to a search with other settings: {listed}. Resume with the settings that the "
                "search was started with, or start anew."
            )


def _outlined(value: Any) -> Any:
    """Return plain values as they are, an object or a function by its name and its public attributes."""
    if isinstance(value, list | tuple):
        return [_outlined(item) for item in value]
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Options):
        return asdict(value)  # type: ignore[call-overload]
    name = str(getattr(value, "name", None) or getattr(value, "__qualname__", type(value).__qualname__))
    # Two objects of one class may differ only in their options; private state moves and must not count.
    own = {
        key: item
        for key, item in getattr(value, "__dict__", {}).items()
        # The seed of the search is given to a matcher when it begins; it is no option of the matcher.
        if not key.startswith("_") and key != "seed"
    }
    return {"name": name} | {key: item for key, item in own.items() if isinstance(item, str | int | float | None)}
