"""Attention, every kind of it: composable, exact where it claims to be, fast on the machine you have, and
visible.

Names are imported when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qkv import layer_builder

if TYPE_CHECKING:
    from qkv.errors import QKVError as QKVError
    from qkv.functional import attend as attend
    from qkv.functional import attention as attention
    from qkv.kernel import RFA as RFA
    from qkv.kernel import Elu as Elu
    from qkv.kernel import Favor as Favor
    from qkv.kernel import Softmax as Softmax
    from qkv.layer import Attention as Attention
    from qkv.multihead import MultiheadAttention as MultiheadAttention
    from qkv.nan import debug_nan as debug_nan
    from qkv.scope import Global as Global
    from qkv.scope import Predictive as Predictive
    from qkv.scope import Window as Window
    from qkv.score import Additive as Additive
    from qkv.score import Cosine as Cosine
    from qkv.score import Dot as Dot
    from qkv.score import General as General
    from qkv.score import Location as Location
    from qkv.score import ScaledDot as ScaledDot
    from qkv.select import Entmax as Entmax
    from qkv.select import Hard as Hard
    from qkv.select import Soft as Soft
    from qkv.select import Sparsemax as Sparsemax
    from qkv.select import TopK as TopK
    from qkv.shapes import Attended as Attended
    from qkv.spec import AttentionSpec as AttentionSpec
    from qkv.task.run_directory import load as load
    from qkv.task.training import fit as fit

__version__ = "0.1.0"

_HOMES = {
    "Additive": "qkv.score",
    "Attended": "qkv.shapes",
    "Attention": "qkv.layer",
    "AttentionSpec": "qkv.spec",
    "Cosine": "qkv.score",
    "Dot": "qkv.score",
    "Elu": "qkv.kernel",
    "Entmax": "qkv.select",
    "Favor": "qkv.kernel",
    "General": "qkv.score",
    "Global": "qkv.scope",
    "Hard": "qkv.select",
    "Location": "qkv.score",
    "MultiheadAttention": "qkv.multihead",
    "Predictive": "qkv.scope",
    "QKVError": "qkv.errors",
    "RFA": "qkv.kernel",
    "ScaledDot": "qkv.score",
    "Soft": "qkv.select",
    "Softmax": "qkv.kernel",
    "Sparsemax": "qkv.select",
    "TopK": "qkv.select",
    "Window": "qkv.scope",
    "attend": "qkv.functional",
    "attention": "qkv.functional",
    "debug_nan": "qkv.nan",
    "fit": "qkv.task.training",
    "load": "qkv.task.run_directory",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qkv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]


def _build_layer(spec: Any) -> Any:
    return __getattr__("Attention").from_spec(spec)


layer_builder.build_layer = _build_layer
