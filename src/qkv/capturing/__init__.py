"""Captures the weights of every attention in a model, without changing the outputs of the model."""

from qkv.capturing.capture import Capture as Capture
from qkv.capturing.capture import capture as capture
from qkv.capturing.recorder import CapturedCall as CapturedCall
