"""`qkv parts`: lists the parts of attention, or prints one in detail, for any width of terminal."""

import shutil
import textwrap
from collections.abc import Iterator

from qkv.catalogue import (
    QUESTIONS,
    build_example,
    describe,
    find_part_class,
    format_for_python,
    format_for_recipe,
    format_label,
    format_options,
    list_facts,
)
from qkv.compatibility import LEGEND, build_matrix, find_clashes, list_variants
from qkv.part import Part, list_options
from qkv.rules import AXES, RULES

INDENT, NAME_WIDTH = "  ", 14


def list_parts(name: str | None) -> None:
    """Print all parts, or the one of that name.  Raises UnknownName."""
    width = shutil.get_terminal_size().columns
    for line in format_overview(width) if name is None else format_part(name, width):
        print(line)


def format_overview(width: int) -> Iterator[str]:
    """Every part by axis, the matrix of combinations, and why some parts clash; for `width` columns."""
    for axis, registry in AXES.items():
        yield f"{axis}: {QUESTIONS[axis]}"
        for kind in registry.values():
            yield from _format_row(kind.name, kind.formula, width)
            yield from _format_row("", kind.paper, width)
            if list_options(kind):
                yield from _format_row("", f"options: {format_options(kind)}", width)
        yield ""
    yield "which parts can be combined"
    yield from (f"{INDENT}{sign}  {meaning}" for sign, meaning in LEGEND.items())
    yield ""
    yield from _format_matrix(width)
    yield ""
    for (one, other), _, reason in RULES:
        yield from _wrap(f"{one} and {other}: {reason}", width)
    yield ""
    yield "One part in detail: qkv parts NAME"


def format_part(name: str, width: int) -> Iterator[str]:
    """Everything about one part, for `width` columns.  Raises UnknownName."""
    kind = find_part_class(name)
    about, options = describe(kind)
    yield f"{kind.name} ({kind.axis}: {QUESTIONS[kind.axis]})"
    yield from _wrap(about, width)
    yield ""
    for title, text in (("formula", kind.formula), ("paper", kind.paper)):
        yield from _format_row(title, text, width)
    for number, fact in enumerate(list_facts(build_example(kind))):
        yield from _format_row("" if number else "facts", fact, width)
    if options:
        yield from ("", "options")
    for option, meaning in options.items():
        yield from _format_entry(format_options(kind, [option]), meaning, width)
    yield from _format_clashes(kind, width)
    yield from ("", "in a Transformer's recipe, under model", INDENT + format_for_recipe(kind))
    yield from ("", "in Python")
    yield from _wrap(format_for_python(kind), width, later=3 * INDENT)


def _format_clashes(kind: type[Part], width: int) -> Iterator[str]:
    """The parts that it cannot be combined with, and those that its other variants cannot."""
    default, *variants = list_variants(kind)
    clashes = find_clashes(default)
    entries = [(", ".join(names), reason) for reason, names in clashes.items()]
    listed = {name for names in clashes.values() for name in names}
    for variant in variants:
        for reason, names in find_clashes(variant).items():
            new = [name for name in names if name not in listed]
            entries += [(f"{', '.join(new)} ({format_label(variant)})", reason)] if new else []
    if entries:
        yield from ("", "cannot be combined with")
    for names, reason in entries:
        yield from _format_entry(names, reason, width)


def _format_matrix(width: int) -> Iterator[str]:
    """A row for every part, a column for every part of an earlier axis; column names are cut to fit."""
    columns, rows = build_matrix()
    first = max(len(format_label(part)) for part, _ in rows) + 2 * len(INDENT)
    names = _shorten_to_fit([format_label(part) for part in columns], width - first)
    yield " " * first + " ".join(names)
    for part, marks in rows:
        signs = [sign.ljust(len(name)) for sign, name in zip(marks, names, strict=False)]
        yield f"{INDENT}{format_label(part)}".ljust(first) + " ".join(signs).rstrip()


def _shorten_to_fit(names: list[str], room: int) -> list[str]:
    longest = max(map(len, names))
    while longest > 1 and sum(min(len(name), longest) + 1 for name in names) > room + 1:
        longest -= 1
    return [name[:longest] for name in names]


def _format_row(name: str, text: str, width: int) -> list[str]:
    room = max(width - NAME_WIDTH - len(INDENT), 20)
    lines = textwrap.wrap(text, room, break_on_hyphens=False)
    return [
        f"{INDENT}{title:<{NAME_WIDTH}}{line}"
        for title, line in zip([name, *[""] * len(lines)], lines, strict=False)
    ]


def _format_entry(head: str, text: str, width: int) -> list[str]:
    return [*_wrap(head, width), *_wrap(text, width, 3 * INDENT)]


def _wrap(text: str, width: int, indent: str = INDENT, later: str | None = None) -> list[str]:
    """The lines of a text with this indent; those after the first one with `later`, if it is passed."""
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent if later is None else later,
        break_on_hyphens=False,
    )
