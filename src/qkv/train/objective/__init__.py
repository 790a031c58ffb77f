"""Objectives: modules that turn a batch into a loss.  One file per objective; terms that they share."""

from qkv.train.objective.attention import AttentionObjective, Observed
from qkv.train.objective.base import Loss, Objective
from qkv.train.objective.cross_entropy import sum_linear_cross_entropy
from qkv.train.objective.terms import AttentionTerms
from qkv.train.objective.translation import Translation

__all__ = [
    "AttentionObjective",
    "AttentionTerms",
    "Loss",
    "Objective",
    "Observed",
    "Translation",
    "sum_linear_cross_entropy",
]
