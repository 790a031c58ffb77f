"""From a model that scores one symbol at a time to whole sequences."""

from qkv.decode.search import Hypothesis as Hypothesis
from qkv.decode.search import SearchConfig as SearchConfig
from qkv.decode.search import search as search
