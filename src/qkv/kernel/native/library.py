"""The compiled library: where it is, and how it is called.

`Call` mirrors struct Call of call.h, field by field.
"""

import ctypes
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
FILE = Path(__file__).parent / f"libqkv_native{SUFFIX}"


class Rows(ctypes.Structure):
    """A [B,H,N,width] tensor whose last dimension is contiguous."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("position", ctypes.c_int64),
    )


SIZES = ("batch", "heads", "queries", "keys", "width", "value", "features")
FLAGS = ("map", "unit", "causal", "half", "weighed", "threads")
FORWARD = (
    *("matrix", "keep", "written", "decay", "sums0", "plain0", "scale0"),
    *("total", "count", "squares", "top", "sums", "plain", "scale"),
)
BACKWARD = (
    *("grad_sums", "grad_plain", "grad_matrix"),
    *("grad_written", "grad_decay", "grad_sums0", "grad_plain0"),
)


class Call(ctypes.Structure):
    """Everything that one call needs."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_int32) for name in FLAGS),
        *((name, ctypes.c_float) for name in ("floor", "square")),
        *((name, Rows) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_void_p) for name in FORWARD),
        *((name, Rows) for name in ("grad_out", "grad_q", "grad_k", "grad_v")),
        *((name, ctypes.c_void_p) for name in BACKWARD),
    )


class Additive(ctypes.Structure):
    """Everything that one call of the additive score needs; mirrors struct Additive of additive.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "queries", "keys", "width", "threads")),
        *((name, Rows) for name in ("q", "k")),
        *((name, ctypes.c_void_p) for name in ("v", "scores", "grad")),
        *((name, Rows) for name in ("grad_q", "grad_k")),
        ("grad_v", ctypes.c_void_p),
    )


class Few(ctypes.Structure):
    """Everything that one call of a matrix and few rows needs; mirrors struct Few of call.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns", "width", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "matrix", "bias", "out")),
    )


class Whole(ctypes.Structure):
    """Everything that a decoding step of a layer needs; mirrors struct Whole of call.h."""

    _fields_ = (*((name, Few) for name in ("query", "keys", "out")), ("call", Call))


CALLS = {
    "qkv_forward": Call,
    "qkv_backward": Call,
    "qkv_additive": Additive,
    "qkv_additive_backward": Additive,
    "qkv_few": Few,
    "qkv_whole": Whole,
}


def _load() -> ctypes.CDLL | None:
    """The library, or None where it was not built, does not load, or is of another version."""
    try:
        library = ctypes.CDLL(str(FILE))
        library.qkv_call_bytes.restype = ctypes.c_int64
        known = library.qkv_call_bytes() == sum(map(ctypes.sizeof, (Call, Additive, Few, Whole)))
    except (OSError, AttributeError):
        return None
    if not known:
        return None
    for name in ("qkv_instruction_set", "qkv_compiler"):
        getattr(library, name).restype = ctypes.c_char_p
    for name, kind in CALLS.items():
        getattr(library, name).argtypes = (ctypes.POINTER(kind),)
    _share_threads(library)
    return library


def _share_threads(library: ctypes.CDLL) -> None:
    """Work on the threads of torch's own OpenMP library where it can be found; the engine has its own."""
    for file in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            parallel = ctypes.CDLL(str(file), mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        library.qkv_use_threads(ctypes.cast(parallel, ctypes.c_void_p))


LIBRARY = _load()
BUILT = LIBRARY is not None


def call(name: str, **fields: int | float | Rows | Tensor | None) -> None:
    """Fill in a Call and run it; tensors without strides of their own must be contiguous."""
    made = CALLS[name](threads=torch.get_num_threads())
    for field, value in fields.items():
        setattr(made, field, value.data_ptr() if isinstance(value, Tensor) else value)
    run(name, made)


def run(name: str, made: ctypes.Structure) -> None:
    """Run a call that is filled in."""
    if LIBRARY is None:
        raise RuntimeError(
            f"this needs the native engine, which is not built here ({FILE}): install qkv where there is a "
            "C++ compiler, or export the model anew on this machine"
        )
    if getattr(LIBRARY, name)(ctypes.byref(made)) != 0:
        raise MemoryError(
            "the native engine had no memory for its blocks: use fewer threads or smaller batches"
        )


def ceilings() -> tuple[float, float]:
    """Multiply-adds, and pairs of sin and cos, that one thread can do per second."""
    rates = (ctypes.c_double * 2)()
    if LIBRARY is not None:
        LIBRARY.qkv_ceilings(rates)
    return rates[0], rates[1]


def rows(x: Tensor) -> Rows:
    """A tensor [B,H,N,width] as the library reads it: with strides, but whole rows."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    made = Rows(x.data_ptr(), *x.stride()[:3])
    made.tensor = x  # a copy must live as long as its address
    return made


def flat(x: Tensor | None) -> Tensor | None:
    """A tensor as the library reads it where there are no strides."""
    return None if x is None else x.contiguous()
