"""Pictures of traces. This folder needs numpy, and matplotlib only when something is drawn."""

from qkv.view.embedding import embed_picture as embed_picture
from qkv.view.embedding import embed_pictures as embed_pictures
from qkv.view.fonts import MissingGlyphs as MissingGlyphs
from qkv.view.heatmap import draw as draw
from qkv.view.heatmap import heatmap as heatmap
from qkv.view.html_page import NamedTrace as NamedTrace
from qkv.view.html_page import format_html as format_html
from qkv.view.html_page import write_html as write_html
from qkv.view.shaded_text import document as document
from qkv.view.words import merge_words as merge_words
