"""The method: board, teaching, scoring, sampling, cost and the training step that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nni_cream.lazy_names import lazy_names

if TYPE_CHECKING:
    from nni_cream.search.board import BoardEntry, BoardEvent, PrioritizedBoard, Verdict
    from nni_cream.search.cost.cost_model import CostModel
    from nni_cream.search.cost.costs import Costs
    from nni_cream.search.cost.latency.latency_model import LatencyModel
    from nni_cream.search.cost.latency.latency_table import LatencyTable
    from nni_cream.search.cost.latency.stopwatch import LatencySettings
    from nni_cream.search.cost.latency.table_measurement import measure_table
    from nni_cream.search.loop.statistics import Tally, Teacher
    from nni_cream.search.loop.step import CreamLightningModule
    from nni_cream.search.paths.choices import Options, decode_path
    from nni_cream.search.paths.cost_limits import Limit
    from nni_cream.search.paths.cost_table import CostTable
    from nni_cream.search.paths.encoded_path import Path, encode_path, path_key
    from nni_cream.search.paths.random_paths import RandomPaths
    from nni_cream.search.sampling.samplers import PathSampler
    from nni_cream.search.scoring.candidates import CandidateWindow, rescored_entries, scoring_interval
    from nni_cream.search.scoring.final_validation import Finalist, finalise, validate_path
    from nni_cream.search.scoring.scorer import PathScorer
    from nni_cream.search.scoring.scores import Score
    from nni_cream.search.scoring.validation_subset import ValidationSubset
    from nni_cream.search.settings import Scoring, SearchSettings, Teaching
    from nni_cream.search.supernet.supernet import FreezableCell, Supernet
    from nni_cream.search.teaching.losses import Distillation
    from nni_cream.search.teaching.matchers import BestMatcher, Match, Matcher, MetaMatcher, NoMatcher, RandomMatcher

__all__ = [
    "BestMatcher",
    "BoardEntry",
    "BoardEvent",
    "CandidateWindow",
    "CostModel",
    "CostTable",
    "Costs",
    "CreamLightningModule",
    "Distillation",
    "Finalist",
    "FreezableCell",
    "LatencyModel",
    "LatencySettings",
    "LatencyTable",
    "Limit",
    "Match",
    "Matcher",
    "MetaMatcher",
    "NoMatcher",
    "Options",
    "Path",
    "PathSampler",
    "PathScorer",
    "PrioritizedBoard",
    "RandomMatcher",
    "RandomPaths",
    "Score",
    "Scoring",
    "SearchSettings",
    "Supernet",
    "Tally",
    "Teacher",
    "Teaching",
    "ValidationSubset",
    "Verdict",
    "decode_path",
    "encode_path",
    "finalise",
    "measure_table",
    "path_key",
    "rescored_entries",
    "scoring_interval",
    "validate_path",
]

__getattr__ = lazy_names(
    __name__,
    {
        "nni_cream.search.board": "BoardEntry BoardEvent PrioritizedBoard Verdict",
        "nni_cream.search.cost.cost_model": "CostModel",
        "nni_cream.search.cost.costs": "Costs",
        "nni_cream.search.cost.latency.latency_model": "LatencyModel",
        "nni_cream.search.cost.latency.latency_table": "LatencyTable",
        "nni_cream.search.cost.latency.stopwatch": "LatencySettings",
        "nni_cream.search.cost.latency.table_measurement": "measure_table",
        "nni_cream.search.loop.statistics": "Tally Teacher",
        "nni_cream.search.loop.step": "CreamLightningModule",
        "nni_cream.search.paths.choices": "Options decode_path",
        "nni_cream.search.paths.cost_table": "CostTable",
        "nni_cream.search.paths.encoded_path": "Path encode_path path_key",
        "nni_cream.search.paths.cost_limits": "Limit",
        "nni_cream.search.paths.random_paths": "RandomPaths",
        "nni_cream.search.sampling.samplers": "PathSampler",
        "nni_cream.search.scoring.candidates": "CandidateWindow rescored_entries scoring_interval",
        "nni_cream.search.scoring.final_validation": "Finalist finalise validate_path",
        "nni_cream.search.scoring.scorer": "PathScorer",
        "nni_cream.search.scoring.scores": "Score",
        "nni_cream.search.scoring.validation_subset": "ValidationSubset",
        "nni_cream.search.settings": "Scoring SearchSettings Teaching",
        "nni_cream.search.supernet.supernet": "FreezableCell Supernet",
        "nni_cream.search.teaching.losses": "Distillation",
        "nni_cream.search.teaching.matchers": "BestMatcher Match Matcher MetaMatcher NoMatcher RandomMatcher",
    },
)
