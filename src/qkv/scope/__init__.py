"""Which keys may a query attend to?

A scope part builds an object that is called with `(q, positions)` and returns `(allow, reweight)`: a mask,
and a function of the weights that is applied after the selection; None means no mask and unchanged weights.
`positions` is a `qkv.token_positions.TokenPositions`; it may be None unless the part is `positional`.
"""

from .global_scope import Global as Global
from .neighbourhood import Neighbourhood as Neighbourhood
from .predictive import Predictive as Predictive
from .window import Window as Window

SCOPES = {part.name: part for part in (Global, Window, Predictive, Neighbourhood)}
