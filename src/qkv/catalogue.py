"""What there is to say of every part, for `qkv parts` and the page of mechanisms.

All of it is read from the parts, their docstrings and the one table of rules.
"""

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, replace
from functools import cache
from typing import Any, NamedTuple

from qkv.errors import UnknownName, did_you_mean
from qkv.part import Part, options_of
from qkv.rules import AXES, Choice, Rule, broken

QUESTIONS = {
    "score": "how alike are a query and a key?",
    "scope": "which keys may be seen?",
    "select": "how do scores become weights?",
    "kernel": "how is the average computed?",
}
LEGEND = {"✓": "they go together", "c": "only if causal=True", "n": "only if causal=False", "·": "never"}
# What a fact means where it holds, and where it does not.
FACTS = {
    "learns": ("learns parameters", "has no parameters"),
    "two_widths": ("queries and keys may differ in width", "queries and keys must have one width"),
    "positional": ("depends on where keys stand", "does not depend on where keys stand"),
    "normalised": ("weights sum to 1", "weights sum to less than 1"),
    "sparse": ("some keys get exactly no weight", "every key that may be seen gets some weight"),
    "samples": ("draws at random in training", "never draws at random"),
    "forms_weights": ("forms the T×S weights", "never forms the T×S weights: linear time and memory"),
}
PLACES = ("causal=True", "causal=False", "dropout > 0")
REQUIRED = 64  # what examples give to an option without a default


class Described(NamedTuple):
    """A part's docstring: what it is, and what its options mean, those explained together side by side."""

    about: str
    options: list[tuple[list[str], str]]


def kinds() -> list[type[Part]]:
    """Every registered part, axis by axis."""
    return [kind for registry in AXES.values() for kind in registry.values()]


def find(name: str) -> type[Part]:
    """The part that recipes or Python call so.  Raises UnknownName, with the nearest known name."""
    known = {kind.name: kind for kind in kinds()}
    classes = {kind.__name__.lower(): kind for kind in kinds()}
    try:
        return known.get(name) or classes[name.lower()]
    except KeyError:
        raise UnknownName(f"unknown part: {name!r}. {did_you_mean(name, known)}") from None


def described(kind: type[Part]) -> Described:
    """Read the docstring: lines `option: meaning` or `option, option: meaning`, and prose.

    An option without such a line means what the prose says where it mentions it in backticks; one that only
    the meaning of another option mentions stands beside that option.
    """
    known, prose, listed = options_of(kind), [], []
    into = prose
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        names, _, meaning = line.partition(": ")
        if meaning and set(names.split(", ")) <= set(known):
            into = [meaning]
            listed.append((names.split(", "), into))
        elif line:
            into.append(line)
        else:
            into = prose
    about = _joined(prose)
    options = [(names, _joined(lines)) for names, lines in listed]
    told = {name for names, _ in options for name in names}
    for name in known:
        if name not in told:
            _explain(name, about, options)
    return Described(about, sorted(options, key=lambda option: known.index(option[0][0])))


def signature(kind: type[Part], names: Iterable[str] | None = None) -> str:
    """Options with their defaults, as in the constructor; an option without one stands alone."""
    chosen = options_of(kind) if names is None else list(names)
    shown = [field for field in fields(kind) if field.name in chosen]  # pyright: ignore[reportArgumentType]
    return ", ".join(f.name if f.default is MISSING else f"{f.name}={_written(f.default)}" for f in shown)


def facts(part: Part) -> list[str]:
    """The part's facts in words."""
    told = [words[not getattr(part, fact)] for fact, words in FACTS.items() if hasattr(part, fact)]
    twin = getattr(part, "twin", "")
    return [*told, f"estimates the {twin}"] if twin else told


def example(kind: type[Part]) -> Part:
    """The part with its defaults."""
    return kind(**_required(kind))


@cache
def variants(kind: type[Part]) -> list[Part]:
    """The part with its defaults, then with each switch that changes what it goes together with."""
    part = example(kind)
    switches = [option for option in options_of(kind) if isinstance(getattr(part, option), bool)]
    turned = [replace(part, **{o: not getattr(part, o)}) for o in switches]  # pyright: ignore[reportArgumentType]
    return [part, *(other for other in turned if _standing(other) != _standing(part))]


def label(part: Part) -> str:
    """The part's name, with the switch that makes it a variant."""
    usual = example(type(part)).to_dict()
    told = [f"{option}={value}" for option, value in part.to_dict().items() if value != usual[option]]
    return f"{part.name} {', '.join(told)}".rstrip()


