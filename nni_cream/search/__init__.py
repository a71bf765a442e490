"""The method: board, matching, sampler, scorer, cost model and the training step that joins them."""

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
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path, encode_path, path_key
from nni_cream.search.paths.random_paths import Limit, PathSampler
from nni_cream.search.scoring.candidates import CandidateWindow, rescored_entries, scoring_interval
from nni_cream.search.scoring.final_validation import Finalist, finalise, validate_path
from nni_cream.search.scoring.scorer import PathScorer, ValidationSubset
from nni_cream.search.scoring.scores import Score
from nni_cream.search.settings import PAPER, SearchSettings
from nni_cream.search.supernet.supernet import FreezableCell, Supernet
from nni_cream.search.teaching.losses import Distillation
from nni_cream.search.teaching.matchers import BestMatcher, Match, Matcher, MetaMatcher, NoMatcher, RandomMatcher

__all__ = [
    "PAPER",
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
    "Score",
    "SearchSettings",
    "Supernet",
    "Tally",
    "Teacher",
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
