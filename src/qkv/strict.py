"""Base of specs, recipes and their sections: pydantic models that refuse unknown keys."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from qkv.errors import did_you_mean

STRICT = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
PART = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
LARGEST_INTEGER = 2**63 - 1
MAX_CLAUSES = 5
MAX_CHARACTERS = 60


class Strict(BaseModel):
    """A frozen section of a recipe: unknown keys are errors, and values are checked at construction."""

    model_config: ClassVar[ConfigDict] = STRICT

    @field_validator("*", mode="after")
    @classmethod
    def _fits_in_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise ValueError("Input should be an integer of at most 64 bits")
        return value


def describe_errors(
    error: ValidationError, model: type[BaseModel] | None = None, names: Sequence[str] = ()
) -> str:
    """Describe a validation error in one line, one clause per problem: key, value and what was expected.

    Args:
        error: The error of pydantic.
        model: The class that was being built; with it the message offers the nearest key for an unknown one.
        names: Names of values that may have been passed by position.

    Returns:
        The first `MAX_CLAUSES` clauses, separated by semicolons.
    """
    clauses = list(_describe_each(error, model, names))
    remainder = f"; and {len(clauses) - MAX_CLAUSES} more" if len(clauses) > MAX_CLAUSES else ""
    return "; ".join(clauses[:MAX_CLAUSES]) + remainder


def _describe_each(
    error: ValidationError, model: type[BaseModel] | None, names: Sequence[str]
) -> Iterator[str]:
    by_position: dict[int | str, str] = dict(enumerate(names))
    expected: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors(include_url=False):
        first, later = problem["loc"][:1], problem["loc"][1:]
        path = _drop_union_tags(model, (*(by_position.get(step, step) for step in first), *later))
        key = ".".join(map(str, path)) or "value"
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield f"unknown key '{_shorten(key)}'{_suggest_key(model, problem['loc'], path)}"
        elif problem["type"] == "missing":
            yield f"'{key}' is required"
        elif problem["type"] == "union_tag_not_found":
            yield f"'{key}' needs the key {problem.get('ctx', {})['discriminator']}, which says what it is"
        elif problem["type"] == "value_error" and isinstance(problem["input"], dict):
            # a check of a whole section, whose message names the keys
            yield f"{key}: {_format_message(problem)}" if path else _format_message(problem)
        else:
            expected.setdefault((key, _shorten(repr(problem["input"]))), []).append(_format_message(problem))
    for (key, value), messages in expected.items():
        yield f"'{key}' is {value}: {', or '.join(messages)}"


def _suggest_key(
    model: type[BaseModel] | None, location: Sequence[str | int], path: Sequence[str | int]
) -> str:
    """A sentence with the nearest key: one of the same section, or the same name inside another one."""
    known = _sibling_keys(model, location) if model else []
    if model is None or not known:
        return ""
    sections = model.model_fields if len(path) == 1 else ()
    inside = [
        name for name in sections if any(path[0] in s.model_fields for s in _sections_at([model], name))
    ]
    return f". Did you mean '{inside[0]}.{path[0]}'?" if inside else f". {did_you_mean(str(path[-1]), known)}"


def _format_message(problem: Any) -> str:
    if problem["type"] == "union_tag_invalid":
        choices = problem["ctx"]
        return f"{choices['discriminator']} should be one of {choices['expected_tags']}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "literal_error":
        nearest = difflib.get_close_matches(str(problem["input"]), re.findall(r"'([^']+)'", message), n=1)
        message += f". Did you mean '{nearest[0]}'?" if nearest else ""
    return message


def _drop_union_tags(model: type[BaseModel] | None, path: Sequence[str | int]) -> tuple[str | int, ...]:
    """The keys of a recipe: the path without the names that pydantic gives to alternatives of a union."""
    if model is None:
        return tuple(step for depth, step in enumerate(path) if depth == 0 or isinstance(step, int))
    keys: list[str | int] = []
    sections = [model]
    for step in path:
        alternatives = _select_alternative(sections, step)
        if alternatives:
            sections = alternatives
            continue
        if isinstance(step, int) or sections:
            keys.append(step)
        sections = sections if isinstance(step, int) else _sections_at(sections, step)
    return tuple(keys)


def _select_alternative(sections: list[type[BaseModel]], step: str | int) -> list[type[BaseModel]]:
    """The alternative of a union with this `kind`, if there are several and no field has that name."""
    if len(sections) < 2 or any(step in section.model_fields for section in sections):
        return []
    return [s for s in sections if getattr(s.model_fields.get("kind"), "default", None) == step]


def _sections_at(sections: list[type[BaseModel]], step: str | int) -> list[type[BaseModel]]:
    """The models that the field of this name may hold."""
    annotations = [s.model_fields[str(step)].annotation for s in sections if step in s.model_fields]
    return [section for annotation in annotations for section in _models_in(annotation)]


def _sibling_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The fields of the section that holds a key; a step that is the `kind` of a section selects it."""
    sections = [model]
    for step in location[:-1]:
        sections = _select_alternative(sections, step) or _sections_at(sections, step)
    return sorted({name for section in sections for name in section.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _models_in(inner)]


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."
