"""Lists the keys of recipes with their types, defaults and meanings, all read from the recipe models."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel

from qkv.errors import UnknownName, did_you_mean
from qkv.spec import AttentionSpec

ENTRY = re.compile(r"    (\w+): (.*)")
CONSTANTS = {"None": "null", "True": "true", "False": "false"}
CONSTANT = re.compile(r"\b(None|True|False)\b")
FROM_DATA = "(from the data)"
TYPE_NAMES = {"integer": "integer", "number": "number", "string": "text", "null": "null"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


class RecipeKey(NamedTuple):
    """A key of a recipe.

    Args:
        name: the key with its sections, such as "train.lr".
        kind: the `kind` of its section that has the key; empty if the section has only one kind.
        type: what values it takes, in words.
        default: the default as YAML, or how it is found; empty for a section that lists its own keys.
        meaning: what it sets.
    """

    name: str
    kind: str
    type: str
    default: str
    meaning: str


def list_recipe_keys(recipe: type[BaseModel], keys_from_data: Sequence[str] = ()) -> list[RecipeKey]:
    """All keys of a recipe model, those of nested sections below their section.

    Args:
        recipe: the recipe model of a task.
        keys_from_data: names of keys whose default follows from the training data.
    """
    return [
        key._replace(default=FROM_DATA) if key.name in keys_from_data else key
        for key in _list_keys(recipe, "", "", {})
    ]


def select_keys(keys: list[RecipeKey], section: str) -> list[RecipeKey]:
    """The keys of a section, or the one key of that name.

    Args:
        keys: all keys of a recipe.
        section: a section such as "train" or "data.phrases", or a key such as "train.lr".

    Raises:
        UnknownName: there is no such section or key; the message offers the nearest name.
    """
    selected = [key for key in keys if key.name == section or key.name.startswith(f"{section}.")]
    if not selected:
        names = {key.name for key in keys if "." in section or "." not in key.name}
        raise UnknownName(f"no recipe of this task has the key {section!r}. {did_you_mean(section, names)}")
    return selected


def read_meanings(model: type[BaseModel]) -> dict[str, str]:
    """Key -> meaning, from the `Args:` block of the class docstring and of those of its base classes."""
    meanings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel):
            meanings |= parse_args_block(inspect.cleandoc(base.__doc__ or ""))
    return meanings


def parse_args_block(docstring: str) -> dict[str, str]:
    """Name -> text of every entry of an `Args:` block, with constants as YAML writes them.

    Args:
        docstring: the docstring, without its indentation.
    """
    entries: dict[str, str] = {}
    name = ""
    for line in docstring.partition("\nArgs:\n")[2].splitlines():
        if not line.startswith("    "):
            break
        if match := ENTRY.fullmatch(line):
            name = match[1]
            entries[name] = match[2]
        else:
            entries[name] += f" {line.strip()}"
    return {name: CONSTANT.sub(lambda match: CONSTANTS[match[0]], text) for name, text in entries.items()}


def _list_keys(
    model: type[BaseModel], prefix: str, kind: str, listed: dict[type[BaseModel], str]
) -> Iterator[RecipeKey]:
    """The keys of one section; `listed` has the sections whose keys were listed elsewhere, by their class."""
    meanings, schemas = read_meanings(model), model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        name, sections = f"{prefix}{key}", list(_find_sections(field.annotation))
        meaning = meanings.get(key, "")
        if not sections:
            default = "required" if field.is_required() else _format_default(field.get_default())
            yield RecipeKey(name, kind, _describe_field(schemas[key], field.annotation), default, meaning)
            continue
        is_repeated = sections[0] in listed
        if is_repeated:
            meaning = f"{meaning.rstrip('.')}; its keys are those of {listed[sections[0]]}."
        yield RecipeKey(name, kind, "section", "required" if field.is_required() else "", meaning)
        for section in sections if not is_repeated else ():
            listed[section] = name
            yield from _list_keys(
                section, f"{name}.", _find_kind(section) if len(sections) > 1 else "", listed
            )


def _find_sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The classes of sections that a value of this type may have."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _find_sections(argument)


def _find_kind(section: type[BaseModel]) -> str:
    return str(section.model_fields["kind"].default)


def _describe_field(schema: dict[str, Any], annotation: Any) -> str:
    """The type of a key in words; the JSON schema of an attention says nothing that a reader can use."""
    if annotation is AttentionSpec:
        return "attention"
    if AttentionSpec in get_args(annotation):
        return "attention or null"
    if get_origin(annotation) is dict and AttentionSpec in get_args(get_args(annotation)[1]):
        return "mapping from numbers of layers to attentions"
    return _describe_type(schema)


def _describe_type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    match schema:
        case {"anyOf": choices}:
            words = " or ".join(map(_describe_type, choices))
        case {"const": value}:
            words = str(value)
        case {"enum": values}:
            words = " | ".join(map(str, values))
        case {"type": "boolean"}:
            words = "true | false"
        case {"type": "object", "additionalProperties": values}:
            words = f"mapping from names to {_describe_type(values)}"
        case {"type": "array", "prefixItems": items}:
            words = f"list of {len(items)}: {_describe_type(items[0])}"
        case {"type": "array", "items": items}:
            words = f"list of {_describe_type(items)}"
        case _:
            bounds = [f"{sign} {schema[bound]:g}" for bound, sign in BOUNDS.items() if bound in schema]
            words = " ".join([TYPE_NAMES[schema["type"]], ", ".join(bounds)]).strip()
    return words


def _format_default(value: Any) -> str:
    """A default value as YAML on one line; of an attention only what differs from the default spec."""
    if isinstance(value, AttentionSpec):
        usual = AttentionSpec().to_dict()
        value = {name: part for name, part in value.to_dict().items() if part != usual.get(name)}
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
