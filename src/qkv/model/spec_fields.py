"""An `AttentionSpec` as a field of a recipe: a mapping in YAML, validated with the messages of the spec."""

from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, InstanceOf, PlainSerializer, PlainValidator

from qkv.errors import BadRecipe
from qkv.spec import AttentionSpec

Place = Literal["encoder", "decoder", "cross"]  # of an attention in an encoder–decoder
PLACES: tuple[Place, ...] = get_args(Place)


def parse_spec(value: Any) -> Any:
    """Read the value of a field.

    Args:
        value: A mapping such as `{score: additive}`, or a spec.

    Returns:
        The spec.

    Raises:
        BadRecipe: It is neither.
    """
    if isinstance(value, AttentionSpec):
        return value
    if isinstance(value, dict):
        return AttentionSpec.from_dict(value)
    raise BadRecipe(f"expected an attention like {{score: additive}}, got {value!r}")


def parse_optional_spec(value: Any) -> AttentionSpec | None:
    """Read the value of a field that may be null.

    Args:
        value: A mapping such as `{score: additive}`, a spec, or None.

    Returns:
        The spec, or None.

    Raises:
        BadRecipe: It is none of them.
    """
    return None if value is None else parse_spec(value)


def parse_causal_spec(value: Any) -> Any:
    """Read the value of a field whose attention is causal unless the mapping says otherwise.

    Args:
        value: A mapping such as `{score: additive}`, or a spec.

    Returns:
        The spec.

    Raises:
        BadRecipe: It is neither.
    """
    if isinstance(value, AttentionSpec):
        return replace(value, causal=True)
    return parse_spec({"causal": True, **value} if isinstance(value, dict) else value)


_TO_DICT = PlainSerializer(lambda spec: spec.to_dict())
SpecField = Annotated[InstanceOf[AttentionSpec], BeforeValidator(parse_spec), _TO_DICT]
CausalSpecField = Annotated[InstanceOf[AttentionSpec], BeforeValidator(parse_causal_spec), _TO_DICT]
OptionalSpecField = Annotated[
    AttentionSpec | None,
    PlainValidator(parse_optional_spec),
    PlainSerializer(lambda spec: None if spec is None else spec.to_dict()),
]
