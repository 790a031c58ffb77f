"""Tiny pictures that the tests of pictures share, made with Pillow."""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from qkv.task.recipe import parse_recipe
from tiny_text import merged

CLASSES = {"bright": 200, "dark": 60}
TRAIN = {"steps": 20, "lr": 0.01, "warmup": 3, "precision": "32", "threads": 1, "validate_every": 10}


def noise(seed: int, size: tuple[int, int] = (12, 10), level: int = 128) -> Image.Image:
    """A picture of random pixels around a level; `size` is width and height."""
    random = np.random.RandomState(seed)
    return Image.fromarray(random.randint(level - 50, level + 50, (size[1], size[0], 3)).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def class_files(count: int = 12, size: tuple[int, int] = (12, 10)) -> dict[str, bytes]:
    """`count` pictures of each class, by their names."""
    return {
        f"{name}/{i:03}.png": encode(noise(1000 * level + i, size, level))
        for name, level in CLASSES.items()
        for i in range(count)
    }


def write_folder(path: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def write_zip(path: Path, files: Mapping[str, bytes]) -> str:
    """A ZIP archive that appears complete: several processes of a test may write and read the same."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    partial.replace(path)
    return str(path)


def picture_recipe(folder: Path, **sections: Any) -> Any:
    """A small network with self-attention on random crops of bright and dark pictures."""
    raw: dict[str, Any] = {
        "task": "classify",
        "data": {
            "train": {"pictures": write_zip(folder / "pictures.zip", class_files(16))},
            "pictures": {"size": 8},
        },
        "augment": {"crop": 1, "flip": True},
        "batch": {"pictures": 5},
        "model": {"widths": [4, 8], "groups": 2, "pool": "attention", "self_attention": {"form": "sagan"}},
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def caption_files(count: int = 20) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Bright and dark pictures by their names, and two captions of each."""
    files = {name.replace("/", "-"): content for name, content in class_files(count).items()}
    rows = [
        {
            "image": name,
            "captions": [f"a {name.partition('-')[0]} picture", f"it is {name.partition('-')[0]} ."],
        }
        for name in files
    ]
    return files, rows


def write_captions(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def caption_recipe(folder: Path, count: int = 20, **sections: Any) -> Any:
    """A small captioner of bright and dark pictures, with dropout and random crops."""
    files, rows = caption_files(count)
    raw: dict[str, Any] = {
        "task": "caption",
        "data": {
            "train": {
                "pictures": write_zip(folder / "captioned.zip", files),
                "captions": {"file": write_captions(folder / "captions.jsonl", rows)},
            },
            "pictures": {"size": 8},
        },
        "augment": {"crop": 1, "flip": True},
        "batch": {"pictures": 8, "max_length": 6},
        "model": {
            "kind": "rnn",
            "encoder": {"kind": "cnn", "widths": [4, 8], "groups": 2},
            "embedding": 8,
            "hidden": 12,
            "dropout": 0.1,
        },
        "objective": {"smoothing": 0.0},
        "train": TRAIN,
        "validation": {"decode": 4, "samples": 1},
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def caption_shapes_recipe(**sections: Any) -> Any:
    """A small captioner of generated shapes."""
    raw: dict[str, Any] = {
        "task": "caption",
        "data": {"shapes": {"size": 16, "train": 40, "valid": 10, "test": 12}},
        "batch": {"pictures": 8, "max_length": 20},
        "model": {
            "kind": "rnn",
            "encoder": {"kind": "cnn", "widths": [4, 8], "groups": 2},
            "embedding": 8,
            "hidden": 12,
        },
        "objective": {"smoothing": 0.0},
        "train": {**TRAIN, "steps": 4, "validate_every": 4},
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def fill_pictures_recipe(folder: Path, **sections: Any) -> Any:
    """A small Transformer over patches that predicts hidden ones of bright and dark pictures."""
    raw: dict[str, Any] = {
        "task": "fill",
        "data": {
            "train": {"pictures": write_zip(folder / "pictures.zip", class_files(16))},
            "pictures": {"size": 8},
        },
        "augment": {"crop": 1, "flip": True},
        "batch": {"pictures": 6},
        "model": {"kind": "patches", "patch": 2, "layers": 1, "width": 8, "heads": 2, "feedforward": 8},
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def gan_recipe(folder: Path, **sections: Any) -> Any:
    """A small generator and discriminator of bright and dark pictures, with SAGAN's attention."""
    raw: dict[str, Any] = {
        "task": "generate",
        "data": {
            "train": {"pictures": write_zip(folder / "pictures.zip", class_files(16))},
            "pictures": {"size": 8},
        },
        "augment": {"flip": True},
        "batch": {"pictures": 5},
        "model": {"noise": 4, "widths": [8, 8], "groups": 4, "self_attention": {"after": 2, "form": "sagan"}},
        "train": {**TRAIN, "lr": 0.002, "betas": [0.0, 0.9]},
        "validation": {"samples": 4},
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def check_bad_files_are_left_out(
    command: str, run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command reads the pictures among its files, and names the other files; without a picture it fails."""
    (folder / "a.png").write_bytes(encode(noise(1, (9, 14), 60)))
    (folder / "empty.png").write_bytes(b"")
    files = [folder / name for name in ("empty.png", "a.png", "missing.png")]
    assert tiny.call(command, run, *files, "--quiet") == 0
    out, err = capsys.readouterr()
    assert [line.split("\t")[-1] for line in out.splitlines()] == [str(folder / "a.png")]
    assert "qkv: skipped 2 pictures: " in err
    assert "empty.png (0 bytes)" in err
    assert "missing.png (cannot be read: No such file or directory)" in err
    assert tiny.call(command, run, files[0], files[2], "--quiet") == 2
    assert "none of 2 pictures can be used" in capsys.readouterr().err
