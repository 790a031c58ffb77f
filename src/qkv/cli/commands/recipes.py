"""`qkv recipes`: lists the built-in recipes, or prints one."""

from qkv.data.lines import DATA_VARIABLE
from qkv.task.recipe import list_builtin_recipes, read_builtin_text


def list_recipes(name: str | None) -> None:
    """Print the built-in recipes, or the text of the one of that name.  Raises BadRecipe if there is none."""
    if name is not None:
        print(read_builtin_text(name), end="")
        return
    recipes = {
        f"{recipe}*" if DATA_VARIABLE in read_builtin_text(recipe) else recipe: description
        for recipe, description in list_builtin_recipes().items()
    }
    width = max(map(len, recipes))
    for recipe, description in recipes.items():
        print(f"{recipe:<{width}}  {description}")
    print(f"\n* reads data from the folder that the variable {DATA_VARIABLE} names: see docs/data.md")
    print("Train one: qkv train NAME --out runs/NAME    Change a setting: --set train.epochs=3")
    print("Copy one: qkv recipes NAME > mine.yaml       Explain its keys: qkv keys")
