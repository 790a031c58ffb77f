"""Reads the lines of text files and streams, plain or gzipped, in bounded memory for any content."""

import codecs
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import BadData
from qkv.files import expand_home

LONGEST_LINE = 250_000  # characters; the rest of a longer line is dropped
LONGEST_DOCUMENT = 4_000_000  # the same where a line is a document
CHARACTERS_PER_TOKEN = 100  # more than the average of any text
SMALLEST_LIMIT = 10_000  # characters; lines up to this length are always tokenised

DATA_VARIABLE = "QKV_DATA"  # names the folder of the data of built-in recipes
_GZIP_MAGIC = b"\x1f\x8b"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ENDLESS_BYTES = 2**30
_PIECE_BYTES = 2**20
# Gzip compresses text to a fifth, at best to a fiftieth, and a decompression bomb to a thousandth.
_UNPACKED_BYTES, _UNPACKED_RATIO = 2**22, 200


class Line(NamedTuple):
    """One line.

    Args:
        text: its characters without the line end, at most LONGEST_LINE + 1.
        is_cut: whether characters were dropped.
    """

    text: str
    is_cut: bool


def compute_max_characters(max_tokens: int) -> int:
    """The number of characters above which a line has surely more than `max_tokens` tokens."""
    return min(max(CHARACTERS_PER_TOKEN * max_tokens, SMALLEST_LIMIT), LONGEST_LINE)


