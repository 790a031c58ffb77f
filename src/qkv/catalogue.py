"""Descriptions of every part, for `qkv parts` and the page of mechanisms.

Everything is read from the parts and their docstrings.
"""

import inspect
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from qkv.errors import UnknownName, did_you_mean
from qkv.part import Part, list_options
from qkv.rules import AXES

QUESTIONS = {
    "score": "how alike are a query and a key?",
    "scope": "which keys may be seen?",
    "select": "how do scores become weights?",
    "kernel": "how is the average computed?",
}
# The facts that the parts of an axis declare: the text where a fact holds, and where it does not.
FACTS: dict[str, dict[str, tuple[str, str]]] = {
    "score": {
        "learns": ("learns parameters", "has no parameters"),
        "two_widths": ("queries and keys may differ in width", "queries and keys must have one width"),
        "positional": ("depends on the positions of keys", "does not depend on the positions of keys"),
    },
    "scope": {
        "learns": ("learns parameters", "has no parameters"),
        "positional": ("depends on the positions of keys", "does not depend on the positions of keys"),
        "normalised": ("weights sum to 1", "weights sum to less than 1"),
    },
    "select": {
        "sparse": ("some keys get exactly no weight", "every key that may be seen gets some weight"),
        "samples": ("samples in training", "never samples"),
    },
    "kernel": {
        "forms_weights": (
            "forms the T×S weights",
            "never forms the T×S weights: linear time and memory",
        ),
    },
}
EXAMPLE_VALUE = 64  # of an option without a default
SECTIONS = ("References:", "Example:", "Returns:", "Raises:")


class Description(NamedTuple):
    """What the docstring of a part says.

    Args:
        summary: The text before the sections.
        options: The meaning of every option, by name.
    """

    summary: str
    options: dict[str, str]


def list_part_classes() -> list[type[Part]]:
    """List the class of every registered part, axis by axis.

    Returns:
        The classes in the order of the registries.
    """
    return [part_class for registry in AXES.values() for part_class in registry.values()]


def find_part_class(name: str) -> type[Part]:
    """Find a part by its name in recipes or in Python.

    Args:
        name: Such as "scaled_dot" or "ScaledDot".

    Returns:
        The class of the part.

    Raises:
        UnknownName: No part has this name; the message offers the nearest one.
    """
    by_name = {part_class.name: part_class for part_class in list_part_classes()}
    by_class = {part_class.__name__.lower(): part_class for part_class in list_part_classes()}
    try:
        return by_name.get(name) or by_class[name.lower()]
    except KeyError:
        raise UnknownName(f"unknown part: {name!r}. {did_you_mean(name, by_name)}") from None


def describe(part_class: type[Part]) -> Description:
    """Read the docstring of a part: its summary, and the entries of its `Args:` block.

    Args:
        part_class: The class of the part.

    Returns:
        The summary, and the options in the order of the constructor.
    """
    known = list_options(part_class)
    summary: list[str] = []
    entries: dict[str, list[str]] = {}
    current: list[str] = summary
    for line in inspect.cleandoc(part_class.__doc__ or "").splitlines():
        if line in SECTIONS or line.startswith(">>>"):
            break
        name, _, meaning = line.strip().partition(": ")
        if meaning and name in known:
            current = entries[name] = [meaning]
        elif line != "Args:":
            current.append(line)
    return Description(_join_lines(summary), {name: _join_lines(entries[name]) for name in known})


def format_options(part_class: type[Part], names: Iterable[str] | None = None) -> str:
    """Format options as in the constructor, `half_width, left=None`; one without a default stands alone.

    Args:
        part_class: The class of the part.
        names: Which options; None takes all.

    Returns:
        The options, separated by commas.
    """
    selected = list_options(part_class) if names is None else list(names)
    selected_fields = [field for field in fields(part_class) if field.name in selected]  # pyright: ignore[reportArgumentType]
    return ", ".join(
        f.name if f.default is MISSING else f"{f.name}={_quote(f.default)}" for f in selected_fields
    )


def list_facts(part: Part) -> list[str]:
    """Describe the facts that the part declares.

    Args:
        part: The part with its options.

    Returns:
        One short text per fact.
    """
    texts = [words[not getattr(part, fact)] for fact, words in FACTS[part.axis].items()]
    return [*texts, f"estimates the {part.estimates}"] if part.estimates else texts


def build_example(part_class: type[Part]) -> Part:
    """Build the part with its defaults, and its `example_options` or `EXAMPLE_VALUE` for options without one.

    Args:
        part_class: The class of the part.

    Returns:
        The part.
    """
    return part_class(**_required_options(part_class))


def format_label(part: Part) -> str:
    """Format the name of the part and the options that differ from the defaults.

    Args:
        part: The part.

    Returns:
        Such as "rfa gate=True".
    """
    defaults = build_example(type(part)).to_dict()
    changed = [f"{option}={value}" for option, value in part.to_dict().items() if value != defaults[option]]
    return f"{part.name} {', '.join(changed)}".rstrip()


def format_for_recipe(part_class: type[Part]) -> str:
    """Write a line of a Transformer's recipe that uses the part.

    Args:
        part_class: The class of the part.

    Returns:
        A line of YAML.
    """
    options = _example_options(part_class)
    if not options:
        return f"cross: {{{part_class.axis}: {part_class.name}}}"
    named = ", ".join([f"name: {part_class.name}", *(f"{o}: {value}" for o, value in options.items())])
    return f"cross: {{{part_class.axis}: {{{named}}}}}"


def format_for_python(part_class: type[Part]) -> str:
    """Write a line of Python that uses the part.

    Args:
        part_class: The class of the part.

    Returns:
        An expression.
    """
    options = ", ".join(f"{name}={_quote(value)}" for name, value in _example_options(part_class).items())
    return f"qkv.Attention(512, heads=8, {part_class.axis}=qkv.{part_class.__name__}({options}))"


def _join_lines(lines: Iterable[str]) -> str:
    return " ".join(" ".join(lines).split())


def _required_options(part_class: type[Part]) -> dict[str, Any]:
    examples = part_class.example_options
    required = [f.name for f in fields(part_class) if f.default is MISSING]  # pyright: ignore[reportArgumentType]
    return {name: examples.get(name, EXAMPLE_VALUE) for name in required}


def _example_options(part_class: type[Part]) -> dict[str, Any]:
    """The required options, or else the first option where its default is not None."""
    part, first = build_example(part_class), list_options(part_class)[:1]
    return _required_options(part_class) or {
        o: getattr(part, o) for o in first if getattr(part, o) is not None
    }


def _quote(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
