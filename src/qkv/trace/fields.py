"""Reads typed values from a parsed JSON header; a mismatch raises BadData and names the field."""

from typing import Any

from qkv.errors import BadData, did_you_mean

JSON_TYPES = {
    dict: "a mapping",
    list: "a list",
    str: "a string",
    bool: "true or false",
    type(None): "null or missing",
}


def read_strings(value: Any, label: str) -> tuple[str, ...]:
    """Read a list of strings.

    Args:
        value: the parsed value.
        label: names the field in the message.

    Raises:
        BadData: for any other value.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadData(
            f"{label} is not a list of strings, but {describe_type(value)}: write a list of strings"
        )
    return tuple(value)


def read_mapping(value: Any, label: str, allowed_keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        value: the parsed value.
        label: names the field in the message.
        allowed_keys: the keys that it may have; all keys if empty.

    Raises:
        BadData: for any other value, and for an unknown key.
    """
    if not isinstance(value, dict):
        raise BadData(f"{label} is not a mapping, but {describe_type(value)}: write keys and values")
    for key in value:
        if allowed_keys and key not in allowed_keys:
            raise BadData(f"{label} has an unknown key {key!r}. {did_you_mean(key, allowed_keys)}")
    return value


def describe_type(value: Any) -> str:
    """The JSON type of a value in words, for messages."""
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return "a list with other items"
    return JSON_TYPES.get(type(value), "a number")
