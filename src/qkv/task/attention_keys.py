"""Lists the keys of an attention in a recipe: types, defaults and meanings, from `AttentionSpec`."""

import inspect
from dataclasses import fields
from typing import Any

from qkv.part import Part
from qkv.rules import AXES
from qkv.spec import AttentionSpec
from qkv.task.recipe_keys import RecipeKey, parse_args_block

SET_BY_MODEL = ("d_model", "d_memory")
TYPES = {
    "causal": "true | false",
    "bias": "true | false",
    "project": "true | false",
    "heads": "integer > 0 or null",
    "kv_heads": "integer > 0 or null",
    "dropout": "number ≥ 0, < 1",
}


def list_attention_keys(name: str, is_causal: bool = False) -> list[RecipeKey]:
    """All keys that an attention has in a recipe, but the widths, which models set.

    Args:
        name: the key of the attention, such as "model.decoder".
        is_causal: whether the model takes it to be causal.
    """
    meanings = parse_args_block(inspect.cleandoc(AttentionSpec.__doc__ or ""))
    defaults = {field.name: field.default for field in fields(AttentionSpec)} | {"causal": is_causal}
    return [
        RecipeKey(
            f"{name}.{key}",
            "",
            TYPES.get(key) or " | ".join(AXES[key]),
            _format_default(default),
            meanings[key],
        )
        for key, default in defaults.items()
        if key not in SET_BY_MODEL
    ]


def _format_default(value: Any) -> str:
    if isinstance(value, Part):
        return value.name
    return "null" if value is None else str(value).lower()
