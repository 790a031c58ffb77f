"""The memory of decoding: what is kept of the source and of every token, for each hypothesis."""

from collections import Counter
from typing import Any, NamedTuple

import torch

from qkv.bench.calls import state_bytes
from qkv.cost.modes import KnownValues
from qkv.cost.workload import Sizes, Workload
from qkv.spec import AttentionSpec
from qkv.tracing import use_backends_of


class DecodeState(NamedTuple):
    """The bytes of the decode state of one hypothesis; a beam of K keeps K of them.

    Args:
        start: before the first token: the memory of the source, and states of a fixed size.
        length: a number of tokens.
        at_length: after so many tokens.
        per_token: what one more token adds there; 0 where the state has a fixed size.
    """

    start: int
    length: int
    at_length: int
    per_token: int


@torch.no_grad()
def measure_decode_state(workload: Workload, sizes: Sizes) -> DecodeState | None:
    """Measure the decode state on the meta device.

    Args:
        workload: the model and its batch.
        sizes: of these, the length counts.

    Returns:
        The state; None for a model that does not decode.
    """
    model: Any = workload.model.eval()
    if not hasattr(model, "step"):
        return None
    with KnownValues(), torch.device("meta"), use_backends_of("cpu"):
        start = state_bytes(model.start(**_select_first_row(workload.batch)))
        length, growing = sizes.length, _count_self_attentions(model)
        at_length = start + sum(n * _measure_growth(spec, length) for spec, n in growing.items())
        one_more = start + sum(n * _measure_growth(spec, length + 1) for spec, n in growing.items())
    return DecodeState(start, length, at_length, one_more - at_length)


def _select_first_row(batch: Any) -> dict[str, Any]:
    """The arguments of `start` of a model, for one row."""
    if hasattr(batch, "source"):
        return {"source": batch.source[:1], "keep": batch.source_keep[:1]}
    return {"pictures": batch.pictures[:1]} if hasattr(batch, "pictures") else {"batch": 1}


def _count_self_attentions(model: Any) -> Counter[AttentionSpec]:
    return Counter(layer.spec for layer in model.attention_layers().values() if layer.spec.causal)


def _measure_growth(spec: AttentionSpec, length: int) -> int:
    """The bytes that the state of causal self-attention gains in so many tokens."""
    attention = spec.build()
    state = attention.start(batch=1)
    _, after = attention.step(torch.zeros(1, length, spec.width), state)
    return state_bytes(after) - state_bytes(state)
