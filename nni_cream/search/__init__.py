"""The method: board, teaching, scoring, sampling, cost and the training step that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nni_cream.lazy_names import lazy_names

if TYPE_CHECKING:
    from nni_cream.search.board import BoardEntry as BoardEntry
    from nni_cream.search.board import BoardEvent as BoardEvent
    from nni_cream.search.board import PrioritizedBoard as PrioritizedBoard
    from nni_cream.search.board import Verdict as Verdict
    from nni_cream.search.cost.cost_model import CostModel as CostModel
    from nni_cream.search.cost.costs import Costs as Costs
    from nni_cream.search.cost.latency.latency_model import LatencyModel as LatencyModel
    from nni_cream.search.cost.latency.latency_table import LatencyTable as LatencyTable
    from nni_cream.search.cost.latency.stopwatch import LatencySettings as LatencySettings
    from nni_cream.search.cost.latency.table_measurement import measure_table as measure_table
    from nni_cream.search.loop.statistics import Tally as Tally
    from nni_cream.search.loop.statistics import Teacher as Teacher
    from nni_cream.search.loop.step import CreamLightningModule as CreamLightningModule
    from nni_cream.search.paths.choices import Options as Options
    from nni_cream.search.paths.choices import decode_path as decode_path
    from nni_cream.search.paths.cost_limits import Limit as Limit
    from nni_cream.search.paths.cost_table import CostTable as CostTable
    from nni_cream.search.paths.encoded_path import Path as Path
    from nni_cream.search.paths.encoded_path import encode_path as encode_path
    from nni_cream.search.paths.encoded_path import path_key as path_key
    from nni_cream.search.paths.random_paths import RandomPaths as RandomPaths
    from nni_cream.search.sampling.samplers import PathSampler as PathSampler
    from nni_cream.search.scoring.candidates import CandidateWindow as CandidateWindow
    from nni_cream.search.scoring.candidates import rescored_entries as rescored_entries
    from nni_cream.search.scoring.candidates import scoring_interval as scoring_interval
    from nni_cream.search.scoring.final_validation import Finalist as Finalist
    from nni_cream.search.scoring.final_validation import finalise as finalise
    from nni_cream.search.scoring.final_validation import validate_path as validate_path
    from nni_cream.search.scoring.scorer import PathScorer as PathScorer
    from nni_cream.search.scoring.scores import Score as Score
    from nni_cream.search.scoring.validation_subset import ValidationSubset as ValidationSubset
    from nni_cream.search.settings import Scoring as Scoring
    from nni_cream.search.settings import SearchSettings as SearchSettings
    from nni_cream.search.settings import Teaching as Teaching
    from nni_cream.search.supernet.supernet import FreezableCell as FreezableCell
    from nni_cream.search.supernet.supernet import Supernet as Supernet
    from nni_cream.search.teaching.losses import Distillation as Distillation
    from nni_cream.search.teaching.matchers import BestMatcher as BestMatcher
    from nni_cream.search.teaching.matchers import Match as Match
    from nni_cream.search.teaching.matchers import Matcher as Matcher
    from nni_cream.search.teaching.matchers import MetaMatcher as MetaMatcher
    from nni_cream.search.teaching.matchers import NoMatcher as NoMatcher
    from nni_cream.search.teaching.matchers import RandomMatcher as RandomMatcher

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
