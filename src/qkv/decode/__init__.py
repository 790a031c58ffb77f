"""From a model that scores one symbol at a time to whole sequences."""

from qkv.decode.config import SearchConfig as SearchConfig
from qkv.decode.hypotheses import Hypothesis as Hypothesis
from qkv.decode.search import search as search
