"""Lines to translate as token ids; a line that is too long or unknown is a problem of that line alone."""

import re
import warnings
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from qkv.data import Tokenizer, max_characters
from qkv.errors import BadData
from qkv.model.length_limits import LengthLimit
from qkv.task.translate.capacity import TRAINED

Kind = Literal["too long", "unknown"]


class LineWarning(UserWarning):
    """A line could not be translated as it stands."""


class Problem(NamedTuple):
    """A line, counted from 1, that cannot be translated as it stands.

    warning: what is wrong with it and what was done.  error: what is wrong with it and how to avoid that.
    """

    line: int
    kind: Kind
    warning: str
    error: str


OnProblem = Callable[[Problem], None]


def as_lines(lines: str | Iterable[str]) -> Iterable[str]:
    """The lines; a string is one line, not its characters."""
    return [lines] if isinstance(lines, str) else lines


def encode_line(
    tokenizer: Tokenizer, line: str, number: int, limit: LengthLimit
) -> tuple[list[int], list[Problem]]:
    """The ids of a line, at most `limit` of them, and what was wrong with it.

    White space has no ids, and neither has a line of which the tokenizer knows nothing.
    """
    if not line.strip():
        return [], []
    most = max_characters(limit.positions)
    if len(line) > most and tokenizer.kind != "char":  # the tokenizer drops these spaces, which may be many
        line = re.sub(" +", " ", line).strip(" ")
    begin = line[:most]
    ids = tokenizer.encode([begin])[0]
    kept = ids[: limit.positions]
    if tokenizer.is_unknown(kept):
        return [], [_unknown(line, number)]
    if len(begin) < len(line):
        return kept, [_too_long(number, f"{len(line):,} characters, too many for", limit, len(kept))]
    if len(kept) < len(ids):
        return kept, [_too_long(number, f"{len(ids):,} tokens, more than", limit, len(kept))]
    return ids, []


def refuse(problem: Problem) -> None:
    """Raise BadData for the problem."""
    raise BadData(problem.error)


def warn(problem: Problem) -> None:
    """Say it as a LineWarning."""
    warnings.warn(problem.warning, LineWarning, stacklevel=2)


def lines_of(problems: Iterable[Problem], kind: Kind) -> list[int]:
    """The numbers of the lines with this kind of problem."""
    return [problem.line for problem in problems if problem.kind == kind]


def _unknown(line: str, number: int) -> Problem:
    what, shown = f"line {number} holds nothing this model knows", repr(line[:40])
    return Problem(
        number,
        "unknown",
        f"{what}, {shown}: its translation is left empty",
        f"{what}: {shown} is in words or a script that it was not trained on",
    )


def _too_long(number: int, size: str, limit: LengthLimit, kept: int) -> Problem:
    ability = "was trained for" if limit.key == TRAINED else "can hold"
    what = f"line {number} has {size} the {limit.positions:,} tokens this model {ability} ({limit.key})"
    return Problem(
        number,
        "too long",
        f"{what}: only the first {kept:,} tokens are translated",
        f"{what}: split it into sentences",
    )
