"""A recipe: the YAML file that describes a training run, complete and checked before anything is computed."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from qkv.data import BatchConfig, ParallelData, TokenizerConfig
from qkv.data.phrases import PhraseData
from qkv.decode.search import SearchConfig
from qkv.errors import BadRecipe, did_you_mean
from qkv.files import expand_home
from qkv.model.seq2seq import RNNConfig
from qkv.model.transformer import TransformerConfig
from qkv.strict import Strict, explain
from qkv.train import AttentionTerms, TrainConfig
from qkv.yaml_input import load_yaml, read_yaml_text

EPOCHS = 20  # until `defaults` sets them, where a recipe names neither epochs nor steps
ModelConfig = Annotated[TransformerConfig | RNNConfig, Field(discriminator="kind")]


class DataConfig(Strict):
    """Where the pairs come from: files of your own, or generated phrases."""

    train: ParallelData | None = Field(default=None, description="the pairs to train on")
    valid: ParallelData | None = Field(
        default=None, description="held-out pairs; null takes some of the training pairs"
    )
    test: ParallelData | None = Field(
        default=None, description="what `qkv evaluate` takes when no files are named"
    )
    holdout: PositiveInt = Field(
        default=500, description="training pairs to hold out where valid is null (at most 5 %)"
    )
    phrases: PhraseData | None = Field(default=None, description="generate phrases instead of reading files")

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.train is None) == (self.phrases is None):
            raise ValueError("give either 'train', files of your own, or 'phrases', generated ones")
        return self


class ValidationConfig(Strict):
    """What is looked at while training."""

    monitor: Literal["nll", "bleu", "exact"] = Field(
        default="nll", description="the score that decides which weights are best"
    )
    decode: int = Field(
        default=200, ge=0, description="held-out sentences translated greedily for BLEU and exact match"
    )
    samples: int = Field(default=2, ge=0, description="how many of those are printed")
    tokenize: str = Field(
        default="auto",
        description="sacrebleu's tokeniser; auto: by the script of the references; none for text that is "
        "tokenised already",
    )
    lowercase: bool = Field(
        default=False, description="scores ignore letter case; they always do where tokens.lowercase"
    )
    plain_spaces: bool = Field(
        default=False,
        description="scores take no-break spaces (U+00A0, U+202F) for plain ones; they always do where "
        "tokens.plain_spaces",
    )


class Recipe(Strict):
    """Everything a training run needs.  Every key has a default but `data`.

    When training starts, `defaults` gives the keys that were left out values that follow from the data.
    """

    task: Literal["translate"] = "translate"
    description: str = ""
    data: DataConfig
    tokens: TokenizerConfig = TokenizerConfig()
    batch: BatchConfig = BatchConfig()
    model: ModelConfig = TransformerConfig()
    train: TrainConfig = TrainConfig(epochs=EPOCHS)
    objective: AttentionTerms = AttentionTerms()
    validation: ValidationConfig = ValidationConfig()
    decode: SearchConfig = SearchConfig()

    @field_validator("train", mode="wrap")
    @classmethod
    def _has_an_end(cls, value: Any, build: Callable[[Any], TrainConfig]) -> TrainConfig:
        if not isinstance(value, dict) or {"epochs", "steps"} & value.keys():
            return build(value)
        train = build({**value, "epochs": EPOCHS})
        return TrainConfig.model_construct(_fields_set=set(value), **dict(train))

    def to_yaml(self) -> str:
        """The complete recipe, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def builtin_recipes() -> dict[str, str]:
    """name -> first line of description, of the recipes that ship with the package."""
    folder = files("qkv") / "recipes"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            told = load_yaml(entry.read_text(encoding="utf-8"))
            found[entry.name.removesuffix(".yaml")] = str(told.get("description", "")).partition("\n")[0]
    return found


def recipe_text(name: str) -> str:
    """The text of a built-in recipe, as its author wrote it.

    Raises BadRecipe, with the nearest known name, where there is none of that name.
    """
    known = builtin_recipes()
    if name not in known:
        raise BadRecipe(f"no built-in recipe {name!r}. {did_you_mean(name, known)}")
    return (files("qkv") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the built-in one of that name, with `a.b=value` changes applied; a string is
    one change.

    Raises BadRecipe: no such recipe, not YAML, an unknown key ("did you mean"), a value out of range.
    """
    text, where = _recipe_text(name)
    try:
        told = load_yaml(text)
    except ValueError as error:
        raise BadRecipe(f"{where} is not valid YAML: {error}") from None
    if not isinstance(told, dict):
        raise BadRecipe(f"{where} must hold keys and values, such as `data:`, got {type(told).__name__}")
    for change in [changes] if isinstance(changes, str) else changes:
        _apply(told, change)
    return parse_recipe(told, where)


def parse_recipe(told: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain data; `where` is named in the error."""
    try:
        return Recipe(**told)
    except ValidationError as error:
        raise BadRecipe(f"{where}: {explain(error, Recipe)}") from None
    except TypeError as error:
        raise BadRecipe(f"{where}: keys must be words ({error})") from None


def _recipe_text(name: str | Path) -> tuple[str, str]:
    path = expand_home(name)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        try:
            return read_yaml_text(path), str(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadRecipe(f"cannot read the recipe {path}: {reason}") from None
    known = builtin_recipes()
    if str(name) not in known:
        raise BadRecipe(f"no recipe {str(name)!r}, as a file or built in. {did_you_mean(str(name), known)}")
    return recipe_text(str(name)), f"recipe {name}"


def _apply(told: dict[str, Any], change: str) -> None:
    path, equals, value = change.partition("=")
    if not equals or not path:
        raise BadRecipe(f"--set takes key.key=value, as in --set train.epochs=3, got {change!r}")
    *above, last = path.split(".")
    place = told
    for key in above:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    try:
        place[last] = load_yaml(value)
    except ValueError as error:
        raise BadRecipe(f"--set {change[:200]}: {value[:100]!r} is not a YAML value: {error}") from None
