"""What held-out scores depend on beside the model: whether those of several runs can be compared."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

WITHOUT_EFFECT_ON_SCORES = frozenset(
    [
        *("validation.monitor", "validation.attention", "validation.samples"),
        *("validation.mode", "validation.stride", "data.pictures.cache", "data.pictures.workers"),
    ]
)


def list_settings(recipe: Any) -> dict[str, str]:
    """What the held-out scores of a run depend on, beside its model and its training.

    Args:
        recipe: the recipe of the run.

    Returns:
        Key of the recipe -> value, and how held-out text is read.
    """
    sections = recipe.model_dump(mode="json", include={"data", "tokens", "validation"})
    settings = {
        key: value for section, values in sections.items() for key, value in _flatten(values, section)
    }
    settings = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT_ON_SCORES}
    return settings | ({"held-out text": recipe.scoring} if recipe.scoring else {})


def _flatten(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}")
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def list_differences(settings: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What makes the held-out scores of the runs incomparable, or may: other data, tokens or scoring.

    Args:
        settings: name of each run -> its settings.

    Yields:
        A line for each setting that differs, with its value in every run.
    """
    for key in dict.fromkeys(key for of_run in settings.values() for key in of_run):
        names: dict[str, list[str]] = {}
        for name, of_run in settings.items():
            names.setdefault(of_run.get(key, "not set"), []).append(name)
        if len(names) > 1:
            each = "; ".join(f"{value} in {', '.join(of_value)}" for value, of_value in names.items())
            yield f"not the same: {key}: {each}"
