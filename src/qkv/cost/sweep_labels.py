"""Names the values that a sweep tries, shortly."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from qkv.yaml_input import load_yaml


def label_values(key: str, values: Sequence[str]) -> tuple[str, ...]:
    """Each value in words; of mappings only as many of their keys as it takes to tell them apart.

    Args:
        key: the key of the recipe.
        values: different values, as YAML on one line.

    Example:
        >>> label_values("model", ["{kind: rnn, hidden: 8}", "{kind: transformer, hidden: 8}"])
        ('model.kind=rnn', 'model.kind=transformer')
    """
    parsed = [load_yaml(f"value: {value}")["value"] for value in values]
    if not all(isinstance(value, dict) for value in parsed):
        return tuple(f"{key}={value}" for value in values)
    flat = [dict(_flatten(value, f"{key}.")) for value in parsed]
    names = list(dict.fromkeys(itertools.chain(*flat)))
    chosen: list[str] = []
    while len(set(labels := _label(flat, chosen))) < len(values):
        usefulness = {
            name: (len(set(_label(flat, [*chosen, name]))), sum(name in value for value in flat))
            for name in names
            if name not in chosen
        }
        chosen.append(max(usefulness, key=usefulness.__getitem__))
    return labels


def write_yaml(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).split("\n")[0]


def _flatten(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted name and value of every leaf of nested mappings."""
    for key, each in value.items():
        if isinstance(each, dict) and each:
            yield from _flatten(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", write_yaml(each)


def _label(values: Sequence[dict[str, str]], names: Sequence[str]) -> tuple[str, ...]:
    """The leaves of each value that have these names."""
    return tuple(
        ", ".join(f"{name}={value[name]}" for name in names if name in value) or f"no {', '.join(names)}"
        for value in values
    )
