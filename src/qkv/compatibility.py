"""Which parts can be combined, found by trying every combination against the table of rules."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from qkv.catalogue import build_example, format_label, list_part_classes
from qkv.part import Part, list_options
from qkv.rules import AXES, Choice, Rule, find_broken

LEGEND = {"✓": "they go together", "c": "only if causal=True", "n": "only if causal=False", "·": "never"}
PLACES = ("causal=True", "causal=False", "dropout > 0")


@cache
def list_variants(part_class: type[Part]) -> list[Part]:
    """List the part with its defaults, then with each switch that changes what it can be combined with.

    Args:
        part_class: The class of the part.

    Returns:
        The variants; the first has the defaults.
    """
    part = build_example(part_class)
    switches = [option for option in list_options(part_class) if isinstance(getattr(part, option), bool)]
    switched = [replace(part, **{o: not getattr(part, o)}) for o in switches]  # pyright: ignore[reportArgumentType]
    usual = _broken_alone(part)
    return [part, *(other for other in switched if _broken_alone(other) != usual)]


def find_broken_rules(*members: Part | str) -> tuple[Rule, ...]:
    """Find the fewest rules that a choice with all of these members breaks.

    Args:
        *members: Two or three parts of different axes, or places of use (`PLACES`).

    Returns:
        The rules; empty where the members can be combined.
    """
    return _fewest_broken_rules()[frozenset(members)]


def get_mark(part: Part, other: Part) -> str:
    """Look up whether two parts of different axes can be combined.

    Args:
        part: A part.
        other: A part of another axis.

    Returns:
        A sign of `LEGEND`.
    """
    causal, bidirectional = (not find_broken_rules(part, other, place) for place in PLACES[:2])
    return "✓" if causal and bidirectional else "c" if causal else "n" if bidirectional else "·"


def build_matrix() -> tuple[list[Part], list[tuple[Part, list[str]]]]:
    """Build the matrix of parts that can be combined.

    Returns:
        The parts of the columns; and for every row its part, and its marks under the parts of earlier axes.
    """
    groups = [
        [part for part_class in registry.values() for part in list_variants(part_class)]
        for registry in AXES.values()
    ]
    rows = []
    for number, group in enumerate(groups):
        earlier = [other for before in groups[:number] for other in before]
        rows += [(part, [get_mark(part, other) for other in earlier]) for part in group if earlier]
    return [part for group in groups[:-1] for part in group], rows


def find_clashes(part: Part) -> dict[str, list[str]]:
    """Find the parts and places of use that this part can never be combined with.

    Args:
        part: The part.

    Returns:
        The reason -> labels of parts and places.
    """
    clashes: dict[str, list[str]] = {}
    for other in (*_parts_of_other_axes(part), *PLACES):
        for rule in find_broken_rules(part, other):
            clashes.setdefault(rule.why, []).append(other if isinstance(other, str) else format_label(other))
    return clashes


def _parts_of_other_axes(part: Part) -> Iterator[Part]:
    """The parts of other axes; variants only of those that the part can be combined with."""
    for part_class in list_part_classes():
        if part_class.axis != part.axis:
            usual, *others = list_variants(part_class)
            yield from [usual] if find_broken_rules(part, usual) else [usual, *others]


def _broken_alone(part: Part) -> list[list[Rule]]:
    """The rules that the part breaks beside the usual parts, without and with `causal`."""
    usual: dict[str, Any] = {axis: build_example(next(iter(AXES[axis].values()))) for axis in AXES}
    choice = Choice(**{**usual, "score": None, part.axis: part})
    return [find_broken(replace(choice, causal=causal)) for causal in (False, True)]


@cache
def _fewest_broken_rules() -> dict[frozenset[Any], tuple[Rule, ...]]:
    """The fewest rules broken by any choice that contains two or three members, for all of these."""
    fewest: dict[frozenset[Any], tuple[Rule, ...]] = {}
    options: dict[str, list[Any]] = {
        axis: [v for part_class in registry.values() for v in list_variants(part_class)]
        for axis, registry in AXES.items()
    }
    options["score"].append(None)
    for *parts, causal, dropout in itertools.product(*options.values(), (True, False), (0.0, 0.1)):
        rules = tuple(find_broken(Choice(*parts, causal=causal, dropout=dropout)))
        members = [part for part in parts if part is not None] + [f"causal={causal}"]
        members += ["dropout > 0"] * (dropout > 0)
        for group in (*itertools.combinations(members, 2), *itertools.combinations(members, 3)):
            smallest = fewest.get(frozenset(group))
            if smallest is None or len(rules) < len(smallest):
                fewest[frozenset(group)] = rules
    return fewest
