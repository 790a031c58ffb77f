"""From which length on an attention costs less than softmax over all keys, in operations and in bytes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from qkv.bench.calls import state_bytes
from qkv.kernel import Softmax
from qkv.model.layer_attention import complete_spec_of_layer, get_specs_by_layer
from qkv.model.spec_fields import PLACES
from qkv.scope import Global
from qkv.score import ScaledDot
from qkv.select import Soft
from qkv.spec import AttentionSpec
from qkv.tracing import use_backends_of

MAX_LENGTH = 2**22


class Crossover(NamedTuple):
    """From which lengths on an attention costs less than softmax; None: at no length up to `MAX_LENGTH`.

    Args:
        name: which attention of the model, such as "decoder".
        operations: for a forward pass of the layer over as many keys as queries.
        state: for the bytes of the state of decoding; None where the attention does not decode.
    """

    name: str
    operations: int | None
    state: int | None


def find_crossovers(config: Any) -> list[Crossover]:
    """Find the crossovers of every attention with projections that is not softmax over all keys already.

    Args:
        config: the config of the model.

    Returns:
        One crossover for each kind of attention.
    """
    return [
        Crossover(name, _find_operations_crossover(spec), _find_state_crossover(spec))
        for name, spec in iterate_alternatives(config)
    ]


def iterate_alternatives(config: Any) -> Iterator[tuple[str, AttentionSpec]]:
    """The attentions with projections that are not softmax over all keys already.

    Args:
        config: the config of the model.

    Yields:
        The key of the recipe and the spec.
    """
    for name, spec in iterate_specs(config):
        if spec.project and get_softmax_spec(spec) != spec:
            yield name, spec


def iterate_specs(config: Any) -> Iterator[tuple[str, AttentionSpec]]:
    """The attentions of a model, each with its widths.

    Args:
        config: the config of the model.

    Yields:
        The key of the recipe and the spec.
    """
    if hasattr(config, "complete_spec"):
        for place in PLACES:
            if isinstance(getattr(config, place, None), AttentionSpec):
                yield f"model.{place}", config.complete_spec(place)
                for layer in get_specs_by_layer(config, place):
                    yield f"model.{place}_by_layer.{layer}", config.complete_spec(place, layer)
        if isinstance(getattr(config, "attention", None), AttentionSpec):
            yield "model.attention", config.complete_spec()
    elif hasattr(config, "attention_by_layer") and _uses_attention(config):
        yield "model.attention", complete_spec_of_layer(config)
        for layer in get_specs_by_layer(config):
            yield f"model.attention_by_layer.{layer}", complete_spec_of_layer(config, layer)


def get_softmax_spec(spec: AttentionSpec) -> AttentionSpec:
    """The same layer with softmax of the scaled dot product over all keys.

    Args:
        spec: the attention.

    Returns:
        The spec.
    """
    return replace(spec, score=ScaledDot(), scope=Global(), select=Soft(), kernel=Softmax())


def make_softmax_config(config: Any) -> Any:
    """The same model with softmax over all keys in every attention that has projections.

    Args:
        config: the config of the model.

    Returns:
        The config; the same one where nothing changes.
    """
    names = [name.removeprefix("model.") for name, spec in iterate_specs(config) if spec.project]
    specs = {key: getattr(config, key) for key in names if "." not in key}
    changes: dict[str, Any] = {
        key: softmax for key, spec in specs.items() if (softmax := get_softmax_spec(spec)) != spec
    }
    for place in ("attention", *PLACES):
        if by_layer := get_specs_by_layer(config, place):
            changes[f"{place}_by_layer"] = {n: get_softmax_spec(spec) for n, spec in by_layer.items()}
    return config.model_copy(update=changes) if changes else config


def _uses_attention(config: Any) -> bool:
    return getattr(config, "mixer", "attention") == "attention" and getattr(config, "encoder", "") != "gru"


def _find_operations_crossover(spec: AttentionSpec) -> int | None:
    softmax, limit = get_softmax_spec(spec), spec.key_limit
    most = MAX_LENGTH if limit is None else limit[0]
    return _find_first_length(
        lambda length: spec.count_operations(length, length) < softmax.count_operations(length, length), most
    )


def _find_state_crossover(spec: AttentionSpec) -> int | None:
    """The first length at which the cache of softmax is larger than the state of this attention."""
    if not spec.causal:
        return None
    if spec.kernel.forms_weights:
        reach = spec.scope.reach
        return None if reach is None else reach[0] + 1
    softmax = get_softmax_spec(spec)
    per_token = _measure_state(softmax, 2) - _measure_state(softmax, 1)
    return _measure_state(spec, 1) // per_token + 1


@torch.no_grad()
def _measure_state(spec: AttentionSpec, length: int) -> int:
    with torch.device("meta"), use_backends_of("cpu"):
        layer = spec.build()
        _, state = layer.step(torch.empty(1, length, spec.width), layer.start())
        return state_bytes(state)


def _find_first_length(is_cheaper: Callable[[int], bool], most: int) -> int | None:
    """The smallest length from which on the condition holds, found by halving; None if not at `most`."""
    if not is_cheaper(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_cheaper(middle) else (middle, high)
    return high
