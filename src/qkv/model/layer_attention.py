"""Stacks of layers in which single layers have another attention than the others.

A config has the attention of a place, such as `attention` or `cross`, under the name of the place, and the
attentions of single layers under that name with `_by_layer` behind it.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qkv.errors import BadRecipe
from qkv.model.length_limits import LengthLimit, find_smallest_limit, get_key_limit
from qkv.spec import AttentionSpec


def get_specs_by_layer(config: Any, place: str = "attention") -> dict[int, AttentionSpec]:
    """Number of a layer, from 0 -> its own attention, for the layers that have one.

    Args:
        config: the config of the model.
        place: the key of the attention.
    """
    return getattr(config, f"{place}_by_layer", {})


def complete_spec_of_layer(config: Any, layer: int | None = None, place: str = "attention") -> AttentionSpec:
    """The attention of a layer with the width of the model and, where it names none, its heads.

    Args:
        config: the config of the model.
        layer: the number of the layer, from 0; None takes the attention of layers without one of their own.
        place: the key of the attention.

    Returns:
        The spec.
    """
    own = {} if layer is None else get_specs_by_layer(config, place)
    spec: AttentionSpec = own[layer] if layer in own else getattr(config, place)
    return replace(spec, d_model=config.width, heads=spec.heads or config.heads)


def list_specs(config: Any, place: str = "attention") -> dict[str, AttentionSpec]:
    """Every attention of a place as the recipe has it, by its key, such as "attention_by_layer.3".

    Args:
        config: the config of the model.
        place: the key of the attention.
    """
    own = get_specs_by_layer(config, place)
    return {place: getattr(config, place), **{f"{place}_by_layer.{n}": spec for n, spec in own.items()}}


def find_key_limit(config: Any, place: str = "attention") -> LengthLimit | None:
    """The smallest limit of all attentions of a place on their keys; None where there is none.

    Args:
        config: the config of the model.
        place: the key of the attention.
    """
    specs = list_specs(config, place)
    return find_smallest_limit(*(get_key_limit(spec, f"model.{key}") for key, spec in specs.items()))


def check_layer_numbers(config: Any, layers: Iterable[int], place: str = "attention") -> None:
    """Check that attentions of single layers belong to layers with attention.

    Args:
        config: the config of the model.
        layers: the numbers of these layers, from 0.
        place: the key of the attention.

    Raises:
        BadRecipe: a number is none of them.
    """
    known = list(layers)
    for layer in get_specs_by_layer(config, place):
        if layer not in known:
            numbers = f"{known[0]} to {known[-1]}" if known else "none"
            raise BadRecipe(
                f"{place}_by_layer has the layer {layer}, and the layers with attention are {numbers}, "
                "counted from 0: use their numbers"
            )


def check_specs_of_decoder(config: Any, layers: int, place: str) -> None:
    """Check the attentions of a place of an encoder–decoder: only "decoder" is causal, no widths are named.

    Args:
        config: the config of the model, with `complete_spec(place, layer)`.
        layers: the number of layers.
        place: the key of the attention: "encoder", "decoder" or "cross".

    Raises:
        BadRecipe: an attention cannot stand there, or belongs to no layer.
    """
    for key, spec in list_specs(config, place).items():
        if spec.d_model is not None or spec.d_memory is not None:
            raise BadRecipe(f"{key}: d_model and d_memory follow from width: leave them out and set width")
        if spec.causal != (place == "decoder"):
            raise BadRecipe(f"{key}: causal must be {place == 'decoder'} there. Leave it out")
    check_layer_numbers(config, range(layers), place)
    for layer in (None, *get_specs_by_layer(config, place)):
        config.complete_spec(place, layer)
