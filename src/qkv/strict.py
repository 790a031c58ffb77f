"""Frozen values that refuse what they do not know: the base of specs, recipes and their sections."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from qkv.errors import did_you_mean

STRICT = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
PART = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
LARGEST_INTEGER = 2**63 - 1
MOST_SHOWN = 5


class Strict(BaseModel):
    """A frozen section of a recipe: unknown keys are refused, values are checked when it is built."""

    model_config: ClassVar[ConfigDict] = STRICT

    @field_validator("*", mode="after")
    @classmethod
    def _fits_in_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise ValueError("Input should be an integer of at most 64 bits")
        return value


def explain(error: ValidationError, kind: type[BaseModel] | None = None, names: Sequence[str] = ()) -> str:
    """One clause per mistake of a validation error: where it is, what was passed, what was expected.

    `kind` is the class that was being built; with it, an unknown key is answered with the nearest known one.
    `names` are those of values that may have been passed by position.
    """
    clauses = list(_clauses(error, kind, names))
    more = f"; and {len(clauses) - MOST_SHOWN} more" if len(clauses) > MOST_SHOWN else ""
    return "; ".join(clauses[:MOST_SHOWN]) + more


def _clauses(error: ValidationError, kind: type[BaseModel] | None, names: Sequence[str]) -> Iterator[str]:
    by_position: dict[int | str, str] = dict(enumerate(names))
    expected: dict[tuple[str, str], list[str]] = {}
    for mistake in error.errors(include_url=False):
        first, rest = mistake["loc"][:1], mistake["loc"][1:]
        path = _keys_of(kind, (*(by_position.get(step, step) for step in first), *rest))
        where = ".".join(map(str, path)) or "value"
        if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = _keys_beside(kind, mistake["loc"]) if kind else []
            hint = f". {did_you_mean(str(path[-1]), known)}" if known else ""
            yield f"unknown key '{_shortened(where)}'{hint}"
        elif mistake["type"] == "missing":
            yield f"'{where}' is required"
        elif mistake["type"] == "union_tag_not_found":
            yield f"'{where}' needs the key {mistake.get('ctx', {})['discriminator']}, which says what it is"
        else:
            expected.setdefault((where, _shown(mistake["input"])), []).append(_message(mistake))
    for (where, value), messages in expected.items():
        yield f"'{where}' is {value}: {', or '.join(messages)}"


def _message(mistake: Any) -> str:
    if mistake["type"] == "union_tag_invalid":
        choices = mistake["ctx"]
        return f"{choices['discriminator']} should be one of {choices['expected_tags']}"
    return mistake["msg"].removeprefix("Value error, ")


def _keys_of(kind: type[BaseModel] | None, path: Sequence[str | int]) -> tuple[str | int, ...]:
    """The keys that a person wrote: the path without the names of a union's alternatives."""
    if kind is None:
        return tuple(step for place, step in enumerate(path) if place == 0 or isinstance(step, int))
    keys: list[str | int] = []
    sections = [kind]
    for step in path:
        chosen = _chosen(sections, step)
        if chosen:
            sections = chosen
            continue
        if isinstance(step, int) or sections:
            keys.append(step)
        sections = sections if isinstance(step, int) else _sections_at(sections, step)
    return tuple(keys)


def _chosen(sections: list[type[BaseModel]], step: str | int) -> list[type[BaseModel]]:
    """The alternative of a union that is called so, if there are several and no field has that name."""
    if len(sections) < 2 or any(step in section.model_fields for section in sections):
        return []
    return [s for s in sections if getattr(s.model_fields.get("kind"), "default", None) == step]


def _sections_at(sections: list[type[BaseModel]], step: str | int) -> list[type[BaseModel]]:
    annotations = [s.model_fields[str(step)].annotation for s in sections if step in s.model_fields]
    return [section for annotation in annotations for section in _sections_in(annotation)]


def _keys_beside(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The fields of the section where a key stands; a step that is the `kind` of a section chooses it."""
    sections = [kind]
    for step in location[:-1]:
        sections = _chosen(sections, step) or _sections_at(sections, step)
    return sorted({name for section in sections for name in section.model_fields})


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections_in(inner)]


def _shown(value: Any) -> str:
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
