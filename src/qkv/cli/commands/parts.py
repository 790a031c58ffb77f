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

INDENT, NAMES = "  ", 14


def list_parts(name: str | None) -> None:
    """Print all parts, or the one of that name.  Raises UnknownName."""
    width = shutil.get_terminal_size().columns
    for line in overview(width) if name is None else detail(name, width):
        print(line)


def overview(width: int) -> Iterator[str]:
    """Every part by axis, the matrix of what goes together, and why others do not; for `width` columns."""
    for axis, registry in AXES.items():
        yield f"{axis}: {QUESTIONS[axis]}"
        for kind in registry.values():
            yield from _block(kind.name, kind.formula, width)
            yield from _block("", kind.paper, width)
            if list_options(kind):
                yield from _block("", f"options: {format_options(kind)}", width)
        yield ""
    yield "what goes together"
    yield from (f"{INDENT}{sign}  {meaning}" for sign, meaning in LEGEND.items())
    yield ""
    yield from _matrix(width)
    yield ""
    for (one, other), _, why in RULES:
        yield from _wrapped(f"{one} and {other}: {why}", width)
    yield ""
    yield "One part in detail: qkv parts NAME"


def detail(name: str, width: int) -> Iterator[str]:
    """All that is known of one part, for `width` columns.  Raises UnknownName."""
    kind = find_part_class(name)
    about, options = describe(kind)
    yield f"{kind.name} ({kind.axis}: {QUESTIONS[kind.axis]})"
    yield from _wrapped(about, width)
    yield ""
    for title, text in (("formula", kind.formula), ("paper", kind.paper)):
        yield from _block(title, text, width)
    for number, fact in enumerate(list_facts(build_example(kind))):
        yield from _block("" if number else "facts", fact, width)
    if options:
        yield from ("", "options")
    for option, meaning in options.items():
        yield from _entry(format_options(kind, [option]), meaning, width)
    yield from _clash_lines(kind, width)
    yield from ("", "in a Transformer's recipe, under model", INDENT + format_for_recipe(kind))
    yield from ("", "in Python", INDENT + format_for_python(kind))


def _clash_lines(kind: type[Part], width: int) -> Iterator[str]:
    usual, *others = list_variants(kind)
    told = [(why, ", ".join(names)) for why, names in find_clashes(usual).items()]
    known = {name for names in find_clashes(usual).values() for name in names}
    for other in others:
        clashes = find_clashes(other).items()
        more = {why: [name for name in names if name not in known] for why, names in clashes}
        told += [(why, f"{', '.join(names)} ({format_label(other)})") for why, names in more.items() if names]
    if told:
        yield from ("", "never with")
    for why, names in told:
        yield from _entry(names, why, width)


def _matrix(width: int) -> Iterator[str]:
    """Parts down, parts of earlier axes across, names across as long as there is room for."""
    across, rows = build_matrix()
    first = max(len(format_label(part)) for part, _ in rows) + 2 * len(INDENT)
    names = _headers([format_label(part) for part in across], width - first)
    yield " " * first + " ".join(names)
    for part, marks in rows:
        signs = [sign.ljust(len(name)) for sign, name in zip(marks, names, strict=False)]
        yield f"{INDENT}{format_label(part)}".ljust(first) + " ".join(signs).rstrip()


def _headers(names: list[str], room: int) -> list[str]:
    longest = max(map(len, names))
    while longest > 1 and sum(min(len(name), longest) + 1 for name in names) > room + 1:
        longest -= 1
    return [name[:longest] for name in names]


def _block(name: str, text: str, width: int) -> list[str]:
    room = max(width - NAMES - len(INDENT), 20)
    lines = textwrap.wrap(text, room, break_on_hyphens=False)
    return [
        f"{INDENT}{title:<{NAMES}}{line}"
        for title, line in zip([name, *[""] * len(lines)], lines, strict=False)
    ]


def _entry(head: str, text: str, width: int) -> list[str]:
    return [*_wrapped(head, width), *_wrapped(text, width, 3 * INDENT)]


def _wrapped(text: str, width: int, indent: str = INDENT) -> list[str]:
    return textwrap.wrap(
        text, max(width, 20), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
