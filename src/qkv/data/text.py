"""Parallel text on disk: two line-aligned files, or one of tab-separated or JSON rows, plain or gzipped."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from qkv.data.lines import read_limited, read_lines
from qkv.errors import BadData
from qkv.strict import Strict

_BY_NAME = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class ParallelData(Strict):
    """Where pairs come from: either `source` and `target`, two line-aligned files, or `file`, one of rows.

    A row of a TSV file is `source<tab>target`, further columns are ignored; a row of a JSONL file is an
    object with `source_key` and `target_key`, where a dot reaches into a nested object (`translation.en`).
    `format: auto` goes by the name (.tsv, .jsonl) and else by the first line.  Gzip is recognised by content.
    Paths may hold `~`, `$NAME` and `${NAME}`; a file of exactly that name comes first.
    """

    source: str | None = None
    target: str | None = None
    file: str | None = None
    format: Literal["auto", "tsv", "jsonl"] = "auto"
    source_key: str = "source"
    target_key: str = "target"

    @model_validator(mode="after")
    def _one_way_to_name_the_data(self) -> "ParallelData":
        aligned = self.source is not None and self.target is not None
        if aligned == (self.file is not None) or (self.source is None) != (self.target is None):
            raise ValueError("give either both 'source' and 'target', or 'file' alone")
        return self


def read_pairs(data: ParallelData) -> list[tuple[str, str]]:
    """All (source, target) lines, in the order of the files, so that pair i stands on line i + 1.

    Raises BadData, naming the file and the line, for whatever cannot be read as pairs.
    """
    if data.file is not None:
        pairs = list(_rows(data, data.file))
        _refuse_empty(data.file, pairs)
        return pairs
    source, target = list(read_lines(str(data.source))), list(read_lines(str(data.target)))
    _refuse_empty(data.source, source)
    _refuse_empty(data.target, target)
    if len(source) != len(target):
        raise BadData(
            f"{data.source} has {len(source):,} lines but {data.target} has {len(target):,}: "
            "line i of one must be the translation of line i of the other"
        )
    return list(zip(source, target, strict=True))


def _refuse_empty(path: str | None, lines: Sequence[object]) -> None:
    if not lines:
        raise BadData(f"{path} is empty: at least one line is needed")


def _rows(data: ParallelData, path: str) -> Iterator[tuple[str, str]]:
    layout: str | None = None if data.format == "auto" else data.format
    for number, (line, is_cut) in enumerate(read_limited(path), start=1):
        layout = layout or _layout(path, line)
        where = f"{path}, line {number}"
        if is_cut:
            yield line, line  # too long for any use, on whichever side
        elif layout == "jsonl":
            row = _json_row(where, line)
            yield _field(where, row, data.source_key), _field(where, row, data.target_key)
        else:
            yield _columns(where, line)


def _layout(path: str, first_line: str) -> str:
    name = Path(path.removesuffix(".gz")).suffix.lower()
    return _BY_NAME.get(name) or ("jsonl" if first_line.lstrip().startswith("{") else "tsv")


def _columns(where: str, line: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) < 2:
        raise BadData(f"{where}: no tab in {_shown(line)}; a row is source<tab>target")
    return columns[0], columns[1]


def _json_row(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(
            f"{where}: {_shown(line)} is not JSON ({error}); each line is one JSON object"
        ) from None
    if not isinstance(row, dict):
        raise BadData(
            f'{where}: {_shown(line)} is not a JSON object; a row looks like {{"source": ..., ...}}'
        )
    return row


def _field(where: str, row: dict[str, Any], key: str) -> str:
    value = row[key] if key in row else _nested(where, row, key)
    if not isinstance(value, str) or "\n" in value:
        raise BadData(f"{where}: '{key}' is {_shown(value)}, expected text on one line")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadData(f"{where}: '{key}' holds half a surrogate pair, which is no character") from None
    return value


def _nested(where: str, row: dict[str, Any], key: str) -> Any:
    value: Any = row
    for step in key.split("."):
        if not isinstance(value, dict) or step not in value:
            known = ", ".join(value) if isinstance(value, dict) else "none"
            raise BadData(f"{where}: no key '{key}' (keys here: {known}); set source_key or target_key")
        value = value[step]
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Dropped(NamedTuple):
    """How many of `total` pairs were left out, why, and the line of the first of them (None: none was).

    `str()` makes one line of it, for the log.
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
        told = f": {', '.join(reasons)} (first: line {self.first})" if reasons else ""
        return f"dropped {self.empty + self.long:,} of {self.total:,} pairs{told}"


def clean_pairs(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], max_length: int
) -> tuple[list[int], Dropped]:
    """The numbers of the pairs fit for training, in order, and an account of the others.

    A pair is left out when a side has no token, or more than `max_length` (BOS and EOS not counted).
    Raises BadData when no pair remains.
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
    dropped = Dropped(len(source), empty, long, max_length, first)
    if not keep:
        raise BadData(
            f"no pair is left to train on ({dropped}); check that both sides hold text, or raise max_length"
        )
    return keep, dropped
