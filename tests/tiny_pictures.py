"""Tiny pictures that the tests of pictures share, made with Pillow."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
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
        "model": {"widths": [4, 8], "groups": 2, "pool": "attention", "attention": {"form": "sagan"}},
        "train": TRAIN,
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
