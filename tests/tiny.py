"""A tiny translator that tests of the task and of the command line share: English numbers word by word into
French.
"""

import atexit
import errno
import io
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from qkv.cli import main
from qkv.task.translate import trace_examples
from qkv.task.translate.trace_examples import AXES
from qkv.trace import Example

Refused = Callable[..., str]  # a command that must be refused -> what it says

ENGLISH = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FRENCH = dict(
    zip(
        ENGLISH,
        ("un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix"),
        strict=True,
    )
)


def pairs_of(count: int, seed: int) -> list[tuple[str, str]]:
    choose = random.Random(seed)
    lines = [choose.choices(ENGLISH, k=choose.randint(1, 6)) for _ in range(count)]
    return [(" ".join(line), " ".join(FRENCH[word] for word in line)) for line in lines]


def write_corpus(folder: Path, name: str = "train", count: int = 300, seed: int = 0) -> dict[str, str]:
    """Two aligned files, as a recipe names them."""
    sides = zip(*pairs_of(count, seed), strict=True)
    paths = [folder / f"{name}.{language}" for language in ("en", "fr")]
    for path, lines in zip(paths, sides, strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))
    return {"source": str(paths[0]), "target": str(paths[1])}


def recipe_in(folder: Path, **sections: Any) -> Path:
    """A recipe file and its corpus; `sections` take the place of the usual ones."""
    told = {
        "data": {
            "train": write_corpus(folder),
            "valid": write_corpus(folder, "valid", 20, seed=1),
            "test": write_corpus(folder, "test", 40, seed=2),
        },
        "tokens": {"kind": "word"},
        "batch": {"batch_tokens": 160, "max_length": 12},
        "model": {"kind": "rnn", "embedding": 24, "hidden": 32, "dropout": 0.0},
        "train": {
            "epochs": 8,
            "lr": 0.02,
            "warmup": 20,
            "schedule": "cosine",
            "smoothing": 0.0,
            "precision": "32",
            "threads": 1,
        },
        "validation": {"decode": 4, "samples": 1},
        "decode": {"beam": 2},
        **sections,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return path


def translation_example(source: Any, target: Any, weights: dict[str, Any], **fields: Any) -> Example:
    """An example whose weights are named by their place and number: "cross.0"."""
    weight_axes = {name: AXES[name.partition(".")[0]] for name in weights}
    return trace_examples.translation_example(source, target, weights, weight_axes, **fields)


def call(*arguments: object, stdin: bytes = b"") -> int:
    """Run the command line in this process; its exit status."""
    lines = io.TextIOWrapper(io.BytesIO(stdin))
    with patch.object(sys, "argv", ["qkv", *map(str, arguments)]), patch.object(sys, "stdin", lines):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@cache
def trained() -> Path:
    """The run that everybody reads and nobody changes: `run` beside `tiny.yaml` and its corpus."""
    folder = Path(tempfile.mkdtemp(prefix="qkv-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    assert call("train", recipe_in(folder), "--out", folder / "run", "--quiet") == 0
    return folder / "run"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to see that nothing came, went or changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def full_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The disk fills up: so many files can still be forced to it."""
    left, fsync = [writes], os.fsync

    def no_space(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_space)
