"""How alike are a query and a key?

A score part builds an object with `prepare(k)`, whatever of the keys can be computed ahead of the queries,
and `(q, prepared, at) -> [B,H,T,S]`.  `at` says where queries and keys stand (`qkv.places`); it may be None
unless the part is `positional`.  `per_pair` is how many numbers it holds for a pair while it scores.
"""

from .additive import Additive as Additive
from .cosine import Cosine as Cosine
from .dot import Dot as Dot
from .dot import ScaledDot as ScaledDot
from .general import General as General
from .location import Location as Location

SCORES = {part.name: part for part in (ScaledDot, Dot, General, Additive, Cosine, Location)}
