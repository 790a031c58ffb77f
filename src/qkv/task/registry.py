"""All tasks.  `task:` in a recipe names one of them; a new task is one folder and one entry here."""

from typing import Any

from qkv.errors import BadRecipe, did_you_mean
from qkv.task.base import Task
from qkv.task.translate.task import TRANSLATE

DEFAULT_TASK = TRANSLATE.name
TASKS: dict[str, Task] = {task.name: task for task in (TRANSLATE,)}


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
