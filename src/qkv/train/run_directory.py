"""The run directory as the training loop uses it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

EMPTY: Mapping[str, Any] = MappingProxyType({})


class RunDirectory(NamedTuple):
    """Where a training writes, and what is saved with its state and its weights.

    Args:
        path: the directory.
        files: name -> content of the files that stand beside the weights, such as a vocabulary.
        origin: plain values that say what the training was started from; its state keeps them.
        label: plain values that say what the weights belong to; their file keeps them.
        score_notes: plain values that every line of held-out scores in the metrics has too.
    """

    path: Path
    files: Mapping[str, bytes] = EMPTY
    origin: Mapping[str, Any] = EMPTY
    label: Mapping[str, Any] = EMPTY
    score_notes: Mapping[str, Any] = EMPTY

    def find_missing_or_outdated_files(self) -> dict[str, bytes]:
        """Those of the files that are missing on disk, or have another content there."""
        return {
            name: content
            for name, content in self.files.items()
            if _read_bytes_or_none(self.path / name) != content
        }


def _read_bytes_or_none(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
