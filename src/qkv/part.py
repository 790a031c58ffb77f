"""A part is one choice on one axis: a frozen value that knows its facts and how to build itself."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from qkv.errors import BadRecipe, UnknownName, did_you_mean
from qkv.strict import explain

Chosen = TypeVar("Chosen", bound="Part")


class Checked(type):
    """Makes every part report a wrong option in this library's words, from Python as from a recipe."""

    def __call__(
        cls: type[Chosen],  # pyright: ignore[reportGeneralTypeIssues]
        *values: Any,
        **options: Any,
    ) -> Chosen:
        """The part with these options.

        Raises UnknownName, with the nearest known name, for an unknown option; BadRecipe for one that is
        missing or out of range.
        """
        known = options_of(cls)
        for option in options:
            if option not in known:
                asked = f"unknown option of {cls.axis}={cls.name}: {option!r}"
                raise UnknownName(
                    f"{asked}. {did_you_mean(option, known)}" if known else f"{asked}; it has none"
                )
        try:
            return type.__call__(cls, *values, **options)
        except ValidationError as error:
            raise BadRecipe(f"{cls.axis}={cls.name}: {explain(error, names=known)}") from None


class Part(metaclass=Checked):
    """Base of every part: `name` is what recipes call it, `formula` and `paper` are what is printed of it.

    key_limit_option: the option that limits how many keys the part serves; None where any number is served.
    """

    axis: ClassVar[str]
    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    key_limit_option: ClassVar[str | None] = None

    def to_dict(self) -> dict[str, Any]:
        """The part as plain data, `{"name": ..., option: value, ...}`; `from_dict` reads it back."""
        return {"name": self.name, **{option: getattr(self, option) for option in options_of(type(self))}}


def options_of(kind: type[Part]) -> list[str]:
    """The names of a part's options, in the order of its constructor."""
    return [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]


def from_dict(registry: Mapping[str, type[Part]], axis: str, written: Any) -> Part:
    """Read a part from a recipe: its bare name, or a mapping with `name` and options.

    Raises UnknownName, with the nearest known name, for an unknown part or option; BadRecipe for an option
    that is missing or out of range.
    """
    if not isinstance(written, str | Mapping):
        raise UnknownName(f"{axis} must be a name or {{name: ..., option: ...}}, got {written!r}")
    options = {"name": written} if isinstance(written, str) else {str(key): v for key, v in written.items()}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        raise UnknownName(f"unknown {axis}: {name!r}. {did_you_mean(str(name), registry)}")
    return registry[name](**options)
