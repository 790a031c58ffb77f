"""Every function of the library is checked while tests run, with or without shapes in its signature."""

from typing import Any

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import shape_checks
from qkv.errors import did_you_mean


def repeat(text: str, count: int) -> list[str]:
    return [text] * count or "none"  # pyright: ignore[reportReturnType]


def pair(x: Float[Tensor, "B T"], others: list[Float[Tensor, "B T"]]) -> int:
    return len(others)


def test_functions_without_shapes_are_checked() -> None:
    checked: Any = shape_checks.check_types(repeat)
    assert checked("a", 2) == ["a", "a"]
    for arguments in (("a", "b"), ("a", 0)):
        with pytest.raises(BeartypeCallHintViolation):
            checked(*arguments)
    with pytest.raises(BeartypeCallHintViolation):
        did_you_mean(7, [])  # pyright: ignore[reportArgumentType]


def test_shapes_of_one_call_must_agree() -> None:
    assert not shape_checks.names_shape(dict[str, int])
    assert all(map(shape_checks.names_shape, pair.__annotations__["others"].__args__))
    assert shape_checks.names_shape(dict[str, "Tensor"])
    checked: Any = shape_checks.check(pair, typechecker=shape_checks.beartype)
    assert checked(torch.ones(2, 3), [torch.ones(2, 3)]) == 1
    with pytest.raises(TypeCheckError):
        checked(torch.ones(2, 3), [torch.ones(2, 4)])


def test_checks_can_be_left_out(unchecked: None) -> None:
    checked: Any = shape_checks.check_types(repeat)
    assert checked("a", 0) == "none"
