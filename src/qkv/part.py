"""A part is one choice on one axis: a frozen value that knows its facts and how to build itself."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from pydantic import ValidationError

from qkv.errors import BadRecipe, UnknownName, did_you_mean
from qkv.strict import explain


class Part:
    """Base of every part: `name` is what recipes call it, `formula` and `paper` are what is printed of it."""

    axis: ClassVar[str]
    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The part as plain data, `{"name": ..., option: value, ...}`; `from_dict` reads it back."""
        return {"name": self.name, **{option: getattr(self, option) for option in options_of(type(self))}}


def options_of(kind: type[Part]) -> list[str]:
    """The names of a part's options, in the order of its constructor."""
    return [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]


def from_dict(registry: Mapping[str, type[Part]], axis: str, written: Any) -> Part:
    """Read a part from a recipe: its bare name, or a mapping with `name` and options.

    Raises UnknownName, with the nearest known name, for an unknown part or option; BadRecipe for an option
    out of range.
    """
    if not isinstance(written, str | Mapping):
        raise UnknownName(f"{axis} must be a name or {{name: ..., option: ...}}, got {written!r}")
    options = {"name": written} if isinstance(written, str) else dict(written)
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        raise UnknownName(f"unknown {axis}: {name!r}. {did_you_mean(str(name), registry)}")
    kind = registry[name]
    known = options_of(kind)
    for option in options:
        if option not in known:
            raise UnknownName(f"unknown option of {axis}={name}: {option!r}. {did_you_mean(option, known)}")
    try:
        return kind(**options)
    except ValidationError as error:
        raise BadRecipe(f"{axis}={name}: {explain(error)}") from None
