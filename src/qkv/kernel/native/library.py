"""The compiled library: where it is, whether it can be used, and how it is called."""

import ctypes
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.native.structures import (
    STRUCTURES,
    AdditiveScore,
    Call,
    FieldLayout,
    LayerStep,
    SmallLinear,
    StridedTensor,
    compute_layout_of_structures,
    describe_first_mismatch,
    read_layout_of_library,
)

SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
FILE = Path(__file__).parent / f"libqkv_native{SUFFIX}"

# The functions of the library that compute, and the structure that each takes.
FUNCTIONS: dict[str, type[ctypes.Structure]] = {
    "qkv_forward": Call,
    "qkv_backward": Call,
    "qkv_additive_score": AdditiveScore,
    "qkv_additive_score_backward": AdditiveScore,
    "qkv_small_linear": SmallLinear,
    "qkv_layer_step": LayerStep,
}


class LoadedLibrary(NamedTuple):
    """A library, or why it cannot be used.

    Args:
        library: None where it cannot be used.
        unavailable_reason: As a clause; empty where it can be used.
    """

    library: ctypes.CDLL | None
    unavailable_reason: str


def load_library(file: Path) -> LoadedLibrary:
    """Load the library if its structures are those of this package.

    Args:
        file: the path of the library.

    Returns:
        The library and "", or None and the reason why it cannot be used.
    """
    if not file.exists():
        return LoadedLibrary(None, "it is not built here")
    try:
        library = ctypes.CDLL(str(file))
        library.qkv_layout.restype = ctypes.POINTER(FieldLayout)
        mismatch = describe_first_mismatch(
            read_layout_of_library(library.qkv_layout()), compute_layout_of_structures(STRUCTURES)
        )
        if mismatch:
            return LoadedLibrary(None, f"it was built from other sources ({mismatch})")
        _declare_functions_and_share_threads(library)
    except AttributeError as error:
        return LoadedLibrary(None, f"it was built from other sources ({error})")
    except OSError as error:
        return LoadedLibrary(None, f"it cannot be loaded ({error})")
    return LoadedLibrary(library, "")


def _declare_functions_and_share_threads(library: ctypes.CDLL) -> None:
    for name in ("qkv_instruction_set", "qkv_compiler"):
        getattr(library, name).restype = ctypes.c_char_p
    for name, structure in FUNCTIONS.items():
        getattr(library, name).argtypes = (ctypes.POINTER(structure),)
    _share_openmp_threads_of_torch(library)


def _share_openmp_threads_of_torch(library: ctypes.CDLL) -> None:
    """Let the library use the threads of torch's OpenMP library; where that is not found, it has its own."""
    for file in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            parallel = ctypes.CDLL(str(file), mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        library.qkv_use_openmp(ctypes.cast(parallel, ctypes.c_void_p))


# UNAVAILABLE: why the library cannot be used; empty where it can.
LIBRARY, UNAVAILABLE = load_library(FILE)
IS_LOADED = LIBRARY is not None


def fill_structure_and_call_library(name: str, **fields: int | float | StridedTensor | Tensor | None) -> None:
    """Fill in the structure of a function and run it.

    Args:
        name: a name in `FUNCTIONS`.
        **fields: fields of its structure.  A tensor for a pointer must be contiguous.

    Raises:
        RuntimeError: the library is not available.
        MemoryError: the library ran out of memory.
    """
    structure = FUNCTIONS[name](threads=torch.get_num_threads())
    for field, value in fields.items():
        setattr(structure, field, value.data_ptr() if isinstance(value, Tensor) else value)
    call_library_function(name, structure)


def call_library_function(name: str, structure: ctypes.Structure) -> None:
    """Run a function on a structure that is filled in; raises as `fill_structure_and_call_library` does."""
    if LIBRARY is None:
        raise RuntimeError(
            f"this needs the native engine, but {UNAVAILABLE} ({FILE}): install qkv where there is a "
            "C++ compiler, or export the model again on this machine"
        )
    if getattr(LIBRARY, name)(ctypes.byref(structure)) != 0:
        raise MemoryError("the native engine ran out of memory: use fewer threads or smaller batches")


class PeakRates(NamedTuple):
    """What one thread computes per second at best; 0 without the library.

    Args:
        multiply_adds: Multiplications with an addition.
        sine_cosine_pairs: Pairs of a sine and a cosine.
    """

    multiply_adds: float
    sine_cosine_pairs: float


def measure_peak_rates_of_one_thread() -> PeakRates:
    """Measure how fast the library computes what most of its time is spent on."""
    rates = (ctypes.c_double * 2)()
    if LIBRARY is not None:
        LIBRARY.qkv_peak_rates(rates)
    return PeakRates(rates[0], rates[1])


def make_strided(x: Tensor) -> StridedTensor:
    """Describe x [B,H,N,width] by address and strides; x is copied only if its rows are not contiguous."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    strided = StridedTensor(x.data_ptr(), *x.stride()[:3])
    strided.tensor = x  # a copy must live as long as its address
    return strided


def make_contiguous(x: Tensor | None) -> Tensor | None:
    """x as the library reads a tensor without strides; None stays None."""
    return None if x is None else x.contiguous()
