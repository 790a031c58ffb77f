"""Writes docs/recipes.md from the recipes of the package and the models that check them; --check only reports
whether it is stale.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from qkv.task.recipe import list_builtin_recipes, read_recipe
from qkv.task.recipe_keys import RecipeKey, list_recipe_keys
from qkv.task.registry import TASKS

PAGE = Path(__file__).parent / "recipes.md"
INTRO = """\
# Recipes

<!-- Written by `python docs/make_recipes.py`; change that script or the recipe models, not this page. -->

A recipe is a YAML file that says what a training does: the data, how text or pictures are cut, the model, the
training and its validations. `qkv train` takes the path of a recipe or the name of one of the package, and
the folder of a run holds its recipe with every key filled in.

    qkv recipes                              # the recipes of the package
    qkv recipes demo-rnn > mine.yaml         # one of them, to change
    qkv train mine.yaml --out runs/mine --set train.epochs=3 --set model.hidden=256
    qkv keys train                           # all keys of a section, in the terminal
    qkv keys model.mixer --task generate     # one key

`--set KEY=VALUE` changes one key: the value is YAML, and `--set 'model={kind: rnn}'` sets a whole section. A
key that no recipe of the task has is an error that offers the nearest name. In Python,
`qkv.fit(recipe, out, changes=["train.epochs=3"])` does the same.

Defaults that read *(from the data)* are chosen when a training starts, by the size of the data and the
machine. `qkv train` prints each of them with its reason.

The values of an attention are described by `qkv parts` and in [mechanisms](mechanisms.md); the recipes of a
task, with what they reached, are on the pages [translation](translation.md), [language models](language.md),
[classifiers](classify.md), [captions](captions.md) and [pictures](pictures.md).
"""
COMMON = """\
## Keys of every recipe
"""
TABLE = ["| key | values | default | meaning |", "|---|---|---|---|"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or only check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print(f"{PAGE} is stale: run python docs/make_recipes.py")
    return 1


def render() -> str:
    """The text of the page."""
    keys = {name: list_recipe_keys(task.recipe, task.keys_from_data) for name, task in TASKS.items()}
    common = find_common_keys(keys)
    lines = [INTRO, *_list_recipes(), COMMON, *_list_sections(_join_defaults(common, keys))]
    for task, its_keys in keys.items():
        lines += [f"## Keys of task: {task}\n"]
        lines += _list_sections(_select_own(its_keys, common))
    return "\n".join(lines).rstrip() + "\n"


def find_common_keys(keys: dict[str, list[RecipeKey]]) -> list[RecipeKey]:
    """The keys that all tasks have, with the same values and meaning."""
    first, *others = keys.values()
    return [key for key in first if all(_is_in(key, other) for other in others)]


def _is_in(key: RecipeKey, keys: Sequence[RecipeKey]) -> bool:
    return any(key._replace(default="") == other._replace(default="") for other in keys)


def _select_own(keys: Sequence[RecipeKey], common: Sequence[RecipeKey]) -> list[RecipeKey]:
    """The keys of a task that are not common to all, without sections of which nothing is left."""
    own = [key._replace(default=_quote(key.default)) for key in keys if not _is_in(key, common)]
    filled = {key.name.partition(".")[0] for key in own if "." in key.name}
    return [key for key in own if "." in key.name or key.type != "section" or key.name in filled]


def _join_defaults(common: Sequence[RecipeKey], keys: dict[str, list[RecipeKey]]) -> list[RecipeKey]:
    """The common keys with the default of most tasks, and those of the other tasks behind it."""
    joined = []
    for key in common:
        defaults = {
            task: next(each.default for each in its_keys if each.name == key.name)
            for task, its_keys in keys.items()
        }
        usual = Counter(defaults.values()).most_common(1)[0][0]
        others = [f"{task}: {_quote(default)}" for task, default in defaults.items() if default != usual]
        joined.append(key._replace(default="; ".join([_quote(usual), *others])))
    return joined


def _quote(default: str) -> str:
    """A default as code; what is no value stays plain text."""
    is_plain = not default or default.startswith("(") or default == "required"
    return default if is_plain else f"`{default}`"


def _list_recipes() -> Iterator[str]:
    """The recipes of the package, by task."""
    recipes = list_builtin_recipes()
    tasks = {name: read_recipe(name).task for name in recipes}
    yield "## Recipes of the package\n"
    for task in TASKS:
        yield f"### {task}\n"
        yield "| recipe | what it trains |"
        yield "|---|---|"
        yield from (f"| `{name}` | {recipes[name]} |" for name in recipes if tasks[name] == task)
        yield ""


def _list_sections(keys: Sequence[RecipeKey]) -> Iterator[str]:
    """A table of the keys of each section of a recipe; keys outside of sections come first."""
    sections: dict[str, list[RecipeKey]] = {}
    for key in keys:
        is_section = "." in key.name or key.type == "section"
        sections.setdefault(key.name.partition(".")[0] if is_section else "", []).append(key)
    for name, its_keys in sorted(sections.items(), key=lambda item: item[0] != ""):
        if name:
            yield f"### `{name}`\n"
        if name == its_keys[0].name:
            section, *its_keys = its_keys
            yield f"{_capitalise(section.meaning)}\n"
        if its_keys:
            yield from TABLE
            yield from map(_format_row, its_keys)
            yield ""


def _format_row(key: RecipeKey) -> str:
    kind = f" (kind: {key.kind})" if key.kind else ""
    cells = [f"`{key.name}`{kind}", key.type, key.default, _capitalise(key.meaning)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    raise SystemExit(main())
