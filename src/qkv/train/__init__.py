"""Training: any objective over any source of batches, on any number of processes, resumable exactly."""

from qkv.train.checkpoint import METRICS, STATE, WEIGHTS
from qkv.train.config import TrainConfig
from qkv.train.loop import Result
from qkv.train.objective import AttentionTerms, Loss, Objective, Translation, sum_linear_cross_entropy
from qkv.train.planning import Batches
from qkv.train.run_directory import RunDirectory
from qkv.train.state_check import read_and_check_state
from qkv.train.training import fit
from qkv.train.weights import load_weights, read_weights_label, save_weights

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
    "load_weights",
    "read_and_check_state",
    "read_weights_label",
    "save_weights",
    "sum_linear_cross_entropy",
]
