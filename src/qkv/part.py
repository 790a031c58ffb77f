"""A part is one choice on one axis: a frozen value that declares its facts and builds itself."""

from abc import ABCMeta
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from qkv.errors import BadRecipe, UnknownName, did_you_mean
from qkv.shapes import Dims
from qkv.strict import describe_errors

AnyPart = TypeVar("AnyPart", bound="Part")


class PartMeta(ABCMeta):
    """Metaclass of parts: a wrong option raises the same error from Python as from a recipe."""

    def __call__(
        cls: type[AnyPart],  # pyright: ignore[reportGeneralTypeIssues]
        *values: Any,
        **options: Any,
    ) -> AnyPart:
        """Build the part.

        Args:
            *values: Options by position.
            **options: Options by name.

        Returns:
            The part.

        Raises:
            UnknownName: There is no such option; the message offers the nearest one.
            BadRecipe: An option is missing or out of range.
        """
        known = list_options(cls)
        for option in options:
            if option not in known:
                problem = f"unknown option of {cls.axis}={cls.name}: {option!r}"
                raise UnknownName(
                    f"{problem}. {did_you_mean(option, known)}"
                    if known
                    else f"{problem}; it has no options: leave it out"
                )
        try:
            return type.__call__(cls, *values, **options)
        except ValidationError as error:
            problems = describe_errors(error, names=known)
            raise BadRecipe(f"{cls.axis}={cls.name}: {problems}") from None


class Part(metaclass=PartMeta):
    """Base of every part.

    Attributes:
        axis: "score", "scope", "select" or "kernel".
        name: Its name in recipes.
        formula: Its formula, for listings.
        paper: Its source, for listings.
        estimates: The exact attention that a random feature map estimates; "" for other parts.
        key_limit_option: The option that limits how many keys the part accepts; None where there is no limit.
        grid: Height, width and radius of a scope whose positions are the cells of a grid, hidden cells
            included, and which allows the keys at most `radius` rows and columns away; None for other parts.
        predicts_positions: Whether a scope computes a position from every query, with its module's `predict`.
        example_options: Options for examples, of a part whose options have no defaults.
    """

    axis: ClassVar[str]
    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    estimates: ClassVar[str] = ""
    key_limit_option: ClassVar[str | None] = None
    grid: ClassVar[tuple[int, int, int] | None] = None
    predicts_positions: ClassVar[bool] = False
    example_options: ClassVar[Mapping[str, Any]] = {}

    def build(self, dims: Dims) -> Any:
        """Build what computes the part.

        Args:
            dims: The number of heads, and the widths per head.

        Returns:
            A module, if the part has parameters or buffers; the part itself, the default, if it has none.
        """
        return self

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of this part's matrix products for one sequence, two for each multiplication.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed: T·S, or fewer for a window.

        Returns:
            The operations of a forward pass; 0, the default, for a part without matrix products.
        """
        return 0

    def count_numbers_per_pair(self, dims: Dims) -> int:
        """Count the numbers that a score holds for each pair of a query and a key while it is computed.

        Args:
            dims: The number of heads, and the widths per head.

        Returns:
            The numbers; 1, the default, is the score itself.
        """
        return 1

    def to_dict(self) -> dict[str, Any]:
        """Convert the part to plain data, which `from_dict` reads.

        Returns:
            `{"name": ..., option: value, ...}`.
        """
        return {"name": self.name, **{option: getattr(self, option) for option in list_options(type(self))}}


def list_options(part_class: type[Part]) -> list[str]:
    """List the names of a part's options.

    Args:
        part_class: The class of the part.

    Returns:
        The names in the order of the constructor.
    """
    return [field.name for field in fields(part_class)]  # pyright: ignore[reportArgumentType]


def from_dict(registry: Mapping[str, type[Part]], axis: str, value: Any) -> Part:
    """Read a part from a recipe.

    Args:
        registry: The parts of the axis by name.
        axis: The axis, for error messages.
        value: The name of the part, or a mapping with `name` and options.

    Returns:
        The part.

    Raises:
        UnknownName: There is no such part or option; the message offers the nearest one.
        BadRecipe: An option is missing or out of range.
    """
    if not isinstance(value, str | Mapping):
        raise UnknownName(f"{axis} must be a name or {{name: ..., option: ...}}, got {value!r}")
    options = {"name": value} if isinstance(value, str) else {str(key): v for key, v in value.items()}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        raise UnknownName(f"unknown {axis}: {name!r}. {did_you_mean(str(name), registry)}")
    return registry[name](**options)
