"""An AttentionSpec as a field of a recipe: written as plain data, read with the spec's own messages."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from qkv.errors import BadRecipe
from qkv.spec import AttentionSpec


def parse_spec(written: Any) -> Any:
    """The spec of `{score: additive}`; BadRecipe for what is no mapping."""
    if isinstance(written, AttentionSpec):
        return written
    if isinstance(written, dict):
        return AttentionSpec.from_dict(written)
    raise BadRecipe(f"expected an attention like {{score: additive}}, got {written!r}")


def parse_causal_spec(written: Any) -> Any:
    """The same, causal unless a recipe says otherwise."""
    if isinstance(written, AttentionSpec):
        return replace(written, causal=True)
    return parse_spec({"causal": True, **written} if isinstance(written, dict) else written)


_PLAIN = PlainSerializer(lambda spec: spec.to_dict())
SpecField = Annotated[InstanceOf[AttentionSpec], BeforeValidator(parse_spec), _PLAIN]
CausalSpecField = Annotated[InstanceOf[AttentionSpec], BeforeValidator(parse_causal_spec), _PLAIN]
