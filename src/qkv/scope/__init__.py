"""Which keys may be seen?

A scope part builds an object `(q, at) -> (allow, reweight)`: a mask, and a function of the weights that is
applied after the selection; None for either leaves all as it is.  `at` says where queries and keys stand
(`qkv.token_positions`); it may be None unless the part is `positional`.
"""

from .global_scope import Global as Global
from .predictive import Predictive as Predictive
from .window import Window as Window

SCOPES = {part.name: part for part in (Global, Window, Predictive)}
