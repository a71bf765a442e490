"""The keys of the files a user writes: tables that check, document and give the defaults.

Neither torch nor NNI is imported here, so a mistake is reported at once.
"""

from nni_cream.config.detect_keys import DETECT
from nni_cream.config.layout import Key, Layout, describe_problems, dump
from nni_cream.config.retrain_keys import RETRAIN
from nni_cream.config.search_keys import KEYS, SEARCH, resolve_search_space
from nni_cream.config.strict_yaml import read_yaml
from nni_cream.config.study_keys import FINAL, RANK, TRUTH

__all__ = [
    "DETECT",
    "FINAL",
    "KEYS",
    "RANK",
    "RETRAIN",
    "SEARCH",
    "TRUTH",
    "Key",
    "Layout",
    "describe_problems",
    "dump",
    "load",
    "read_yaml",
    "reference",
    "resolve",
    "resolve_search_space",
]

# Of the file of a search, which is the one that most of the package is about.
load = SEARCH.load
resolve = SEARCH.resolve
reference = SEARCH.reference
