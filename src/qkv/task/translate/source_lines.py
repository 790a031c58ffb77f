"""Lines to translate as token ids; a line that is too long or unknown is a problem of that line alone."""

import re
from collections.abc import Iterable

from qkv.data import Tokenizer, compute_max_characters
from qkv.model.length_limits import LengthLimit
from qkv.task.line_problems import LineProblem
from qkv.task.translate.pair_lengths import TRAINED

TOO_LONG, UNKNOWN = "too long", "unknown"  # kinds of problems


def as_lines(lines: str | Iterable[str]) -> Iterable[str]:
    """The lines; a string is one line, not its characters."""
    return [lines] if isinstance(lines, str) else lines


def encode_line(
    tokenizer: Tokenizer, line: str, number: int, limit: LengthLimit
) -> tuple[list[int], list[LineProblem]]:
    """The token ids of a line, cut to the limit, and its problems.

    White space has no ids, and neither has a line in which the tokenizer knows no token.

    Args:
        tokenizer: the tokenizer of the source side.
        line: the text.
        number: the number of the line, for messages.
        limit: how many tokens the model can read.
    """
    if not line.strip():
        return [], []
    longest = compute_max_characters(limit.positions)
    if len(line) > longest and tokenizer.kind != "char":  # the tokenizer drops these spaces
        line = re.sub(" +", " ", line).strip(" ")
    beginning = line[:longest]
    ids = tokenizer.encode([beginning])[0]
    cut_ids = ids[: limit.positions]
    if tokenizer.is_unknown(cut_ids):
        return [], [_unknown_problem(line, number)]
    if len(beginning) < len(line):
        size = f"{len(line):,} characters, too many for"
        return cut_ids, [_too_long_problem(number, size, limit, len(cut_ids))]
    if len(cut_ids) < len(ids):
        size = f"{len(ids):,} tokens, more than"
        return cut_ids, [_too_long_problem(number, size, limit, len(cut_ids))]
    return ids, []


def _unknown_problem(line: str, number: int) -> LineProblem:
    complaint, excerpt = f"line {number} holds nothing this model knows", repr(line[:40])
    return LineProblem(
        number,
        UNKNOWN,
        f"{complaint}, {excerpt}: its translation is left empty",
        f"{complaint}: {excerpt} is in words or a script that it was not trained on",
        "unknown to the model, so left empty",
    )


def _too_long_problem(number: int, size: str, limit: LengthLimit, tokens: int) -> LineProblem:
    ability = "was trained for" if limit.key == TRAINED else "can hold"
    complaint = f"line {number} has {size} the {limit.positions:,} tokens this model {ability} ({limit.key})"
    return LineProblem(
        number,
        TOO_LONG,
        f"{complaint}: only the first {tokens:,} tokens are translated",
        f"{complaint}: split it into sentences",
        "too long, so cut",
    )
