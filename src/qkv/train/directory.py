"""The run directory as the training loop sees it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Directory(NamedTuple):
    """Where a training writes, and what goes with its state and its weights.

    files: name -> content of the files that stand beside the weights, such as a vocabulary.
    origin: plain values that say what the training was started from; its state keeps them.
    label: plain values that say what the weights belong to; their file keeps them.
    """

    path: Path
    files: Mapping[str, bytes] = NOTHING
    origin: Mapping[str, Any] = NOTHING
    label: Mapping[str, Any] = NOTHING

    def differing(self) -> dict[str, bytes]:
        """Those of the files that are not there, or have another content."""
        return {name: content for name, content in self.files.items() if _read(self.path / name) != content}


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
