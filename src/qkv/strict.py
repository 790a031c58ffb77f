"""Frozen values that refuse what they do not know: the base of specs, recipes and their sections."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from qkv.errors import did_you_mean

STRICT = ConfigDict(frozen=True, extra="forbid", validate_default=True)
PART = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class Strict(BaseModel):
    """A frozen section of a recipe: unknown keys are refused, values are checked when it is built."""

    model_config: ClassVar[ConfigDict] = STRICT


def explain(error: ValidationError, kind: type[BaseModel] | None = None, names: Sequence[str] = ()) -> str:
    """One clause per mistake of a validation error: where it is, what was passed, what was expected.

    `kind` is the class that was being built; with it, an unknown key is answered with the nearest known one.
    `names` are those of values that may have been passed by position.
    """
    return "; ".join(_clauses(error, kind, names))


def _clauses(error: ValidationError, kind: type[BaseModel] | None, names: Sequence[str]) -> Iterator[str]:
    by_position: dict[int | str, str] = dict(enumerate(names))
    for mistake in error.errors(include_url=False):
        first, rest = mistake["loc"][:1], mistake["loc"][1:]
        path = (*(by_position.get(step, step) for step in first), *rest)
        where = ".".join(str(step) for step in path) or "value"
        if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = _keys_beside(kind, path[:-1]) if kind else []
            hint = f". {did_you_mean(str(path[-1]), known)}" if known else ""
            yield f"unknown key '{where}'{hint}"
        elif mistake["type"] == "missing":
            yield f"'{where}' is required"
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            yield f"'{where}' is {_shown(mistake['input'])}: {message}"


def _keys_beside(kind: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The fields of the section at `path`; a step that is the `kind` of a section chooses it."""
    sections = [kind]
    for step in path:
        chosen = [s for s in sections if getattr(s.model_fields.get("kind"), "default", None) == step]
        named = [s.model_fields[str(step)].annotation for s in sections if step in s.model_fields]
        sections = chosen or [part for annotation in named for part in _sections_in(annotation)]
    return sorted({name for section in sections for name in section.model_fields})


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections_in(inner)]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
