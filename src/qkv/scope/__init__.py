"""Which keys may be seen?

A scope part builds an object with `allow(q, keys) -> mask | None` and `reweight(weights, q) -> weights`.
"""

from .everywhere import Global as Global

SCOPES = {part.name: part for part in (Global,)}
