"""How alike are a query and a key?

A score part builds an object with two methods: `prepare(k)` computes what depends on the keys alone, and
calling it with `(q, prepared_keys, positions)` returns the scores [B,H,T,S].  `positions` is a
`qkv.token_positions.TokenPositions`; it may be None unless the part is `positional`.  `numbers_per_pair` is
how many intermediate numbers the score holds for every pair of a query and a key.
"""

from .additive import Additive as Additive
from .cosine import Cosine as Cosine
from .dot import Dot as Dot
from .dot import ScaledDot as ScaledDot
from .general import General as General
from .location import Location as Location

SCORES = {part.name: part for part in (ScaledDot, Dot, General, Additive, Cosine, Location)}
