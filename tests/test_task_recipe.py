"""Recipes: read, changed, completed, refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from qkv.errors import BadRecipe
from qkv.task.recipe import list_builtin_recipes, parse_recipe, read_recipe
from qkv.task.translate.defaults import is_set
from qkv.task.translate.recipe import TranslationRecipe

DATA = {"data": {"train": {"source": "a.en", "target": "a.fr"}}}
TRANSFORMER: dict[str, Any] = {**DATA, "model": {"kind": "transformer"}}


def with_model(**model: Any) -> dict[str, Any]:
    return {**DATA, "model": {"kind": "transformer", **model}}


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_every_built_in_recipe_parses_and_says_how_to_run_it(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.description.partition("\n")[0]
    assert f"qkv train {name} " in recipe.description


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_a_recipe_written_is_the_recipe_read(name: str) -> None:
    recipe = read_recipe(name)
    assert type(recipe)(**yaml.safe_load(recipe.to_yaml())) == recipe


def test_what_is_written_is_complete() -> None:
    told = yaml.safe_load(parse_recipe(DATA, "here").to_yaml())
    assert told.keys() == TranslationRecipe.model_fields.keys()
    assert told["model"]["kind"] == "transformer"
    assert (
        told["model"]["decoder"]["kernel"] == "softmax"
        or told["model"]["decoder"]["kernel"]["name"] == "softmax"
    )
    assert told["train"]["epochs"] == 20


@pytest.mark.parametrize(
    ("train", "epochs", "steps"),
    [
        ({}, 20, None),
        ({"lr": 0.1}, 20, None),
        ({"steps": 7}, None, 7),
        ({"epochs": 3, "steps": 7}, 3, 7),
    ],
)
def test_training_has_an_end(train: dict[str, Any], epochs: int | None, steps: int | None) -> None:
    recipe = parse_recipe({**DATA, "train": train}, "here")
    assert (recipe.train.epochs, recipe.train.steps) == (epochs, steps)


def test_a_precision_may_be_written_as_a_number() -> None:
    assert read_recipe("demo-rnn", ["train.precision=32"]).train.precision == "32"
    with pytest.raises(BadRecipe, match=r"'train.precision' is '8': Input should be 'auto', '32'"):
        read_recipe("demo-rnn", ["train.precision=8"])


def test_changes_are_applied_in_order_and_read_as_yaml(tmp_path: Path) -> None:
    path = tiny.recipe_in(tmp_path)
    changes = [
        "train.lr=1e-3",
        "train.epochs=2",
        "train.epochs=3",
        "data.valid=null",
        "tokens.lowercase=true",
    ]
    recipe = read_recipe(
        path, [*changes, "model={kind: transformer, decoder: {kernel: {name: rfa, features: 8}}}"]
    )
    assert (recipe.train.lr, recipe.train.epochs, recipe.data.valid) == (1e-3, 3, None)
    assert recipe.tokens.lowercase
    assert recipe.model.kind == "transformer"
    assert recipe.model.decoder.kernel.features == 8


def test_a_model_without_a_kind_is_of_the_default_kind(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(DATA))
    recipe = read_recipe(path, ["model.dropout=0.25"])
    assert (recipe.model.kind, recipe.model.dropout) == ("transformer", 0.25)
    assert not is_set(recipe, "model.width")  # which still follows from the data
    assert read_recipe("demo-rnn", ["model.dropout=0.25"]).model.kind == "rnn"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({**DATA, "modle": {}}, "unknown key 'modle'. Did you mean 'model'"),
        ({"data": {"trian": {}}}, "unknown key 'data.trian'. Did you mean 'train'"),
        ({**DATA, "lr": 0.1}, "unknown key 'lr'. Did you mean 'train.lr'"),
        (with_model(norm="pots"), "'model.norm' is 'pots': .* Did you mean 'post'"),
        ({"data": {"train": {"sorce": "a"}}}, "unknown key 'data.train.sorce'. Did you mean 'source'"),
        ({**DATA, "train": {"epocs": 1}}, "unknown key 'train.epocs'. Did you mean 'epochs'"),
        (with_model(widht=8), "unknown key 'model.widht'. Did you mean 'width'"),
        (with_model(transformer=8), "unknown key 'model.transformer'. Known: "),
        (with_model(width="x"), "'model.width' is 'x'"),
        (with_model(encoder_layers=10**9), "'model.encoder_layers' is 1000000000: Input should be less than"),
        ({**DATA, "model": {"widht": 8}}, "unknown key 'model.widht'. Did you mean 'width'"),
        (
            {**DATA, "train": {"validate_every": "never"}},
            "'train.validate_every' is 'never': Input should be 'epoch', or Input should be a valid integer",
        ),
        ({**DATA, "train": {"lr": float("inf")}}, "'train.lr' is inf: Input should be a finite number"),
        ({**DATA, "train": {"epochs": 2**63}}, "'train.epochs' is 9223372036854775808: .*at most 64 bits"),
        ({**DATA, "train": {"betas": ["a", 0.1]}}, "'train.betas.0' is 'a'"),
        ({**DATA, **{f"k{i}": 1 for i in range(50)}}, "unknown key 'k0'.*; and 45 more"),
        (with_model(decoder={"kernl": "rfa"}), "unknown key of an attention: 'kernl'. Did you mean 'kernel'"),
        (with_model(decoder={"kernel": "raf"}), "unknown kernel: 'raf'. Did you mean 'rfa'"),
        (
            with_model(decoder={"kernel": {"name": "rfa", "feature": 8}}),
            "unknown option of kernel=rfa: 'feature'. Did you mean 'features'",
        ),
        ({**DATA, "model": {"kind": "rnn", "attention": {"score": "aditive"}}}, "Did you mean 'additive'"),
        ({**DATA, "model": {"kind": "rn"}}, "'model' is .*'rn'.*'transformer', 'rnn'"),
        ({}, "'data' is required"),
        ({"data": {}}, "give either 'train', pairs of your own, or 'phrases'"),
        (
            {"data": {"phrases": {"source": "en", "target": "fr"}, "valid": {"file": "a.tsv"}}},
            "'phrases' generates its held-out pairs: leave out 'valid'",
        ),
        ({"data": {"train": {"source": "a"}}}, "give either both 'source' and 'target', or 'file' alone"),
        ({**DATA, "batch": {"batch_tokens": 0}}, "'batch.batch_tokens' is 0: Input should be greater than 0"),
        ({**DATA, "train": {"steps": None, "epochs": None}}, "training needs an end"),
        ({**DATA, "decode": {"beam": 2, "n_best": 3}}, "n_best=3 needs a beam at least as wide, but beam=2"),
        ({**DATA, "validation": {"monitor": "blue"}}, "'validation.monitor' is 'blue'.*'bleu'"),
        ({**DATA, 3: 4}, "keys must be words"),
        ({**DATA, "train": {3: 4}}, "'train"),
        ({**DATA, "train": [3]}, r"'train' is \[3\]"),
        ({**DATA, "train": None}, "'train' is None"),
    ],
)
def test_mistakes_are_named(told: dict[Any, Any], said: str) -> None:
    with pytest.raises(BadRecipe, match=f"^here: .*{said}"):
        parse_recipe(told, "here")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.epochs", "--set takes key.key=value, as in --set train.epochs=3, got 'train.epochs'"),
        ("=3", "--set takes key.key=value"),
        ("train.epocs=3", "unknown key 'train.epocs'. Did you mean 'epochs'"),
        ("epochs=3", "unknown key 'epochs'"),
        ("train.epochs=many", "'train.epochs' is 'many'"),
        ("train.epochs=[", r"--set train.epochs=\[: '\[' is not a YAML value"),
        ("train.epochs=2026-99-99", "is not a YAML value"),
        ("train..epochs=3", "unknown key 'train."),
    ],
)
def test_wrong_changes_are_named(change: str, said: str) -> None:
    with pytest.raises(BadRecipe, match=said):
        read_recipe("demo-rnn", [change])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"data: [", "r.yaml is not valid YAML"),
        (b"data: 2026-99-99", "r.yaml is not valid YAML"),
        (b"- data", "r.yaml must hold keys and values, such as `data:`, got list"),
        (b"", "r.yaml must hold keys and values, such as `data:`, got NoneType"),
        (b"data: \xff", "cannot read the recipe .*r.yaml: it is not UTF-8 text"),
        (b"data: \x00", "r.yaml is not valid YAML"),
        (b"data: !!python/object:os.system x", "r.yaml is not valid YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(BadRecipe, match=said) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        BadRecipe, match=r"no recipe 'demo-rn', as a file or built in .*\. Did you mean 'demo-rnn'"
    ):
        read_recipe("demo-rn")
    with pytest.raises(BadRecipe, match=r"cannot read the recipe .*none.yaml: No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "dir.yaml").mkdir()
    with pytest.raises(BadRecipe, match=r"cannot read the recipe .*dir.yaml: Is a directory"):
        read_recipe(tmp_path / "dir.yaml")


def test_a_folder_does_not_hide_a_built_in_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-rnn").mkdir()
    assert read_recipe("demo-rnn").model.kind == "rnn"


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(BadRecipe, match=r"my.yaml: unknown task: 'tranlsate'. Did you mean 'translate'"):
        parse_recipe({"task": "tranlsate"}, "my.yaml")
    with pytest.raises(
        BadRecipe,
        match=r"unknown task: \['translate'\]. .*Known: caption, classify, classify-pictures, fill, ",
    ):
        parse_recipe({"task": ["translate"]}, "my.yaml")


def test_smoothing_moved_to_the_objective() -> None:
    data = {"phrases": {}}
    old = parse_recipe({"data": data, "train": {"steps": 5, "smoothing": 0.2}}, "my.yaml")
    new = parse_recipe({"data": data, "train": {"steps": 5}, "objective": {"smoothing": 0.2}}, "my.yaml")
    assert old == new
    assert old.objective.smoothing == 0.2
    both = {"data": data, "train": {"smoothing": 0.2}, "objective": {"smoothing": 0.1}}
    with pytest.raises(BadRecipe, match=r"both train\.smoothing and objective\.smoothing are set"):
        parse_recipe(both, "my.yaml")
