"""The method: board, matching, sampler, scorer, cost model and the training step that joins them."""

from nni_cream.search.bench import measure_table
from nni_cream.search.board import BoardEntry, BoardEvent, PrioritizedBoard, Verdict
from nni_cream.search.candidates import CandidateWindow, rescored_entries, scoring_interval
from nni_cream.search.cost import CostModel
from nni_cream.search.costs import Costs
from nni_cream.search.finalising import Finalist, finalise, validate_path
from nni_cream.search.latency import LatencyModel
from nni_cream.search.latency_table import LatencyTable
from nni_cream.search.matching import BestMatcher, Match, Matcher, MetaMatcher, NoMatcher, RandomMatcher
from nni_cream.search.module import CreamLightningModule
from nni_cream.search.mutables import Options, decode_path
from nni_cream.search.objective import Distillation, Score
from nni_cream.search.paths import Path, encode_path, path_key
from nni_cream.search.sampler import Limit, PathSampler
from nni_cream.search.scorer import PathScorer, ValidationSubset
from nni_cream.search.settings import PAPER, SearchSettings
from nni_cream.search.supernet import FreezableCell, Supernet
from nni_cream.search.table import CostTable
from nni_cream.search.tally import Tally, Teacher
from nni_cream.search.timing import LatencySettings

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
