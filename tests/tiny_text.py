"""Tiny texts and recipes that the tests of language models, masked language models and classifiers share."""

import json
import random
from pathlib import Path
from typing import Any

from qkv.task.recipe import parse_recipe

NAMES = ("ann", "bob", "cat", "dan")
VERBS = ("sees", "likes", "knows")
TRAIN = {"steps": 30, "lr": 0.01, "warmup": 5, "precision": "32", "threads": 1, "validate_every": 15}


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences such as "ann sees bob ."; nobody is both subject and object."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        subject, other = draw.sample(NAMES, 2)
        rows.append(f"{subject} {draw.choice(VERBS)} {other} .")
    return rows


def text_file(folder: Path, name: str = "train.txt", count: int = 200, seed: int = 0) -> str:
    path = folder / name
    path.write_text("\n".join(sentences(count, seed)) + "\n")
    return str(path)


def language_recipe(folder: Path, **sections: Any) -> Any:
    raw: dict[str, Any] = {
        "task": "generate",
        "data": {"train": text_file(folder)},
        "tokens": {"kind": "char"},
        "batch": {"streams": 4, "length": 16},
        "model": {"layers": 1, "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.0, "max_length": 64},
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def fill_recipe(folder: Path, **sections: Any) -> Any:
    raw: dict[str, Any] = {
        "task": "fill",
        "data": {"train": text_file(folder)},
        "tokens": {"kind": "word", "vocab": 50},
        "batch": {"streams": 8, "length": 15},
        "model": {"layers": 1, "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.0},
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def labelled_file(folder: Path, name: str = "labelled.jsonl", count: int = 120, pairs: bool = False) -> str:
    """Texts whose label is 1 where they mention bob; pairs whose label says whether both begin alike."""
    path = folder / name
    rows = []
    for number, text in enumerate(sentences(count, seed=3)):
        other = sentences(count, seed=4)[number]
        if pairs:
            label = int(text.split()[0] == other.split()[0])
            rows.append({"text": text, "other": other, "label": label})
        else:
            rows.append({"text": text, "label": int("bob" in text)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def classify_recipe(folder: Path, pairs: bool = False, **sections: Any) -> Any:
    file = {"file": labelled_file(folder, pairs=pairs)}
    raw: dict[str, Any] = {
        "task": "classify",
        "data": {"train": {**file, **({"second_key": "other"} if pairs else {})}},
        "tokens": {"kind": "word", "vocab": 50},
        "batch": {"batch_tokens": 200, "max_length": 20},
        "model": {"layers": 1, "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.0},
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        **raw,
        **{
            key: merged(raw.get(key) or {}, value) if isinstance(value, dict) else value
            for key, value in changes.items()
        },
    }
