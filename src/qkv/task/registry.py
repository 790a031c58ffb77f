"""All tasks.  `task:` in a recipe names one of them; a new task is one folder and one entry here."""

from collections.abc import Mapping
from typing import Any

from qkv.errors import BadRecipe, did_you_mean
from qkv.task.base import Task
from qkv.task.caption.task import CAPTION
from qkv.task.classify.task import CLASSIFY
from qkv.task.classify_pictures.task import CLASSIFY_PICTURES
from qkv.task.fill.task import FILL
from qkv.task.fill_pictures.task import FILL_PICTURES
from qkv.task.generate.task import GENERATE
from qkv.task.generate_pictures.task import GENERATE_PICTURES
from qkv.task.translate.task import TRANSLATE

DEFAULT_TASK = TRANSLATE.name
_ALL = (TRANSLATE, GENERATE, GENERATE_PICTURES, FILL, FILL_PICTURES, CLASSIFY, CLASSIFY_PICTURES, CAPTION)
_WITH_PICTURES = {
    GENERATE.name: GENERATE_PICTURES,
    FILL.name: FILL_PICTURES,
    CLASSIFY.name: CLASSIFY_PICTURES,
}
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def find_task(name: Any) -> Task:
    """The task of that name.

    Args:
        name: the value of `task:`.

    Raises:
        BadRecipe: there is no such task; the message lists the known ones.
    """
    task = TASKS.get(name) if isinstance(name, str) else None
    if task is None:
        raise BadRecipe(f"unknown task: {name!r}. {did_you_mean(str(name), TASKS)}")
    return task


def find_task_of_recipe(raw: Mapping[str, Any]) -> Task:
    """The task of a recipe: that which it names, or that for pictures where it names pictures as its data.

    Args:
        raw: the recipe as plain data.

    Raises:
        BadRecipe: there is no such task.
    """
    task, data = find_task(raw.get("task", DEFAULT_TASK)), raw.get("data")
    if task.name in _WITH_PICTURES and isinstance(data, Mapping):
        train = data.get("train")
        if "shapes" in data or (isinstance(train, Mapping) and "pictures" in train):
            return _WITH_PICTURES[task.name]
    return task
