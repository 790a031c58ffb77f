"""Reads parallel text: two line-aligned files, or one of tab-separated or JSON rows, plain or gzipped."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from qkv.data.lines import read_lines, read_marked_lines
from qkv.errors import BadData
from qkv.strict import Strict
from qkv.wording import plural

_FORMATS = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class ParallelData(Strict):
    """Where pairs come from: either `source` and `target`, or `file`.

    Gzip is recognised by content. Paths may contain `~`, `$NAME` and `${NAME}`, unless a file has exactly
    that name.

    Args:
        source: a file of source lines.
        target: a file of target lines; line i is the translation of line i of `source`.
        file: a file of rows. A row of a TSV file is `source<tab>target`, further columns are ignored. A row
            of a JSONL file is an object.
        format: of `file`; auto: by its name (.tsv, .jsonl), or else by its first line.
        source_key: key of the source in a JSONL row; a dot reaches into nested objects (`translation.en`).
        target_key: key of the target in a JSONL row.
    """

    source: str | None = None
    target: str | None = None
    file: str | None = None
    format: Literal["auto", "tsv", "jsonl"] = "auto"
    source_key: str = "source"
    target_key: str = "target"

    @model_validator(mode="after")
    def _check_one_source(self) -> "ParallelData":
        aligned = self.source is not None and self.target is not None
        if aligned == (self.file is not None) or (self.source is None) != (self.target is None):
            raise ValueError("give either both 'source' and 'target', or 'file' alone")
        return self


def read_pairs(data: ParallelData) -> list[tuple[str, str]]:
    """All (source, target) lines in the order of the files: pair i is line i + 1.

    Args:
        data: where the pairs are.

    Raises:
        BadData: the files cannot be read as pairs; the message names the file and the line.
    """
    if data.file is not None:
        pairs = list(_read_rows(data, data.file))
        _refuse_empty(data.file, pairs)
        return pairs
    source, target = list(read_lines(str(data.source))), list(read_lines(str(data.target)))
    _refuse_empty(data.source, source)
    _refuse_empty(data.target, target)
    if len(source) != len(target):
        raise BadData(
            f"{data.source} has {len(source):,} lines but {data.target} has {len(target):,}: "
            "line i of one must be the translation of line i of the other; find the line that one of them "
            "lacks"
        )
    return list(zip(source, target, strict=True))


def _refuse_empty(path: str | None, lines: Sequence[object]) -> None:
    if not lines:
        raise BadData(f"{path} is empty: at least one line is needed")


def _read_rows(data: ParallelData, path: str) -> Iterator[tuple[str, str]]:
    row_format: str | None = None if data.format == "auto" else data.format
    for number, (line, is_cut) in enumerate(read_marked_lines(path), start=1):
        row_format = row_format or detect_row_format(path, line)
        location = f"{path}, line {number}"
        if is_cut:
            yield line, line  # longer than every limit, whichever side it is
        elif row_format == "jsonl":
            row = parse_json_row(location, line)
            yield _read_field(location, row, data.source_key), _read_field(location, row, data.target_key)
        else:
            yield _split_columns(location, line)


def detect_row_format(path: str, first_line: str) -> str:
    """ "jsonl" or "tsv", by the name of a file or else by its first line."""
    name = Path(path.removesuffix(".gz")).suffix.lower()
    return _FORMATS.get(name) or ("jsonl" if first_line.lstrip().startswith("{") else "tsv")


def _split_columns(location: str, line: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) < 2:
        raise BadData(f"{location}: no tab in {_shorten_repr(line)}; a row is source<tab>target")
    return columns[0], columns[1]


def parse_json_row(location: str, line: str) -> dict[str, Any]:
    """The JSON object on a line.

    Args:
        location: the file and the line, for the error.
        line: the text.

    Raises:
        BadData: the line is not a JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(
            f"{location}: {_shorten_repr(line)} is not JSON ({error}); each line is one JSON object"
        ) from None
    if not isinstance(row, dict):
        raise BadData(
            f"{location}: {_shorten_repr(line)} is not a JSON object; a row looks like "
            '{"key": "value", ...}'
        )
    return row


def _read_field(location: str, row: dict[str, Any], key: str) -> str:
    value = row[key] if key in row else _find_nested(location, row, key)
    if not isinstance(value, str) or "\n" in value:
        raise BadData(f"{location}: '{key}' is {_shorten_repr(value)}, expected a string without line breaks")
    refuse_half_surrogates(location, key, value)
    return value


def refuse_half_surrogates(location: str, key: str, value: str) -> None:
    """Raise BadData where a string contains a part of a character, which only JSON escapes can write."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadData(
            f"{location}: '{key}' contains half of a surrogate pair; expected complete characters: write "
            "the text itself as UTF-8, without \\u escapes"
        ) from None


def _find_nested(location: str, row: dict[str, Any], key: str) -> Any:
    value: Any = row
    for step in key.split("."):
        if not isinstance(value, dict) or step not in value:
            keys = ", ".join(value) if isinstance(value, dict) else "none"
            raise BadData(f"{location}: no key '{key}' (keys here: {keys}); set source_key or target_key")
        value = value[step]
    return value


def _shorten_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class DroppedPairs(NamedTuple):
    """Counts of pairs that were left out; `str()` makes one line of it, for the log.

    Args:
        total: all pairs.
        empty: those with an empty side.
        long: those longer than `max_length`.
        max_length: the limit in tokens.
        first: the line of the first pair that was left out; None: none was.
    """

    total: int
    empty: int
    long: int
    max_length: int
    first: int | None

    def __str__(self) -> str:
        """`dropped 3 of 29,000 pairs: 2 with an empty side, 1 longer than 250 tokens (first: line 17)`."""
        reasons = [f"{self.empty:,} with an empty side"] if self.empty else []
        reasons += [f"{self.long:,} longer than {self.max_length:,} tokens"] if self.long else []
        details = f": {', '.join(reasons)} (first: line {self.first})" if reasons else ""
        return f"dropped {self.empty + self.long:,} of {plural(self.total, 'pair')}{details}"


def find_usable_pairs(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], max_length: int
) -> tuple[list[int], DroppedPairs]:
    """The numbers of the pairs to train on, in order, and the counts of the others.

    A pair is left out if a side has no token, or more than `max_length`.

    Args:
        source: token ids of every source, without special tokens.
        target: token ids of every target.
        max_length: most tokens of a side.

    Raises:
        BadData: no pair remains.
    """
    keep, empty, long, first = [], 0, 0, None
    for number, sides in enumerate(zip(source, target, strict=True)):
        shorter, longer = sorted(map(len, sides))
        empty += not shorter
        long += bool(shorter) and longer > max_length
        if shorter and longer <= max_length:
            keep.append(number)
        elif first is None:
            first = number + 1
    dropped = DroppedPairs(len(source), empty, long, max_length, first)
    if not keep:
        raise BadData(
            f"no pair is left to train on ({dropped}); check that both sides have text, or raise max_length"
        )
    return keep, dropped
