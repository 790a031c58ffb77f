"""Where picture files are: a folder, or a zip file that is read without being unpacked."""

import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from qkv.data.lines import expand_path
from qkv.errors import BadData

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
LARGEST_FILE = 2**28  # bytes
_ADDED = frozenset({"__MACOSX", "@eaDir"})  # folders that systems add
_IS_ENCRYPTED = 1  # in the flags of an entry of a zip file


class Entry(NamedTuple):
    """A picture file.

    Args:
        name: its path inside the folder or zip file, with `/`.
        size: its bytes.
        stamp: changes when its content does: the checksum, or the time of the last change.
    """

    name: str
    size: int
    stamp: int


class UnusableFile(Exception):
    """A file that cannot be read; the message says why in a few words."""


class PictureSource(ABC):
    """A collection of picture files; a context manager.

    Attributes:
        path: the folder or zip file.
        entries: the files that have a suffix of a picture, in the order of their names.
        problems: name -> why the file cannot be used.
        others: names of further files, which are not pictures by their suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.problems: dict[str, str] = {}
        self.others: list[str] = []

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """The content of a file.

        Args:
            entry: one of `entries`.

        Raises:
            UnusableFile: it cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the files that are open."""

    def __enter__(self) -> "PictureSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, entry: Entry, problem: str) -> None:
        if not problem and _is_hidden(entry.name):
            return
        if PurePosixPath(entry.name).suffix.lower() not in SUFFIXES:
            self.others.append(entry.name)
        elif problem or entry.size > LARGEST_FILE:
            self.problems.setdefault(entry.name, problem or f"larger than {LARGEST_FILE >> 20} MiB")
        else:
            self.entries.append(entry)


def open_source(path: str | Path) -> PictureSource:
    """List the picture files of a folder, with its subfolders, or of a zip file.

    Args:
        path: the folder or zip file; `~` and `$NAME` are replaced.

    Raises:
        BadData: there is no such folder or file, it is no zip file, or it cannot be read.
    """
    place = expand_path(path)
    if place.is_dir():
        return _Folder(place)
    if not place.exists():
        raise BadData(f"{place}: no such folder or zip file of pictures; check the path")
    try:
        return _ZipFile(place)
    except zipfile.BadZipFile as error:
        raise BadData(
            f"{place} is neither a folder nor a zip file ({error}): pack the pictures again"
        ) from None
    except OSError as error:
        raise BadData(f"{place}: cannot be read ({error.strerror or error}): check its permissions") from None


class _Folder(PictureSource):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for file in _walk(path):
            status = file.stat()
            name = file.relative_to(path).as_posix()
            self._add(Entry(name, status.st_size, status.st_mtime_ns), "")
        self.entries.sort()

    def read(self, entry: Entry) -> bytes:
        try:
            with (self.path / entry.name).open("rb") as file:
                return file.read(LARGEST_FILE)
        except OSError as error:
            raise UnusableFile(f"cannot be read: {error.strerror}") from None

    def close(self) -> None:
        pass


class _ZipFile(PictureSource):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.file = zipfile.ZipFile(path)
        names: set[str] = set()
        for info in self.file.infolist():
            if not info.is_dir():
                problem = "the name occurs twice" if info.filename in names else _find_problem(info)
                self._add(Entry(info.filename, info.file_size, info.CRC), problem)
                names.add(info.filename)
        # of two entries of the same name, neither is taken: which one is meant cannot be known
        self.entries = sorted(entry for entry in self.entries if entry.name not in self.problems)

    def read(self, entry: Entry) -> bytes:
        try:
            with self.file.open(entry.name) as file:
                return file.read(LARGEST_FILE)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UnusableFile(f"cannot be unpacked: {error}") from None

    def close(self) -> None:
        self.file.close()


def _find_problem(info: zipfile.ZipInfo) -> str:
    """Why an entry is not read; empty where it is."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "the name points outside the zip file"
    return "encrypted" if info.flag_bits & _IS_ENCRYPTED else ""


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise BadData(f"{error.filename}: cannot be read ({error.strerror}): check its permissions")

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if os.path.realpath(Path(parent, name)) not in seen]
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def _is_hidden(name: str) -> bool:
    """Whether a file or a folder above it is one that systems add: `.DS_Store`, `__MACOSX/._a.jpg`."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") and part != ".." for part in parts) or bool(_ADDED.intersection(parts))
