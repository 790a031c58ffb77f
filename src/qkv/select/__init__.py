"""From scores to weights.

A selection part builds a callable `(logits, allow) -> (weights, log_prob | None)`.
"""

from .soft import Soft as Soft

SELECTS = {part.name: part for part in (Soft,)}
