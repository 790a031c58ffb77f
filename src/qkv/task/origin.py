"""What a training was started from.  Its state keeps this, so that resuming with anything else is refused."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qkv.errors import BadRun
from qkv.task.pairs import Splits
from qkv.task.recipe import DataConfig, Recipe, parse_recipe
from qkv.train.config import changed_keys

FIXED = ("tokens", "batch", "model")
PATHS = ("train", "valid", "test")  # compared by what the files hold, not by their names
SPLITS = {"train": "training", "valid": "held-out"}


def digest_of(content: bytes) -> str:
    """A digest of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def data_of(splits: Splits) -> dict[str, Any]:
    """The number of lines of both sides of the training and the held-out pairs, and a digest of their text in
    its order.
    """
    return {
        f"{split}.{side}": {"lines": len(pairs), "digest": _digest_of_lines(pair[i] for pair in pairs)}
        for split, pairs in splits._asdict().items()
        for i, side in enumerate(("source", "target"))
    }


def refuse_another_recipe(run: Path, before: Any, recipe: Recipe) -> None:
    """Raise BadRun, with the names of the keys, where a recipe differs from that of the training to resume in
    what may not change.
    """
    old = parse_recipe(before if isinstance(before, dict) else {}, str(run))
    changed = list(_changes(old.model_dump(mode="json"), recipe.model_dump(mode="json"), recipe))
    if changed:
        raise BadRun(
            f"{run} was trained with another {' and '.join(changed)}: resume it with its own recipe, "
            f"{run / 'recipe.yaml'}, or train into another directory"
        )


def refuse_other_data(run: Path, before: Any, splits: Splits, config: DataConfig) -> None:
    """Raise BadRun, with the names of the files, where the data is not that of the training to resume."""
    now = data_of(splits)
    before = before if isinstance(before, dict) else {}
    changed = [key for key in now if now[key] != before.get(key)]
    if not changed:
        return
    names = {_name_of(key, config): _difference(before.get(key), now[key]) for key in changed}
    kinds = " and ".join(dict.fromkeys(SPLITS[key.partition(".")[0]] for key in changed))
    raise BadRun(
        f"the {kinds} data changed since {run} was started: "
        + "; ".join(f"{name} {difference}" for name, difference in names.items())
        + ". Put the data back, or train into another directory"
    )


def _changes(old: dict[str, Any], new: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    if any(old["data"][key] != new["data"][key] for key in new["data"] if key not in PATHS):
        yield "data"
    yield from (section for section in FIXED if old[section] != new[section])
    yield from (f"train.{key}" for key in changed_keys(recipe.train, old["train"]))
    fixed = {"objective": tuple(new["objective"]), "validation": ("monitor",)}
    if new["validation"]["monitor"] != "nll":  # the best score so far comes from these
        fixed["validation"] = ("monitor", "decode", "tokenize")
    for section, keys in fixed.items():
        yield from (f"{section}.{key}" for key in keys if old[section][key] != new[section][key])


def _name_of(key: str, config: DataConfig) -> str:
    """What a user calls the lines of this side of a split."""
    if config.phrases is not None:
        return "data.phrases"
    split, _, side = key.partition(".")
    held_out = split == "valid" and config.valid is None
    files = config.train if split == "train" or held_out else config.valid
    name = "file" if files is not None and files.file is not None else side
    return f"data.train.{name}, of which some is held out," if held_out else f"data.{split}.{name}"


def _difference(before: Any, now: dict[str, Any]) -> str:
    lines = before.get("lines") if isinstance(before, dict) else None
    if lines != now["lines"]:
        return f"has {now['lines']:,} lines, not {lines if not isinstance(lines, int) else f'{lines:,}'}"
    return "has other text, or its lines in another order"


def _digest_of_lines(lines: Iterable[str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for line in lines:
        state.update(line.encode() + b"\n")
    return state.hexdigest()
