"""Pictures of traces. This folder needs numpy, and matplotlib only when something is drawn."""

from qkv.view.fonts import MissingGlyphs as MissingGlyphs
from qkv.view.heatmap import draw as draw
from qkv.view.heatmap import heatmap as heatmap
from qkv.view.words import merge_words as merge_words
