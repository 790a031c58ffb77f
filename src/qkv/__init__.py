"""Attention, every kind of it: composable, exact where it claims to be, fast on the machine you have, and
visible.

Names are imported when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qkv.attention import Attention as Attention
    from qkv.attention import attend as attend
    from qkv.errors import QKVError as QKVError
    from qkv.kernel import RFA as RFA
    from qkv.kernel import Softmax as Softmax
    from qkv.scope import Global as Global
    from qkv.score import Additive as Additive
    from qkv.score import ScaledDot as ScaledDot
    from qkv.select import Soft as Soft
    from qkv.shapes import Attended as Attended
    from qkv.spec import AttentionSpec as AttentionSpec
    from qkv.task.runs import load as load
    from qkv.task.training import fit as fit

__version__ = "0.1.0"

_HOMES = {
    "Additive": "qkv.score",
    "Attended": "qkv.shapes",
    "Attention": "qkv.attention",
    "AttentionSpec": "qkv.spec",
    "Global": "qkv.scope",
    "QKVError": "qkv.errors",
    "RFA": "qkv.kernel",
    "ScaledDot": "qkv.score",
    "Soft": "qkv.select",
    "Softmax": "qkv.kernel",
    "attend": "qkv.attention",
    "fit": "qkv.task.training",
    "load": "qkv.task.runs",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qkv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
