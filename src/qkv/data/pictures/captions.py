"""Captions of pictures, from JSONL, TSV, CSV or COCO's JSON, and how they are matched with the pictures."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from qkv.data.lines import read_bytes, read_whole_lines
from qkv.data.pictures.outcome import list_names
from qkv.data.text import parse_json_row, refuse_half_surrogates
from qkv.errors import BadData
from qkv.strict import Strict
from qkv.wording import plural

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv", ".csv": "csv", ".json": "coco"}
_HEADERS = ("image", "image_name", "file", "file_name", "filename", "picture")
_NUMBER_OF_CAPTION = re.compile(r"#\d+$")  # Flickr8k's files number the captions of a picture: "name.jpg#0"


class CaptionConfig(Strict):
    """Where the captions of pictures are.

    A row of a JSONL file is an object with the name of the picture and a caption or a list of them. A row of
    a TSV or CSV file is the name, then one caption or more; a name may have several rows. A file in the form
    of COCO has `images` with `id` and `file_name`, and `annotations` with `image_id` and `caption`.

    Args:
        file: the path; gzip is recognised by content.
        format: auto: by the name of the file (.jsonl, .tsv, .csv, .json for coco).
        picture_key: jsonl: the key of the picture's name.
        caption_key: jsonl: the key of the caption or captions.
        unmatched: captions whose picture is missing, and pictures without a caption: refuse, or skip and
            count.
    """

    file: str
    format: Literal["auto", "jsonl", "tsv", "csv", "coco"] = "auto"
    picture_key: str = "image"
    caption_key: str = "captions"
    unmatched: Literal["refuse", "skip"] = "refuse"


class MatchedCaptions(NamedTuple):
    """Captions by picture.

    Args:
        captions: name of a picture -> its captions, in the order of the names.
        notes: lines for the log about what was skipped.
    """

    captions: dict[str, list[str]]
    notes: list[str]


def read_captions(config: CaptionConfig) -> dict[str, list[str]]:
    """Name of a picture, as the file writes it -> its captions, in the order of the file.

    Raises:
        BadData: the file cannot be read, has another form, or has no caption; the message names the line.
    """
    row_format = config.format if config.format != "auto" else _detect_format(config.file)
    readers = {"jsonl": _read_jsonl, "tsv": _read_table, "csv": _read_table, "coco": _read_coco}
    captions: dict[str, list[str]] = {}
    for location, name, caption in readers[row_format](config, row_format):
        if not isinstance(name, str) or not name or not isinstance(caption, str) or not caption.strip():
            raise BadData(
                f"{location}: expected the name of a picture and a caption, got {name!r:.60} and "
                f"{caption!r:.60}"
            )
        refuse_half_surrogates(location, config.caption_key, caption)
        captions.setdefault(name, []).append(" ".join(caption.split()))
    if not captions:
        raise BadData(f"{config.file} has no captions: at least one is needed")
    return captions


def match_captions(
    captions: dict[str, list[str]],
    pictures: Iterable[str],
    config: CaptionConfig,
    unusable: Iterable[str] = (),
) -> MatchedCaptions:
    """Match captions with pictures by their path, or by their file name where that is unique.

    Args:
        captions: name of a picture, as the file of captions writes it -> its captions.
        pictures: the paths of the pictures inside their folder or zip file.
        config: what becomes of captions without picture, and of pictures without caption.
        unusable: paths of files that cannot be used as pictures; captions may name them, none has to.

    Raises:
        BadData: a name stands for several pictures, some have no partner and are to be refused, or nothing
            matches.
    """
    need_no_caption = set(unusable)
    paths = sorted({*pictures, *need_no_caption})
    by_file_name: dict[str, list[str]] = {}
    for path in paths:
        by_file_name.setdefault(PurePosixPath(path).name, []).append(path)
    known, matched, missing = set(paths), {}, []
    for name, texts in captions.items():
        candidates = [name] if name in known else by_file_name.get(PurePosixPath(name).name, [])
        if len(candidates) > 1:
            raise BadData(
                f"{config.file}: {name!r} may be {list_names(candidates)}: write the path of the picture"
            )
        if candidates:
            matched.setdefault(candidates[0], []).extend(texts)
        else:
            missing.append(name)
    without = [path for path in paths if path not in matched and path not in need_no_caption]
    notes = list(_describe_unmatched(missing, without))
    if notes and config.unmatched == "refuse":
        raise BadData(
            f"{config.file}: {'; '.join(notes)}; correct the file, or set "
            "`unmatched: skip` beside it in the recipe"
        )
    if not matched:
        raise BadData(f"{config.file}: no caption has a picture: {'; '.join(notes)}")
    return MatchedCaptions({path: matched[path] for path in paths if path in matched}, notes)


def _describe_unmatched(missing: Sequence[str], without: Sequence[str]) -> Iterator[str]:
    if missing:
        number = plural(len(missing), "picture that is", "pictures that are")
        yield f"captions of {number} missing: {list_names(missing)}"
    if without:
        yield f"{plural(len(without), 'picture')} without a caption: {list_names(without)}"


def _detect_format(file: str) -> str:
    suffix = PurePosixPath(file.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        raise BadData(
            f"{file}: the name does not say what the file is: set `format` beside it in the "
            "recipe to jsonl, tsv, csv or coco"
        )
    return _FORMATS[suffix]


def _read_jsonl(config: CaptionConfig, _: str) -> Iterator[tuple[str, Any, Any]]:
    for number, line in enumerate(read_whole_lines(config.file, "write a caption per line"), start=1):
        location = f"{config.file}, line {number}"
        row = parse_json_row(location, line)
        for setting in ("picture_key", "caption_key"):
            key, role = getattr(config, setting), setting.removesuffix("_key")
            if key not in row:
                raise BadData(
                    f"{location}: no {key!r}, only {', '.join(map(repr, row)) or 'an empty object'}: set "
                    f"`{setting}` beside the file in the recipe to the key of the {role}"
                )
        texts = row[config.caption_key]
        for text in texts if isinstance(texts, list) and texts else [texts]:
            yield location, row[config.picture_key], text


def _read_table(config: CaptionConfig, row_format: str) -> Iterator[tuple[str, Any, Any]]:
    rows = _split_rows(config.file, row_format)
    for number, (name, *texts) in enumerate(rows, start=1):
        if number == 1 and name.lower() in _HEADERS:
            continue
        for text in [text for text in texts if text.strip()] or [""]:
            yield f"{config.file}, row {number}", _NUMBER_OF_CAPTION.sub("", name), text


def _split_rows(file: str, row_format: str) -> Iterator[list[str]]:
    """The columns of every row that is not empty."""
    lines = read_whole_lines(file, "write a caption per line")
    if row_format == "tsv":
        yield from (line.split("\t") for line in lines if line)
        return
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise BadData(
            f"{file}, line {reader.line_num}: not CSV ({error}): quote the captions that hold commas or "
            "quotation marks"
        ) from None


def _read_coco(config: CaptionConfig, _: str) -> Iterator[tuple[str, Any, Any]]:
    try:
        document = json.loads(read_bytes(config.file))
        names = {image["id"]: image["file_name"] for image in document["images"]}
        rows = [(row["image_id"], row["caption"]) for row in document["annotations"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadData(
            f"{config.file} is not in the form of COCO's captions ({type(error).__name__}: "
            f"{error}): expected an object with images (id, file_name) and annotations (image_id, caption)"
        ) from None
    for number, (identity, caption) in enumerate(rows, start=1):
        if identity not in names:
            raise BadData(f"{config.file}: annotation {number} names the unknown image_id {identity!r:.60}")
        yield f"{config.file}, annotation {number}", names[identity], caption
