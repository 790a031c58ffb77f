"""What a task is: the kind of work of a run, from its recipe to the runner that `load` returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import yaml
from pydantic import field_validator, model_validator
from torch import nn

from qkv.progress import Progress
from qkv.strict import Strict
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.initial_run import InitialRun
from qkv.task.runner import Runner
from qkv.train import Batches, Objective, TrainConfig
from qkv.train.config import MAY_CHANGE, list_changed_keys_that_resuming_forbids

EPOCHS = 20  # until `Task.complete_recipe` sets them, if a recipe names neither epochs nor steps


class Recipe(Strict):
    """What the recipes of all tasks share.  A task's recipe adds its sections, `train` among them.

    Args:
        task: the name of the task.
        description: what the recipe trains, in words; `qkv recipes` lists its first line.
    """

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
        sections = {}
        for name, field in cls.model_fields.items():
            key, section = field.discriminator, raw.get(name)
            if isinstance(key, str) and isinstance(section, dict) and key not in section:
                sections[name] = {key: getattr(field.default, key), **section}
        return {**raw, **sections}

    @field_validator("train", mode="wrap", check_fields=False)
    @classmethod
    def _assume_epochs(cls, value: Any, build: Callable[[Any], TrainConfig]) -> TrainConfig:
        """Let a recipe leave out both epochs and steps; neither counts as set then."""
        if not isinstance(value, dict) or {"epochs", "steps"} & value.keys():
            return build(value)
        train = build({**value, "epochs": EPOCHS})
        return TrainConfig.model_construct(_fields_set=set(value), **dict(train))

    @property
    def scoring(self) -> str:
        """How held-out data are read for their scores, where recipes of the task differ in that; else ""."""
        return ""

    def to_yaml(self) -> str:
        """The complete recipe, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class Training(NamedTuple):
    """What the training loop needs.

    Args:
        objective: computes the loss of a batch.
        batches: gives the batches of every update.
        validate: computes the scores on held-out data.
        monitor: the name of the score that decides which weights are best.
        write_samples: writes samples of the present model into the run directory, after every validation;
            None writes nothing.
    """

    objective: Objective
    batches: Batches
    validate: Callable[[], dict[str, float]]
    monitor: str
    write_samples: Callable[[Path], None] | None = None


