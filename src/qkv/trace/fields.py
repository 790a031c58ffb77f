"""Reads typed values out of a parsed JSON header; every mismatch is a BadData that names the place."""

from typing import Any

from qkv.errors import BadData, did_you_mean


def read_strings(value: Any, label: str) -> tuple[str, ...]:
    """A list of strings as a tuple."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadData(f"{label} is not a list of strings")
    return tuple(value)


def read_mapping(value: Any, label: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
    """A JSON object; where `known` keys are listed, it may have no others."""
    if not isinstance(value, dict):
        raise BadData(f"{label} is not a mapping")
    for key in value:
        if known and key not in known:
            raise BadData(f"{label} has an unknown key {key!r}. {did_you_mean(key, known)}")
    return value
