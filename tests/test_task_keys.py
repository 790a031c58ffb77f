"""The keys of recipes as `qkv keys` lists them: every one has a meaning, a type and a default."""

from dataclasses import fields
from typing import Literal

import pytest
from pydantic import BaseModel, Field

import tiny
from qkv.errors import UnknownName
from qkv.rules import AXES
from qkv.spec import AttentionSpec
from qkv.task.attention_keys import list_attention_keys
from qkv.task.recipe_keys import RecipeKey, list_recipe_keys, read_meanings, select_keys
from qkv.task.registry import TASKS
from qkv.task.translate.recipe import TranslationRecipe
from qkv.train import TrainConfig


class Left(BaseModel):
    """One kind.

    Args:
        kind: selects it.
        width: of the layer,
            in numbers.
    """

    kind: Literal["left"] = "left"
    width: int = Field(default=3, gt=0)


class Right(BaseModel):
    """Another kind.

    Args:
        kind: selects it.
        name: what it is called.
    """

    kind: Literal["right"] = "right"
    name: str


class Base(BaseModel):
    """What recipes share.

    Args:
        seed: of everything.
    """

    seed: int | None = None


class Toy(Base):
    """A recipe.

    Args:
        model: of two kinds.
        other: again.
    """

    model: Left | Right = Left()
    other: Left | None = None


def test_nested_sections_kinds_and_inherited_keys() -> None:
    assert list_recipe_keys(Toy, ["model.width"]) == [
        RecipeKey("seed", "", "integer or null", "null", "of everything."),
        RecipeKey("model", "", "section", "", "of two kinds."),
        RecipeKey("model.kind", "left", "left", "left", "selects it."),
        RecipeKey("model.width", "left", "integer > 0", "(from the data)", "of the layer, in numbers."),
        RecipeKey("model.kind", "right", "right", "right", "selects it."),
        RecipeKey("model.name", "right", "text", "required", "what it is called."),
        RecipeKey("other", "", "section", "", "again; its keys are those of model."),
    ]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_key_has_a_meaning(task: object) -> None:
    keys = list_recipe_keys(task.recipe, task.keys_from_data)  # pyright: ignore[reportAttributeAccessIssue]
    assert [key.name for key in keys if not key.meaning] == []
    assert {key.name for key in keys} >= {"train.freeze", "train.rates", "train.no_decay", "train.eps"}
    assert set(task.keys_from_data) <= {key.name for key in keys}  # pyright: ignore[reportAttributeAccessIssue]


def test_meanings_have_keys() -> None:
    assert read_meanings(TrainConfig).keys() == TrainConfig.model_fields.keys()
    assert read_meanings(TranslationRecipe).keys() == TranslationRecipe.model_fields.keys()


def test_types_and_defaults_in_words() -> None:
    keys = {key.name: key for key in list_recipe_keys(TranslationRecipe)}
    assert keys["train.betas"][2:4] == ("list of 2: number ≥ 0, < 1", "[0.9, 0.98]")
    assert keys["train.rates"][2:4] == ("mapping from names to number > 0", "{}")
    assert keys["train.validate_every"][2:4] == ("epoch or integer ≥ 1", "epoch")
    assert keys["model.attention"][2:4] == ("attention or null", "{score: {hidden: null, name: additive}}")
    assert keys["data"][2:4] == ("section", "required")


def test_a_section_or_one_key() -> None:
    keys = list_recipe_keys(TranslationRecipe)
    names = [key.name for key in select_keys(keys, "train")]
    assert names[0] == "train"
    assert len(names) == 1 + len(TrainConfig.model_fields)
    assert [key.name for key in select_keys(keys, "train.lr")] == ["train.lr"]
    with pytest.raises(UnknownName, match=r"no recipe of .* 'trian'. Did you mean 'train'"):
        select_keys(keys, "trian")


def test_keys_inside_an_attention(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("keys", "model.decoder.kernel") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"model.decoder.kernel = softmax   {' | '.join(AXES['kernel'])}"
    assert tiny.call("keys", "model.decoder") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "model.decoder.causal = true   true | false" in lines
    assert "model.decoder = {causal: true}   attention (kind: transformer)" in lines
    assert tiny.call("keys", "model.decoder.kernle") == 2
    assert "Did you mean 'model.decoder.kernel'?" in capsys.readouterr().err
    names = {key.name.rpartition(".")[2] for key in list_attention_keys("model.attention")}
    assert names | {"d_model", "d_memory"} == {field.name for field in fields(AttentionSpec)}


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert tiny.call("keys", "train.freeze") == 0
    expected = "names of parameters that are not trained, such as\n    'encoder.*'."
    assert capsys.readouterr().out == f"train.freeze = []   list of text\n    {expected}\n"
    assert tiny.call("keys", "--task", "translate") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"keys of a recipe with task: translate (tasks: {', '.join(TASKS)})"
    assert "train.lr = (from the data)   number > 0" in lines
    assert tiny.call("keys", "--task", "tranlsate") == 2
    assert "Did you mean 'translate'?" in capsys.readouterr().err