class Task(ABC):
    """A kind of work.  `qkv.task.registry.TASKS` holds one value of each kind.

    Args:
        name: the value of `task:` in a recipe.
        recipe: the pydantic model of the task's recipes.
        files: names of the files beside the weights in a run directory, such as a vocabulary.
        label_sections: sections of the recipe that determine the weights; `load` refuses weights that were
            trained with others.
        resume_keys: `section` or `section.key` of the recipe that resuming may not change, `train` aside.
        keys_from_data: `section.key` of the recipe whose defaults `complete_recipe` finds.
        evaluate_options: names of the fields of `EvaluateOptions` that `qkv evaluate` takes for this task.
        vocabulary_files: those of `files` that follow from the section `tokens`; a training that starts from
            the weights of another run takes them from it.
        initial_tasks: names of other tasks whose runs a training can start from, besides runs of this one.
    """

    name: ClassVar[str]
    recipe: ClassVar[type[Recipe]]
    files: ClassVar[tuple[str, ...]] = ()
    label_sections: ClassVar[tuple[str, ...]] = ("model", "train")
    resume_keys: ClassVar[tuple[str, ...]] = ("model",)
    keys_from_data: ClassVar[tuple[str, ...]] = ()
    evaluate_options: ClassVar[tuple[str, ...]] = ()
    vocabulary_files: ClassVar[tuple[str, ...]] = ()
    initial_tasks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read_data(self, recipe: Any, report: Progress) -> Any:
        """The training and held-out data that the recipe names.

        Args:
            recipe: a recipe of this task.
            report: where the progress of long reading is shown.

        Raises:
            BadData: the data cannot be read or used.
        """

    @abstractmethod
    def compute_fingerprint(self, data: Any) -> dict[str, dict[str, Any]]:
        """What resuming compares: part of the data -> {"lines": their number, "digest": of their content}.

        Names of parts begin with "train." or "valid."; "unit" names what is counted, where it is not lines.

        Args:
            data: what `read_data` returns.
        """

    @abstractmethod
    def name_data_part(self, part: str, recipe: Any) -> str:
        """The key of the recipe where a part of the fingerprint comes from, such as `data.train.source`.

        Args:
            part: the name of a part in the fingerprint.
            recipe: the recipe.
        """

    def complete_recipe(self, recipe: Any, data: Any, report: Progress) -> Any:
        """The recipe with values for the keys that it leaves out.

        Args:
            recipe: a recipe of this task.
            data: what `read_data` returns.
            report: where each value is printed with its reason.
        """
        return recipe

    def complete_recipe_from(self, recipe: Any, trained: Any) -> Any:
        """The recipe with the values of another one for the keys that it leaves out.

        Args:
            recipe: a recipe of this task.
            trained: the complete recipe of the run to resume.
        """
        return recipe

    def learn_files(self, recipe: Any, data: Any, vocabulary: Mapping[str, bytes]) -> dict[str, bytes]:
        """Name -> content of `files`.  The same data and recipe must give the same content.

        Args:
            recipe: the complete recipe.
            data: what `read_data` returns.
            vocabulary: name -> content of `vocabulary_files` to take as they are; empty: learn them.
        """
        return {}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> Any:
        """The values that the files hold, such as tokenizers.

        Args:
            contents: name -> content of `files`.
            run: the run directory, for error messages.

        Raises:
            BadRun: a file is damaged.
        """
        return None

    @abstractmethod
    def build_training(self, recipe: Any, data: Any, parsed: Any, report: Progress) -> Training:
        """Build the objective, the batches and the validation.

        Args:
            recipe: the complete recipe.
            data: what `read_data` returns.
            parsed: what `parse_files` returns.
            report: where sizes are printed, and which examples are left out.
        """

    def measure_unknown_share(self, data: Any, parsed: Any) -> float:
        """The share of the tokens of the training text that the vocabulary does not have; by default 0.

        Args:
            data: what `read_data` returns.
            parsed: what `parse_files` returns.
        """
        return 0.0

    def list_usable_prefixes(self, parsed: Any, initial: InitialRun) -> tuple[str, ...]:
        """How the names begin of those weights of another run that mean the same in a model of this task.

        Args:
            parsed: what `parse_files` returns.
            initial: a run of this task, or of one of `initial_tasks`.

        Returns:
            Prefixes of names; by default the empty one, for all weights.
        """
        return ("",)

    def adapt_training(
        self, recipe: Any, training: Training, parsed: Any, initial: InitialRun | None
    ) -> Training:
        """The training after the weights of another run were copied; by default it stays as it is.

        Args:
            recipe: the complete recipe.
            training: what `build_training` returned.
            parsed: what `parse_files` returns.
            initial: the other run; None where there is none.

        Raises:
            BadRecipe: the recipe cannot be trained with or without this run.
        """
        return training

    @abstractmethod
    def build_model(self, recipe: Any, parsed: Any) -> nn.Module:
        """The model of a recipe, with random weights.

        Args:
            recipe: the complete recipe.
            parsed: what `parse_files` returns.
        """

    @abstractmethod
    def build_runner(self, recipe: Any, parsed: Any, model: nn.Module) -> Runner:
        """What `load` returns: a trained model, ready for its task.

        Args:
            recipe: the complete recipe.
            parsed: what `parse_files` returns.
            model: the trained model, in eval mode.
        """

    @abstractmethod
    def read_test_data(self, recipe: Any, options: EvaluateOptions) -> Any:
        """The examples to score: those that the options name, or else the recipe's test data.

        Args:
            recipe: the recipe of the run.
            options: the options of `qkv evaluate`; those that the task does not have are not set.

        Raises:
            BadData: there are none, or they cannot be read.
        """

    @abstractmethod
    def evaluate(self, runner: Any, data: Any, options: EvaluateOptions, quiet: bool) -> Evaluation:
        """Score a trained model.

        Args:
            runner: what `build_runner` returns.
            data: what `read_test_data` returns.
            options: the options of `qkv evaluate`.
            quiet: show no progress.
        """

    def suggest_commands(self, run: Path) -> str:
        """What to try with a finished run, for the end of `qkv train`."""
        return f"qkv evaluate {run}"

    def find_changed_keys(self, old: Recipe, new: Recipe) -> Iterator[str]:
        """The keys that differ between two recipes, and that resuming may not change.

        Args:
            old: the recipe of the training to resume.
            new: the recipe to resume it with.
        """
        before, now = old.model_dump(mode="json"), new.model_dump(mode="json")
        for key in self.resume_keys:
            section, _, name = key.partition(".")
            if (now[section][name] != before[section][name]) if name else now[section] != before[section]:
                yield key
        yield from (
            f"train.{key}" for key in list_changed_keys_that_resuming_forbids(new.train, before["train"])
        )

    def build_label(self, recipe: Recipe) -> dict[str, Any]:
        """The sections of the recipe that determine the weights, as plain data."""
        sections = recipe.model_dump(mode="json", include=set(self.label_sections))
        train = {key: value for key, value in sections["train"].items() if key not in MAY_CHANGE}
        return {**sections, "train": train}
