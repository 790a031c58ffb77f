"""What a task is: the kind of work a run is for, from its recipe to the object that `load` returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import yaml
from pydantic import field_validator, model_validator
from torch import nn

from qkv.progress import Progress
from qkv.strict import Strict
from qkv.train import Batches, Objective, TrainConfig
from qkv.train.config import MAY_CHANGE, changed_keys

EPOCHS = 20  # until `Task.complete` sets them, where a recipe names neither epochs nor steps


class Recipe(Strict):
    """What the recipes of all tasks share.  A task's recipe adds its sections, `train` among them."""

    task: str
    description: str = ""
    if TYPE_CHECKING:  # declared by each task's recipe, in the order in which it is written to a file
        train: TrainConfig

    @model_validator(mode="before")
    @classmethod
    def _assume_default_kinds(cls, raw: Any) -> Any:
        """Give a section that has several kinds, and does not name one, the kind of its default value."""
        if not isinstance(raw, dict):
            return raw
        kinds = {}
        for name, field in cls.model_fields.items():
            key, section = field.discriminator, raw.get(name)
            if isinstance(key, str) and isinstance(section, dict) and key not in section:
                kinds[name] = {key: getattr(field.default, key), **section}
        return {**raw, **kinds}

    @field_validator("train", mode="wrap", check_fields=False)
    @classmethod
    def _has_an_end(cls, value: Any, build: Callable[[Any], TrainConfig]) -> TrainConfig:
        if not isinstance(value, dict) or {"epochs", "steps"} & value.keys():
            return build(value)
        train = build({**value, "epochs": EPOCHS})
        return TrainConfig.model_construct(_fields_set=set(value), **dict(train))

    def to_yaml(self) -> str:
        """The complete recipe, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class Training(NamedTuple):
    """What the training loop needs: the loss, where batches come from, and the scores on held-out data.

    monitor: the name of the score that decides which weights are best.
    """

    objective: Objective
    batches: Batches
    validate: Callable[[], dict[str, float]]
    monitor: str


class Task(ABC):
    """A kind of work.  `qkv.task.registry.TASKS` holds one value of each kind.

    name: the value of `task:` in a recipe.
    recipe: the pydantic model of a recipe of this task.
    files: names of the files, such as a vocabulary, that stand beside the weights in a run directory.
    label_sections: sections of the recipe that determine the weights; `load` refuses weights that were
        trained with others.
    resume_keys: `section` or `section.key` of the recipe that resuming may not change, `train` aside.
    """

    name: ClassVar[str]
    recipe: ClassVar[type[Recipe]]
    files: ClassVar[tuple[str, ...]] = ()
    label_sections: ClassVar[tuple[str, ...]] = ("model", "train")
    resume_keys: ClassVar[tuple[str, ...]] = ("model",)

    @abstractmethod
    def read_data(self, recipe: Any) -> Any:
        """The training and held-out data that the recipe names.  Raises BadData where it cannot be used."""

    @abstractmethod
    def fingerprint(self, data: Any) -> dict[str, dict[str, Any]]:
        """Part of the data -> {"lines": how many, "digest": of their content}; resuming compares it.

        The names of the parts begin with "train." or "valid.".
        """

    @abstractmethod
    def data_name(self, part: str, recipe: Any) -> str:
        """What a user calls this part of the fingerprint, such as `data.train.source`."""

    def complete(self, recipe: Any, data: Any, report: Progress) -> Any:
        """The recipe with the keys that it leaves out set for this data; reports each with its reason."""
        return recipe

    def complete_as(self, recipe: Any, trained: Any) -> Any:
        """The recipe with the keys that it leaves out as in the complete recipe of the run to resume."""
        return recipe

    def learn_files(self, recipe: Any, data: Any) -> dict[str, bytes]:
        """Name -> content of `files`; the same data and recipe give the same content."""
        return {}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> Any:
        """The value that the files hold, such as tokenizers; `run` is named in the error.

        Raises BadRun where a file is damaged.
        """
        return None

    @abstractmethod
    def build(self, recipe: Any, data: Any, parsed: Any, report: Progress) -> Training:
        """Wire the objective, the batches and the validation; reports sizes and what is left out.

        parsed: what `parse_files` returns.
        """

    @abstractmethod
    def build_model(self, recipe: Any, parsed: Any) -> nn.Module:
        """The model of a recipe, with random weights."""

    @abstractmethod
    def runner(self, recipe: Any, parsed: Any, model: nn.Module) -> Any:
        """What `load` returns: a trained model, ready for its task."""

    def next_commands(self, run: Path) -> str:
        """What to try with a finished run, for the end of `qkv train`."""
        return f"qkv evaluate {run}"

    def changed_keys(self, old: Recipe, new: Recipe) -> Iterator[str]:
        """The keys that differ between the recipe of a training to resume and this one, and may not."""
        before, now = old.model_dump(mode="json"), new.model_dump(mode="json")
        for key in self.resume_keys:
            section, _, name = key.partition(".")
            if (now[section][name] != before[section][name]) if name else now[section] != before[section]:
                yield key
        yield from (f"train.{key}" for key in changed_keys(new.train, before["train"]))

    def label(self, recipe: Recipe) -> dict[str, Any]:
        """The sections of the recipe that determine the weights, as plain data."""
        sections = recipe.model_dump(mode="json", include=set(self.label_sections))
        kept = {key: value for key, value in sections["train"].items() if key not in MAY_CHANGE}
        return {**sections, "train": kept}