def expand_path(path: str | Path) -> Path:
    """The path with `~`, `$NAME` and `${NAME}` replaced; unchanged if a file of that name exists.

    Args:
        path: as a user writes it.

    Raises:
        BadData: an environment variable is not set, or is empty.
    """
    if os.path.lexists(path):
        return Path(path)

    def read_variable(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            content = " of prepared data, as docs/data.md says" if name == DATA_VARIABLE else ""
            raise BadData(
                f"{path}: the environment variable {name} is not set; set it to a folder{content} "
                f"(`export {name}=/path/to/folder`), or write the path without it"
            )
        return os.environ[name]

    return expand_home(_VARIABLE.sub(read_variable, str(path)))


def read_lines(path: str | Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file or pipe, plain or gzipped, without `\n` or `\r\n`; nothing else ends a line.

    A byte-order mark at the start is dropped. So are the characters of a line beyond LONGEST_LINE + 1, which
    keeps it longer than every limit of `compute_max_characters`.

    Args:
        path: the file, see `expand_path`.

    Raises:
        BadData: the file cannot be read, is truncated, or contains bytes that are not UTF-8.
    """
    return (line.text for line in read_marked_lines(path))


def read_marked_lines(path: str | Path, longest: int = LONGEST_LINE) -> Iterator[Line]:
    """The lines of a file as `read_lines` reads them, each with a mark if it was cut.

    Args:
        path: the file, see `expand_path`.
        longest: characters of a line that are surely kept.
    """
    file = expand_path(path)
    with _open(file) as stream:
        yield from decode_stream(stream, str(file), longest)


def read_bytes(path: str | Path) -> bytes:
    """The content of a file that has no lines, such as one JSON document; unpacked if it is gzipped.

    Args:
        path: the file, see `expand_path`.

    Raises:
        BadData: the file cannot be read, is truncated, or has more than 1 GiB.
    """
    file = expand_path(path)
    with _open(file) as stream, _explain_read_errors(str(file)):
        counted = _CountingStream(stream)
        buffered: Any = io.BufferedReader(counted)
        source = gzip.GzipFile(fileobj=buffered) if counted.head == _GZIP_MAGIC else buffered
        content = source.read(_ENDLESS_BYTES + 1)
    if len(content) > _ENDLESS_BYTES:
        raise BadData(f"{file}: more than 1 GiB: split it")
    return content


def _open(file: Path) -> Any:
    with _explain_read_errors(str(file)):
        try:
            return file.open("rb")
        except FileNotFoundError:
            raise BadData(
                f"{file}: no such file; relative paths start at {_describe_working_folder()}"
            ) from None
        except ValueError:
            raise BadData(
                f"{str(file)!r} contains characters that no file name can have: correct the path"
            ) from None


def read_whole_lines(path: str | Path, remedy: str, longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of a file, none of them cut.

    Args:
        path: see `read_lines`.
        remedy: what a user can do about a line that is too long.
        longest: characters of a line that are surely kept.

    Raises:
        BadData: a line is so long that its end would be lost, or the file cannot be read.
    """
    for number, (line, is_cut) in enumerate(read_marked_lines(path, longest), start=1):
        if is_cut:
            raise BadData(f"{path}, line {number}: longer than {longest:,} characters: {remedy}")
        yield line


def decode_stream(stream: Any, name: str, longest: int = LONGEST_LINE) -> Iterator[Line]:
    """The lines of an open binary stream, plain or gzipped; see `read_lines`.

    Args:
        stream: an object with `read1`.
        name: what error messages call it.
        longest: characters of a line that are surely kept.
    """
    with _explain_read_errors(name):
        yield from decode_lines(_read_bounded(stream, name, longest), name, longest)


def decode_lines(lines: Iterable[bytes], name: str, longest: int = LONGEST_LINE) -> Iterator[Line]:
    """Decode lines of UTF-8; those with more bytes than `longest` characters can have are cut.

    Args:
        lines: raw lines with their ends.
        name: what error messages call their file.
        longest: characters of a line that are surely kept.

    Raises:
        BadData: a line is not UTF-8.
    """
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        is_cut = len(raw) > _count_bytes(longest)
        try:
            if is_cut:
                text = codecs.getincrementaldecoder("utf-8")().decode(raw[: _count_bytes(longest)])
                yield Line(text[: longest + 1], True)
            else:
                yield Line(raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8"), False)
        except UnicodeDecodeError as error:
            encoding = "UTF-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "LATIN1"
            raise BadData(
                f"{name}, line {number}: 0x{raw[error.start]:02x} at position {error.start} is not UTF-8: "
                f"convert the file first, as in `iconv -f {encoding} -t UTF-8`"
            ) from None


def _count_bytes(characters: int) -> int:
    """More bytes than so many characters of any kind have."""
    return 4 * (characters + 1)


def _read_bounded(stream: Any, name: str, longest: int) -> Iterator[bytes]:
    """Raw lines; of an overlong line only its beginning, with more bytes than `longest` characters have."""
    longest_bytes = _count_bytes(longest)
    counted = _CountingStream(stream)
    is_gzip = counted.head == _GZIP_MAGIC
    buffered = io.BufferedReader(counted)
    unis_gzip: Any = gzip.GzipFile(fileobj=buffered)
    source = io.BufferedReader(unis_gzip) if is_gzip else buffered
    size, number = 0, 0
    while raw := source.readline(longest_bytes + 2):
        number += 1
        size += len(raw)
        if len(raw) > longest_bytes and not raw.endswith(b"\n"):
            size += _skip_rest(source, f"{name}, line {number}")
        if is_gzip and size > max(_UNPACKED_BYTES, _UNPACKED_RATIO * counted.count):
            raise BadData(
                f"{name}: by line {number:,} it unpacks to {size / counted.count:,.0f} times its size, "
                "more than text does; if it is text, unpack it first"
            )
        yield raw


def _skip_rest(source: Any, location: str) -> int:
    """Skip the rest of an overlong line; returns its number of bytes."""
    size = 0
    while piece := source.readline(_PIECE_BYTES):
        size += len(piece)
        if size > _ENDLESS_BYTES:
            raise BadData(f"{location}: more than 1 GiB without an end of line; pass a text file")
        if piece.endswith(b"\n"):
            break
    return size


class _CountingStream(io.RawIOBase):
    """A stream that counts the bytes read; its first bytes can be examined even if it is a pipe."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.count = stream, 0
        self.head = stream.read1(len(_GZIP_MAGIC))
        if len(self.head) == 1 and _GZIP_MAGIC.startswith(self.head):
            self.head += stream.read(1)
        self.buffered = self.head

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the bytes that are available, at least one unless the stream has ended."""
        data = self.buffered or self.stream.read1(len(buffer))
        data, self.buffered = data[: len(buffer)], data[len(buffer) :] if self.buffered else b""
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


@contextmanager
def _explain_read_errors(name: str) -> Iterator[None]:
    """Turn errors of reading into BadData that names the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadData(
            f"{name}: the gzip file is truncated or damaged ({error}); fetch or pack it again"
        ) from None
    except OSError as error:
        raise BadData(
            f"{name}: cannot be read ({error.strerror or error}): check the path and its permissions"
        ) from None


def _describe_working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "the working folder, which was removed"
