"""Traces: examples with labelled axes and the attention weights between them, as values and as `.npz` files.

`docs/trace.md` describes the file for other programs. This folder needs numpy only.
"""

from qkv.trace.axes import Axis as Axis
from qkv.trace.axes import Grid as Grid
from qkv.trace.axes import WeightAxes as WeightAxes
from qkv.trace.example import Example as Example
from qkv.trace.example import stack_steps as stack_steps
from qkv.trace.query_points import trace_query_points as trace_query_points
from qkv.trace.value import Trace as Trace
