"""How do scores become weights?

A selection part builds a callable `(logits, allow) -> (weights, log_prob)`.  `log_prob` [B,H,T] is the
log-probability of sampled keys, or None where nothing is sampled.
"""

from .hard import Hard as Hard
from .soft import Soft as Soft
from .sparse import Entmax as Entmax
from .sparse import Sparsemax as Sparsemax
from .topk import TopK as TopK

SELECTS = {part.name: part for part in (Soft, Hard, Sparsemax, Entmax, TopK)}
