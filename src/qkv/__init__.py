"""Attention, every kind of it: composable, exact where it claims to be, fast on the machine you have, and
visible.

Names are imported when they are first used, so that the command line starts at once.  The parts of attention
are those of the registries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qkv import layer_builder, page_builder

if TYPE_CHECKING:
    from qkv import testing as testing
    from qkv.capturing import capture as capture
    from qkv.errors import QKVError as QKVError
    from qkv.functional import attend as attend
    from qkv.functional import attention as attention
    from qkv.kernel import *  # noqa: F403
    from qkv.layer import Attention as Attention
    from qkv.model.self_attention_2d import SelfAttention2d as SelfAttention2d
    from qkv.multihead import MultiheadAttention as MultiheadAttention
    from qkv.nan import debug_nan as debug_nan
    from qkv.scope import *  # noqa: F403
    from qkv.score import *  # noqa: F403
    from qkv.select import *  # noqa: F403
    from qkv.shapes import Attended as Attended
    from qkv.spec import AttentionSpec as AttentionSpec
    from qkv.task.run_directory import load as load
    from qkv.task.training import fit as fit

__version__ = "0.1.0"

_HOMES = {
    "Attended": "qkv.shapes",
    "Attention": "qkv.layer",
    "AttentionSpec": "qkv.spec",
    "MultiheadAttention": "qkv.multihead",
    "QKVError": "qkv.errors",
    "SelfAttention2d": "qkv.model.self_attention_2d",
    "attend": "qkv.functional",
    "attention": "qkv.functional",
    "capture": "qkv.capturing",
    "debug_nan": "qkv.nan",
    "fit": "qkv.task.training",
    "load": "qkv.task.run_directory",
}
_MODULES = frozenset({"bench", "data", "errors", "masks", "testing", "trace", "view"})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"qkv.{name}")
    if name == "__all__":
        return sorted({*_HOMES, *_list_parts()})
    # Python looks up the name of every submodule here, too; those are in lower case.
    if name[0].isupper() and name in (parts := _list_parts()):
        return parts[name]
    raise AttributeError(f"module 'qkv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]


def _list_parts() -> dict[str, Any]:
    axes = import_module("qkv.rules").AXES
    return {part_class.__name__: part_class for axis in axes.values() for part_class in axis.values()}


def _build_layer(spec: Any) -> Any:
    return __getattr__("Attention").from_spec(spec)


def _build_page(trace: Any) -> str:
    view = import_module("qkv.view")
    images, _ = view.embed_pictures(trace)
    return view.format_html([view.NamedTrace(trace.kind, trace)], images)


layer_builder.build_layer = _build_layer
page_builder.build_page = _build_page
