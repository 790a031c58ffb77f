"""An AttentionSpec as a field of a recipe: written as plain data, read with the spec's own messages."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from qkv.errors import BadRecipe
from qkv.spec import AttentionSpec


def read_attention(written: Any) -> Any:
    """The spec of `{score: additive}`; BadRecipe for what is no mapping."""
    if isinstance(written, AttentionSpec):
        return written
    if isinstance(written, dict):
        return AttentionSpec.from_dict(written)
    raise BadRecipe(f"expected an attention like {{score: additive}}, got {written!r}")


def read_causal(written: Any) -> Any:
    """The same, causal unless a recipe says otherwise."""
    if isinstance(written, AttentionSpec):
        return replace(written, causal=True)
    return read_attention({"causal": True, **written} if isinstance(written, dict) else written)


_PLAIN = PlainSerializer(lambda spec: spec.to_dict())
WrittenSpec = Annotated[InstanceOf[AttentionSpec], BeforeValidator(read_attention), _PLAIN]
CausalSpec = Annotated[InstanceOf[AttentionSpec], BeforeValidator(read_causal), _PLAIN]
