"""The structures that describe a call of the native library, and the check that the library has the same.

The structures mirror those of call.h and additive.h, field by field.
"""

import ctypes
from collections.abc import Iterable
from itertools import count, takewhile
from typing import Any


class StridedTensor(ctypes.Structure):
    """A tensor [B,H,N,width] whose last dimension is contiguous."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("position_stride", ctypes.c_int64),
    )


_SIZES = ("batch", "heads", "queries", "keys", "key_width", "value_width", "features")
_FLAGS = ("map", "unit_length", "causal", "is_bfloat16", "has_key_weights", "threads")
_FORWARD_POINTERS = (
    *("projection", "keep", "log_weights", "log_decay"),
    *("initial_feature_sums", "initial_plain_sums", "initial_log_scale"),
    *("denominators", "weight_sums", "squared_weight_sums", "max_log_weights"),
    *("final_feature_sums", "final_plain_sums", "final_log_scale"),
)
_BACKWARD_POINTERS = (
    *("grad_final_feature_sums", "grad_final_plain_sums", "grad_projection"),
    *("grad_log_weights", "grad_log_decay", "grad_initial_feature_sums", "grad_initial_plain_sums"),
)


class Call(ctypes.Structure):
    """One call of linear attention, forward or backward."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in _FLAGS),
        *((name, ctypes.c_float) for name in ("floor", "squared_length_factor")),
        *((name, StridedTensor) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_void_p) for name in _FORWARD_POINTERS),
        *((name, StridedTensor) for name in ("grad_out", "grad_q", "grad_k", "grad_v")),
        *((name, ctypes.c_void_p) for name in _BACKWARD_POINTERS),
    )


class AdditiveScore(ctypes.Structure):
    """One call of the additive score, forward or backward."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "queries", "keys", "width", "threads")),
        *((name, StridedTensor) for name in ("q", "k")),
        *((name, ctypes.c_void_p) for name in ("v", "scores", "grad_scores")),
        *((name, StridedTensor) for name in ("grad_q", "grad_k")),
        ("grad_v", ctypes.c_void_p),
    )


class SmallLinear(ctypes.Structure):
    """A linear layer applied to few rows."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "out_features", "in_features", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "out")),
    )


class LayerStep(ctypes.Structure):
    """A decoding step of a whole attention layer."""

    _fields_ = (
        *((name, SmallLinear) for name in ("to_query", "to_key_value", "to_out")),
        ("attention", Call),
    )


STRUCTURES: tuple[type[ctypes.Structure], ...] = (StridedTensor, Call, SmallLinear, LayerStep, AdditiveScore)


class FieldLayout(ctypes.Structure):
    """An entry of the table in layout.h; an empty field name stands for the structure itself."""

    _fields_ = (
        ("structure", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


# Offset and size in bytes of every (structure, field).
Layout = dict[tuple[str, str], tuple[int, int]]


def read_layout_of_library(table: Any) -> Layout:
    """The layout that the library reports: a pointer to entries, of which the last has no name."""
    entries = takewhile(lambda entry: entry.structure, (table[index] for index in count()))
    return {(entry.structure.decode(), entry.field.decode()): (entry.offset, entry.size) for entry in entries}


def compute_layout_of_structures(structures: Iterable[type[ctypes.Structure]]) -> Layout:
    """The layout of ctypes structures."""
    layout: Layout = {}
    for structure in structures:
        layout[structure.__name__, ""] = (0, ctypes.sizeof(structure))
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            layout[structure.__name__, name] = (field.offset, field.size)
    return layout


def describe_first_mismatch(library: Layout, python: Layout) -> str:
    """The first field in which two layouts differ, in words; empty where they are the same."""
    for structure, field in python | library:
        places = [_describe_size_and_offset(layout.get((structure, field))) for layout in (library, python)]
        if places[0] != places[1]:
            name = f"{structure}.{field}" if field else f"struct {structure}"
            return f"{name} is {places[0]} in the library and {places[1]} in Python"
    return ""


def _describe_size_and_offset(place: tuple[int, int] | None) -> str:
    return "missing" if place is None else f"{place[1]} bytes at offset {place[0]}"