def why_not(*members: Part | str) -> tuple[Rule, ...]:
    """The fewest rules that a choice with all of these breaks: none where they go together.

    members: two or three parts of different axes, or places of use (`PLACES`).
    """
    return _fewest_broken()[frozenset(members)]


def mark(one: Part, other: Part) -> str:
    """Whether two parts of different axes go together, as a sign of LEGEND."""
    causal, whole = (not why_not(one, other, place) for place in PLACES[:2])
    return "✓" if causal and whole else "c" if causal else "n" if whole else "·"


def matrix() -> tuple[list[Part], list[tuple[Part, list[str]]]]:
    """The parts across, and every part of a later axis with its marks under the parts of earlier axes."""
    groups = [[part for kind in registry.values() for part in variants(kind)] for registry in AXES.values()]
    rows = []
    for number, group in enumerate(groups):
        earlier = [other for before in groups[:number] for other in before]
        rows += [(part, [mark(part, other) for other in earlier]) for part in group if earlier]
    return [part for group in groups[:-1] for part in group], rows


def clashes(part: Part) -> dict[str, list[str]]:
    """Why -> the parts and places of use that this part never goes together with."""
    found: dict[str, list[str]] = {}
    for other in (*_others(part), *PLACES):
        for rule in why_not(part, other):
            found.setdefault(rule.why, []).append(other if isinstance(other, str) else label(other))
    return found


def in_recipe(kind: type[Part]) -> str:
    """A line of a Transformer's recipe that uses the part."""
    options = _shown(kind)
    named = ", ".join([f"name: {kind.name}", *(f"{o}: {value}" for o, value in options.items())])
    return f"cross: {{{kind.axis}: {{{named}}}}}" if options else f"cross: {{{kind.axis}: {kind.name}}}"


def in_python(kind: type[Part]) -> str:
    """A line of Python that uses the part."""
    options = ", ".join(f"{option}={_written(value)}" for option, value in _shown(kind).items())
    return f"qkv.Attention(512, heads=8, {kind.axis}=qkv.{kind.__name__}({options}))"


def _joined(lines: Iterable[str]) -> str:
    return " ".join(" ".join(lines).split())


def _explain(name: str, about: str, options: list[tuple[list[str], str]]) -> None:
    said = _joined(s for s in re.split(r"(?<=\.) ", about) if f"`{name}`" in s)
    beside = [names for names, meaning in options if f"`{name}`" in meaning]
    if said or not beside:
        options.append(([name], said))
    else:
        beside[0].append(name)


def _required(kind: type[Part]) -> dict[str, Any]:
    return {f.name: REQUIRED for f in fields(kind) if f.default is MISSING}  # pyright: ignore[reportArgumentType]


def _shown(kind: type[Part]) -> dict[str, Any]:
    """What is required, or else the first option where it has a value to show."""
    part, first = example(kind), options_of(kind)[:1]
    return _required(kind) or {o: getattr(part, o) for o in first if getattr(part, o) is not None}


def _others(part: Part) -> Iterator[Part]:
    """The parts of other axes; variants only of those that go together with the part."""
    for kind in kinds():
        if kind.axis != part.axis:
            usual, *others = variants(kind)
            yield from [usual] if why_not(part, usual) else [usual, *others]


def _written(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _standing(part: Part) -> list[list[Rule]]:
    usual: dict[str, Any] = {axis: example(next(iter(AXES[axis].values()))) for axis in AXES}
    choice = Choice(**{**usual, "score": None, part.axis: part})
    return [broken(replace(choice, causal=causal)) for causal in (False, True)]


@cache
def _fewest_broken() -> dict[frozenset[Any], tuple[Rule, ...]]:
    fewest: dict[frozenset[Any], tuple[Rule, ...]] = {}
    options: dict[str, list[Any]] = {
        axis: [v for kind in registry.values() for v in variants(kind)] for axis, registry in AXES.items()
    }
    options["score"].append(None)
    for *parts, causal, dropout in itertools.product(*options.values(), (True, False), (0.0, 0.1)):
        rules = tuple(broken(Choice(*parts, causal=causal, dropout=dropout)))
        members = [part for part in parts if part is not None] + [f"causal={causal}"]
        members += ["dropout > 0"] * (dropout > 0)
        for group in (*itertools.combinations(members, 2), *itertools.combinations(members, 3)):
            known = fewest.get(frozenset(group))
            if known is None or len(rules) < len(known):
                fewest[frozenset(group)] = rules
    return fewest
