"""Cheaper checks of types at run time: a scope for letters of shapes only where a signature names a shape.

The pytest option --jaxtyping-packages decorates every function of the library with `jaxtyping.jaxtyped`.
That binds the arguments, opens a scope for the letters and lets beartype check the parameters twice.  Most
signatures name no shape: there, beartype alone checks the same annotations in a small part of the time.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ForwardRef, Literal, get_args, get_origin

import jaxtyping
from beartype import beartype

jaxtyped = jaxtyping.jaxtyped


def list_parts(annotation: Any) -> list[Any]:
    """An annotation and all types that it is made of."""
    inner = () if get_origin(annotation) is Literal else get_args(annotation)
    return [annotation, *(part for each in inner for part in list_parts(each))]


def names_shape(annotation: Any) -> bool:
    """Whether an annotation contains an array type, or text, which may stand for one."""
    return any(
        isinstance(part, (str, ForwardRef))
        or (isinstance(part, type) and issubclass(part, jaxtyping.AbstractArray))
        for part in list_parts(annotation)
    )


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose arguments and result are checked unless `jaxtyping_disable` is set."""
    checked = beartype(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return function(*args, **kwargs) if jaxtyping.config.jaxtyping_disable else checked(*args, **kwargs)

    return call


def check(decorated: Any = None, **options: Any) -> Any:
    """In place of `jaxtyping.jaxtyped`, which still decorates classes, and functions of arrays."""
    if decorated is None:
        return lambda each: check(each, **options)
    if inspect.isfunction(decorated) and not any(map(names_shape, decorated.__annotations__.values())):
        return check_types(decorated)
    return jaxtyped(decorated, **options)


def install() -> None:
    """Let the library's functions, which are imported later, be decorated with `check`."""
    jaxtyping.jaxtyped = check
