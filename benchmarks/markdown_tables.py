"""Tables of results as Markdown."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A heading, a table of cells, and notes below it."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def format_markdown(table: Table) -> Iterator[str]:
    yield f"\n### {table.heading}\n"
    yield "| " + " | ".join(table.columns) + " |"
    yield "|" + "---|" * len(table.columns)
    yield from ("| " + " | ".join(row) + " |" for row in table.rows)
    yield from (f"\n{note}" for note in table.notes)
