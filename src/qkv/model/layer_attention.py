"""Stacks of layers in which single layers have another attention than the others."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qkv.errors import BadRecipe
from qkv.model.length_limits import LengthLimit, find_smallest_limit, get_key_limit
from qkv.spec import AttentionSpec


def complete_spec_of_layer(config: Any, layer: int | None = None) -> AttentionSpec:
    """The attention of a layer with the width of the model and, where it names none, its heads.

    Args:
        config: the config of the model, with `attention` and `attention_by_layer`.
        layer: the number of the layer, from 0; None takes the attention of layers without one of their own.

    Returns:
        The spec.
    """
    spec: AttentionSpec = config.attention_by_layer.get(layer, config.attention)
    return replace(spec, d_model=config.width, heads=spec.heads or config.heads)


def list_specs(config: Any) -> dict[str, AttentionSpec]:
    """Every attention of a config as the recipe has it, by its key, such as "attention_by_layer.3".

    Args:
        config: the config of the model.
    """
    single = {f"attention_by_layer.{layer}": spec for layer, spec in config.attention_by_layer.items()}
    return {"attention": config.attention, **single}


def find_key_limit(config: Any) -> LengthLimit | None:
    """The smallest limit of all attentions on their keys; None where there is none.

    Args:
        config: the config of the model.
    """
    specs = list_specs(config)
    return find_smallest_limit(*(get_key_limit(spec, f"model.{key}") for key, spec in specs.items()))


def check_layer_numbers(config: Any, layers: Iterable[int]) -> None:
    """Check that attentions of single layers belong to layers with attention.

    Args:
        config: the config of the model.
        layers: the numbers of these layers, from 0.

    Raises:
        BadRecipe: a number is none of them.
    """
    known = list(layers)
    for layer in config.attention_by_layer:
        if layer not in known:
            numbers = f"{known[0]} to {known[-1]}" if known else "none"
            raise BadRecipe(
                f"attention_by_layer has the layer {layer}, and the layers with attention are {numbers}, "
                "counted from 0: use their numbers"
            )
