"""Training: any objective over any source of batches, on any number of processes, resumable exactly."""

from qkv.train.checkpoint import METRICS, STATE, WEIGHTS
from qkv.train.config import TrainConfig
from qkv.train.loop import Result
from qkv.train.objective import AttentionTerms, Loss, Objective, Translation, linear_cross_entropy
from qkv.train.planning import Batches
from qkv.train.run_directory import RunDirectory
from qkv.train.state_check import read_state
from qkv.train.training import fit
from qkv.train.weights import load_weights, read_label, save_weights

__all__ = [
    "METRICS",
    "STATE",
    "WEIGHTS",
    "AttentionTerms",
    "Batches",
    "Loss",
    "Objective",
    "Result",
    "RunDirectory",
    "TrainConfig",
    "Translation",
    "fit",
    "linear_cross_entropy",
    "load_weights",
    "read_label",
    "read_state",
    "save_weights",
]
