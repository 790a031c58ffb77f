"""Grids of annotation vectors that another model computed, from .npz and .safetensors files."""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from qkv.data.lines import expand_path
from qkv.errors import BadData

_SUFFIXES = (".npz", ".safetensors")


class Grids(NamedTuple):
    """Grids in memory.

    Args:
        vectors: [N,Y,X,C], a vector for every cell.
        names: the name of the picture of every grid.
    """

    vectors: Float[np.ndarray, "N Y X C"]
    names: list[str]


def is_grid_file(path: str | Path) -> bool:
    """Whether a path names a file of grids, by its suffix.

    Args:
        path: the path.
    """
    return PurePath(path).suffix.lower() in _SUFFIXES


def read_grids(path: str | Path, *, is_wanted: Callable[[str], bool] = lambda name: True) -> Grids:
    """Read the grids of a file, in the order of their names.

    Args:
        path: a .npz or .safetensors file that holds an array [rows, columns, width] for every picture, by the
            name of the picture.
        is_wanted: says by its name whether a grid is read.

    Raises:
        BadData: the file cannot be read, has no such grid, or its grids differ in shape, are no
            floating-point numbers, or hold values that are not finite.
    """
    file = expand_path(path)
    with _convert_read_errors(file):
        named = dict(_iterate(file, is_wanted))
    if not named:
        raise BadData(f"{file} has no grid of these pictures: name every array as its picture")
    names = sorted(named)
    for name in names:
        _check_grid(f"{file}, {name}", named[name], named[names[0]])
    return Grids(np.stack([named[name] for name in names]), names)


def list_grid_names(path: str | Path) -> list[str]:
    """The names of the grids of a file.

    Args:
        path: the file.

    Raises:
        BadData: the file cannot be read.
    """
    names: list[str] = []

    def collect(name: str) -> bool:
        names.append(name)
        return False

    file = expand_path(path)
    with _convert_read_errors(file):
        list(_iterate(file, collect))
    return names


@contextmanager
def _convert_read_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadData(f"{file}: cannot be read as grids ({reason}): check the path and the file") from None


def _iterate(file: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    if file.suffix.lower() == ".safetensors":
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- it cannot be iterated itself
                if is_wanted(name):
                    tensor = tensors.get_tensor(name)
                    half = tensor.dtype.itemsize == 2 and tensor.is_floating_point()
                    yield name, (tensor.half() if half else tensor).numpy()
        return
    with file.open("rb") as stream, zipfile.ZipFile(stream):  # refuses other files
        stream.seek(0)
        arrays = np.load(stream, allow_pickle=False)
        yield from ((name, arrays[name]) for name in arrays.files if is_wanted(name))


def _check_grid(location: str, grid: np.ndarray, first: np.ndarray) -> None:
    if grid.ndim != 3 or not grid.size or not np.issubdtype(grid.dtype, np.floating):
        raise BadData(
            f"{location}: expected a grid [rows, columns, width] of floating-point numbers, got {grid.dtype} "
            f"{list(grid.shape)}: save one for every picture"
        )
    if grid.shape != first.shape or grid.dtype != first.dtype:
        raise BadData(
            f"{location} is {grid.dtype} {list(grid.shape)}, but the first grid is {first.dtype} "
            f"{list(first.shape)}: save all grids with one shape and type"
        )
    if not np.isfinite(grid).all():
        raise BadData(f"{location} holds values that are not finite: compute it again")
