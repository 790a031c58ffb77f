"""The lines of text files and streams, plain or gzipped, in bounded memory whatever they hold."""

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

LONGEST_LINE = 250_000  # characters; what follows in a line is dropped
CHARACTERS_PER_TOKEN = 100  # more than any text has on average
ALWAYS_TOKENISED = 10_000  # characters of a line that is tokenised, however few tokens are wanted

_GZIP_MAGIC = b"\x1f\x8b"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_LONGEST_BYTES = 4 * (LONGEST_LINE + 1)  # more than LONGEST_LINE characters, whatever these are
_ENDLESS_BYTES = 2**30
_PIECE_BYTES = 2**20
# Text shrinks to a fifth, at best to a fiftieth; a bomb to a thousandth.
_UNPACKED_BYTES, _UNPACKED_RATIO = 2**22, 200


class Line(NamedTuple):
    """A line without its end, cut where it had more than LONGEST_LINE characters."""

    text: str
    is_cut: bool


def longest_text(max_length: int) -> int:
    """The characters of the longest line that may have as few as `max_length` tokens."""
    return min(max(CHARACTERS_PER_TOKEN * max_length, ALWAYS_TOKENISED), LONGEST_LINE)


def resolve(path: str | Path) -> Path:
    """The path with `~`, `$NAME` and `${NAME}` filled in; taken literally where a file of that name exists.

    Raises BadData for an unset or empty variable.
    """
    if os.path.lexists(path):
        return Path(path)

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise BadData(
                f"{path}: the environment variable {name} is not set; set it to the folder it stands for "
                f"(`export {name}=/path/to/folder`), or write the path without it"
            )
        return os.environ[name]

    return expand_home(_VARIABLE.sub(value, str(path)))


def read_lines(path: str | Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file or pipe, plain or gzipped, without `\n` or `\r\n`; nothing else ends a line.

    A byte-order mark at the start is dropped, and so is what a line has beyond LONGEST_LINE characters; such
    a line is still longer than `longest_text` of any length.  Raises BadData for a file that cannot be read,
    is truncated, or holds bytes that are not UTF-8.
    """
    return (line.text for line in read_limited(path))


def read_limited(path: str | Path) -> Iterator[Line]:
    """The same, telling which lines were cut."""
    place = resolve(path)
    with _explained(str(place)):
        try:
            stream = place.open("rb")
        except FileNotFoundError:
            raise BadData(f"{place}: no such file; relative paths start at {_here()}") from None
        except ValueError:
            raise BadData(f"{str(place)!r} holds characters that no file name has") from None
    with stream:
        yield from decode_stream(stream, str(place))


def decode_stream(stream: Any, name: str) -> Iterator[Line]:
    """The lines of an open stream, which is called `name` in messages; see `read_lines`."""
    with _explained(name):
        yield from decode_lines(_limited(stream, name), name)


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[Line]:
    """Decode lines of at most `_LONGEST_BYTES` bytes; longer ones are cut."""
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        is_cut = len(raw) > _LONGEST_BYTES
        try:
            if is_cut:
                text = codecs.getincrementaldecoder("utf-8")().decode(raw[:_LONGEST_BYTES])
                yield Line(text[: LONGEST_LINE + 1], True)
            else:
                yield Line(raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8"), False)
        except UnicodeDecodeError as error:
            encoding = "UTF-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "LATIN1"
            raise BadData(
                f"{name}, line {number}: 0x{raw[error.start]:02x} at position {error.start} is not UTF-8: "
                f"convert the file first, as in `iconv -f {encoding} -t UTF-8`"
            ) from None


def _limited(stream: Any, name: str) -> Iterator[bytes]:
    """Raw lines; of a line too long only a part that shows it."""
    counted = _Counted(stream)
    packed = counted.head == _GZIP_MAGIC
    buffered = io.BufferedReader(counted)
    unpacked: Any = gzip.GzipFile(fileobj=buffered)
    source = io.BufferedReader(unpacked) if packed else buffered
    size, number = 0, 0
    while raw := source.readline(_LONGEST_BYTES + 2):
        number += 1
        size += len(raw)
        if len(raw) > _LONGEST_BYTES and not raw.endswith(b"\n"):
            size += _skip_rest(source, f"{name}, line {number}")
        if packed and size > max(_UNPACKED_BYTES, _UNPACKED_RATIO * counted.count):
            raise BadData(
                f"{name}: by line {number:,} it unpacks to {size / counted.count:,.0f} times its size, as no "
                "text does; if it is text, unpack it first"
            )
        yield raw


def _skip_rest(source: Any, where: str) -> int:
    size = 0
    while piece := source.readline(_PIECE_BYTES):
        size += len(piece)
        if size > _ENDLESS_BYTES:
            raise BadData(f"{where}: more than 1 GiB without an end of line, which is no text")
        if piece.endswith(b"\n"):
            break
    return size


class _Counted(io.RawIOBase):
    """A stream that may be a pipe, with the bytes read to recognise it put back; counts what is read."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.count = stream, 0
        self.head = stream.read1(len(_GZIP_MAGIC))
        if len(self.head) == 1 and _GZIP_MAGIC.startswith(self.head):
            self.head += stream.read(1)
        self.waiting = self.head

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least a byte where there is one, and no more than is there already."""
        data = self.waiting or self.stream.read1(len(buffer))
        data, self.waiting = data[: len(buffer)], data[len(buffer) :] if self.waiting else b""
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadData(
            f"{name}: the gzip file is truncated or damaged ({error}); fetch or pack it again"
        ) from None
    except OSError as error:
        raise BadData(f"{name}: cannot be read ({error.strerror or error})") from None


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that was removed"
