"""An AttentionSpec as a field of a recipe: written as plain data, read with the spec's own messages."""

from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from qkv.spec import AttentionSpec


def _read(written: Any) -> Any:
    return AttentionSpec.from_dict(written) if isinstance(written, dict) else written


WrittenSpec = Annotated[
    InstanceOf[AttentionSpec],
    BeforeValidator(_read),
    PlainSerializer(lambda spec: spec.to_dict()),
]
