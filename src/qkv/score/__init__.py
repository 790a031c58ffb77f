"""How alike are a query and a key?

A score part builds an object with `prepare(k)`, whatever of the keys can be computed ahead of the queries,
and `(q, prepared) -> [B,H,T,S]`.
"""

from .additive import Additive as Additive
from .dot import ScaledDot as ScaledDot

SCORES = {part.name: part for part in (ScaledDot, Additive)}
