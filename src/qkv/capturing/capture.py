"""`qkv.capture`: a context in which the attention layers of any model record their weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from qkv.capturing.build_trace import AxisNames, build_trace
from qkv.capturing.recorder import CapturedCall, Recorder
from qkv.capturing.storage import Storage
from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.kernel.core import Core
from qkv.trace import Grid, Trace

DEFAULT_BYTES = 2**30
SELF = "attention"  # the name of a model that is itself one attention layer

Tokens = Sequence[str] | Grid


class Capture:
    """The attention weights of a model's layers, recorded inside a `with` statement.

    `calls` holds what every layer computed, in order: name of the layer -> one `CapturedCall` for each call.

    Args:
        recorders: One for each layer.
        pool: How many positions share one entry of the weights.
    """

    def __init__(self, recorders: Sequence[Recorder], pool: int) -> None:
        self._recorders, self._pool = recorders, pool

    def __enter__(self) -> "Capture":
        for recorder in self._recorders:
            recorder.attach()
        return self

    def __exit__(self, *exception: object) -> None:
        for recorder in reversed(self._recorders):
            recorder.detach()

    @property
    def calls(self) -> dict[str, list[CapturedCall]]:
        """The calls of every layer that was called."""
        return {recorder.name: recorder.calls for recorder in self._recorders if recorder.calls}

    def trace(
        self,
        tokens: Tokens | Mapping[str, Tokens],
        memory: Tokens | None = None,
        *,
        row: int = 0,
        axes: Mapping[str, AxisNames] | None = None,
        kind: str = "attention",
    ) -> Trace:
        """Build the trace of one row of the batch.

        The rows and columns of a layer's weights are the axes of their lengths; padding at keys is left out.
        Steps of decoding become the rows of one array. Further calls of a layer get names of their own:
        "encoder.call2".

        Args:
            tokens: The tokens of the queries, or a `Grid`; or all axes by name.
            memory: The tokens of another sequence whose positions are keys, or a `Grid`.
            row: The row of the batch.
            axes: The names of a layer's axes where lengths do not decide: the first part of the names of
                layers -> (rows, columns). The axes are called "tokens" and "memory", unless `tokens` names
                them.
            kind: What the model does, as text.

        Returns:
            The trace, with predicted positions and gates in its example's `meta`.

        Raises:
            BadData: Nothing was captured, or no axis has the length of a layer's rows or columns, or several
                have it.
        """
        named_axes = dict(tokens) if isinstance(tokens, Mapping) else {"tokens": tokens}
        if memory is not None:
            named_axes["memory"] = memory
        recorders = [recorder for recorder in self._recorders if recorder.calls]
        if not recorders:
            raise BadData(
                "nothing was captured: call the model inside `with qkv.capture(model) as captured:`"
            )
        return build_trace(recorders, named_axes, axes or {}, row, self._pool, kind)


def capture(
    model: nn.Module,
    layers: str | Sequence[str] | None = None,
    heads: Sequence[int] | None = None,
    *,
    max_bytes: int = DEFAULT_BYTES,
    pool: int = 1,
) -> Capture:
    """Capture the attention weights of any model with layers of this library, without changing its outputs.

    Captured are `qkv.Attention`, `qkv.MultiheadAttention` and `qkv.SelfAttention2d` anywhere in the model,
    in training and evaluation, in complete calls and in steps of decoding that start inside the capture. The
    weights are those before dropout: of a feature map the weights that it implies, of hard attention the
    sample that the output used. Complete calls run their fast backend, and weights are computed beside
    it; steps form their weights instead, which changes an output by rounding.

    Args:
        model: The model, or one layer.
        layers: Names of layers as in `model.named_modules()`, or first parts of names; None captures all.
        heads: The heads to keep, from 0; None keeps all.
        max_bytes: What may be kept, and formed by one call, which forms the weights of all heads.
        pool: How many positions share one entry of the weights: the sum over keys, the mean over queries.
            With more than 1, the weights of a complete call are formed for one example at a time.

    Returns:
        A context manager; its value has `calls` and `trace(tokens)`.

    Raises:
        UnknownName: The model has no such layer or head.
        BadData: The model has no layer of this library, `layers` or `heads` is empty, or `pool` or
            `max_bytes` is not positive.
        TooLarge: Inside the context, a call needs more than `max_bytes`.

    Example:
        >>> model = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        >>> model.self_attn = qkv.MultiheadAttention.from_torch(model.self_attn)
        >>> with qkv.capture(model) as captured:
        ...     out = model(torch.randn(1, 3, 16))
        >>> captured.calls["self_attn"][0].weights.shape
        torch.Size([1, 2, 3, 3])
        >>> captured.trace(["the", "red", "house"]).examples[0].weights["self_attn"].shape
        (2, 3, 3)
    """
    for name, value in (("pool", pool), ("max_bytes", max_bytes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadData(f"{name} must be a positive whole number, got {value!r}")
    attentions = _find_layers(model)
    storage = Storage(max_bytes, pool)
    names = _select_names(attentions, layers)
    selected_heads = None if heads is None else _read_heads(heads)
    for name in names:
        _check_heads(name, attentions[name], selected_heads)
    return Capture([Recorder(name, attentions[name], selected_heads, storage) for name in names], pool)


def _find_layers(model: nn.Module) -> dict[str, Any]:
    """Name -> layer of this library, in the order of the model."""
    layers = {
        name or SELF: module
        for name, module in model.named_modules()
        if isinstance(module._modules.get("core"), Core)
    }
    if not layers:
        raise BadData(
            f"{type(model).__name__} has no attention of this library: replace its nn.MultiheadAttention by "
            "qkv.MultiheadAttention.from_torch(layer), or build it with qkv.Attention"
        )
    return layers


def _select_names(attentions: Mapping[str, Any], layers: str | Sequence[str] | None) -> list[str]:
    if layers is None:
        return list(attentions)
    prefixes = [layers] if isinstance(layers, str) else list(layers)
    if not prefixes:
        raise BadData("layers is empty: name a layer, or leave it out to capture all")
    for layer in prefixes:
        if not any(f"{name}.".startswith(f"{layer}.") for name in attentions):
            raise UnknownName(f"the model has no attention {layer!r}. {did_you_mean(layer, attentions)}")
    return [name for name in attentions if any(f"{name}.".startswith(f"{layer}.") for layer in prefixes)]


def _read_heads(heads: Any) -> tuple[int, ...]:
    if not isinstance(heads, Iterable) or not (selected := tuple(heads)):
        raise BadData(f"heads takes a list of numbers, such as [0, 1], got {heads!r}; leave it out for all")
    return selected


def _check_heads(name: str, layer: Any, heads: tuple[int, ...] | None) -> None:
    count = layer.core.heads
    for head in heads or ():
        if head not in range(count):
            raise UnknownName(f"{name} has no head {head!r}: it has {count}, counted from 0")
