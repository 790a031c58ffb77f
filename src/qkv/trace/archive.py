"""The `.npz` archive of a trace: a JSON header and arrays of numbers, checked when they are read."""

import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qkv.errors import BadData
from qkv.files import convert_write_errors, open_output

_LARGEST = 4 * 2**30  # bytes
_MAGIC = b"PK\x03\x04"  # the first bytes of every zip archive

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]


def write_archive(path: str | Path, header: Header, arrays: Arrays) -> None:
    """Write the archive atomically: after a failure the old file is unchanged.

    Args:
        path: the file to write.
        header: JSON values.
        arrays: name of the entry -> array.

    Raises:
        BadData: if it cannot be written to the path.
    """
    encoded = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    entries: dict[str, Any] = {"header": encoded, **arrays}
    content = io.BytesIO()  # writing an archive seeks, and `path` may be a pipe
    with convert_write_errors(path, "the trace "), open_output(path) as file:
        np.savez_compressed(content, **entries)
        file.write(content.getbuffer())


def read_archive(path: Path) -> tuple[Header, Arrays]:
    """The header and the floating-point arrays of an archive. Nothing is unpickled.

    Raises:
        BadData: if the file is missing, damaged, too large, or not an archive with a header.
    """
    try:
        with open(path, "rb") as file:
            return _read_entries(file)
    except BadData:
        raise
    except FileNotFoundError:
        raise BadData(
            "there is no such file: check the path, or write a trace with --trace FILE (qkv "
            "translate, generate, classify or caption)"
        ) from None
    except Exception as error:  # the zip and array readers report damage with many types of errors
        raise BadData(
            f"cannot be read, it is damaged or cut short ({error}): write or copy the trace again"
        ) from None


def _read_entries(file: BinaryIO) -> tuple[Header, Arrays]:
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise BadData("is not a trace: a trace is an .npz file, as `qkv translate --trace` writes it")
    archive = file if file.seekable() else io.BytesIO(magic + file.read(_LARGEST))
    archive.seek(0)
    with np.load(archive, allow_pickle=False) as entries:
        size = sum(info.file_size for info in entries.zip.infolist())
        if size > _LARGEST:
            raise BadData(
                f"holds {size / 2**30:,.0f} GiB, more than the {_LARGEST / 2**30:.0f} GiB that a "
                "trace may have: write fewer examples"
            )
        header = _parse_header(entries["header"] if "header" in entries.files else None)
        arrays = {name: entries[name] for name in entries.files if name != "header"}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise BadData(f"entry {name!r} is not an .npy array: write the file with numpy.savez")
        if array.dtype.kind != "f":
            raise BadData(
                f"entry {name!r} holds {array.dtype}, not floating-point numbers: write float16 or float32"
            )
    return header, arrays


def _parse_header(array: Any) -> Header:
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise BadData(
            "is not a trace: it is an .npz file without the `header` that docs/trace.md describes: pass a "
            "file that an option --trace wrote"
        )
    try:
        header = json.loads(array.tobytes().decode())
    except ValueError as error:
        raise BadData(f"its header is not UTF-8 JSON ({error}): write the trace again") from None
    if not isinstance(header, dict):
        raise BadData(
            "is not a trace: its header is not a JSON object with the key `schema`: pass a file that an "
            "option --trace wrote"
        )
    return header
