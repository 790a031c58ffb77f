"""Defaults follow from the size of the data, never change what a recipe sets, and survive a resumption."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tiny
from qkv.data import BatchPlan, make_pair_dataset, train_tokenizers
from qkv.data.generated.phrases import PhraseData, generate_phrases
from qkv.task.recipe import list_builtin_recipes, parse_recipe, read_recipe
from qkv.task.training import fit
from qkv.task.translate.defaults import (
    KEYS,
    DataSize,
    Machine,
    estimate_updates,
    fill_defaults,
    is_set,
    measure_size,
    take_defaults,
)
from qkv.task.translate.pairs import encode_pairs
from qkv.task.translate.recipe import TranslationRecipe
from qkv.train.update import Updater

DATA = {"data": {"train": {"source": "a.en", "target": "a.fr"}}}
CPU = Machine("cpu", threads=8, bfloat16=False)
PAIRS = (10, 300, 3_000, 12_000, 30_000, 130_000, 1_000_000)


def size_of(pairs: int) -> DataSize:
    """Short sentences of a European language."""
    return DataSize(pairs, 68 * pairs, 13 * pairs, 100)


def recipe_of(**sections: Any) -> TranslationRecipe:
    return parse_recipe({**DATA, **sections}, "here")


def filled(pairs: int, machine: Machine = CPU, **sections: Any) -> TranslationRecipe:
    return fill_defaults(recipe_of(**sections), size_of(pairs), machine)[0]


def test_size_counts_both_sides() -> None:
    assert measure_size([("a b", "cd"), ("", "é a")]) == DataSize(2, 8, 5, 6)


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("kind", ["transformer", "rnn"])
def test_every_default_has_a_reason_and_stands_in_the_recipe(pairs: int, kind: str) -> None:
    recipe, defaults = fill_defaults(recipe_of(model={"kind": kind}), size_of(pairs), CPU)
    assert defaults
    for default in defaults:
        section, name = default.key.split(".")
        assert getattr(getattr(recipe, section), name) == default.value
        assert default.key in KEYS
        assert default.reason
        assert default.setting == f"{default.key}={default.value}"
    assert TranslationRecipe(**yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("pairs", PAIRS)
def test_a_complete_recipe_stays_as_it_is(pairs: int) -> None:
    complete = filled(300)
    again = parse_recipe(yaml.safe_load(complete.to_yaml()), "a run")
    assert fill_defaults(again, size_of(pairs), CPU) == (complete, [])


TRANSLATORS = [name for name in list_builtin_recipes() if read_recipe(name).task == "translate"]


@pytest.mark.parametrize("name", TRANSLATORS)
def test_built_in_recipes_leave_nothing_to_the_data(name: str) -> None:
    recipe = read_recipe(name)
    assert fill_defaults(recipe, size_of(300), CPU) == (recipe, [])


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_set_is_never_changed(key: str) -> None:
    section, name = key.split(".")
    usual = recipe_of()
    value = getattr(getattr(usual, section), name)  # the usual value, but said
    sections: dict[str, Any] = {section: {name: value}}
    if section == "model":
        sections["model"]["kind"] = "transformer"
    if key == "train.epochs":
        sections["train"]["epochs"] = value = 3
    for pairs in PAIRS:
        recipe, defaults = fill_defaults(recipe_of(**sections), size_of(pairs), CPU)
        assert getattr(getattr(recipe, section), name) == value
        assert key not in {default.key for default in defaults}


def test_more_data_gets_no_smaller_a_model_and_no_more_passes() -> None:
    recipes = [filled(pairs) for pairs in PAIRS]
    for fewer, more in pairwise(recipes):
        assert more.tokens.vocab >= fewer.tokens.vocab
        assert more.batch.batch_tokens >= fewer.batch.batch_tokens
        assert more.model.dropout <= fewer.model.dropout
        assert more.model.width >= fewer.model.width  # pyright: ignore[reportAttributeAccessIssue]
        assert (more.train.epochs or 0) <= (fewer.train.epochs or 0)


@pytest.mark.parametrize("pairs", [p for p in PAIRS if p >= 3_000])
@pytest.mark.parametrize("kind", ["transformer", "rnn"])
def test_the_defaults_make_enough_updates(pairs: int, kind: str) -> None:
    recipe = filled(pairs, model={"kind": kind})
    updates = estimate_updates(recipe, size_of(pairs))
    assert updates >= 2_000
    assert 0 < recipe.train.warmup <= updates / 5


@pytest.mark.parametrize(("source", "target"), [("en", "fr"), ("ja", "zh"), ("de", "ru")])
@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_updates_are_estimated_from_text_within_a_third(source: str, target: str, kind: str) -> None:
    pairs = generate_phrases(PhraseData(source=source, target=target, size=1000, dev=10, test=10))
    size = measure_size(pairs)
    recipe, _ = fill_defaults(recipe_of(tokens={"kind": kind}, train={"epochs": 1}), size, CPU)
    ids = encode_pairs(pairs, train_tokenizers(pairs, recipe.tokens), recipe.batch.max_length)
    updates = BatchPlan(make_pair_dataset(ids.source, ids.target), recipe.batch, seed=1).steps(0)
    assert updates * 2 / 3 <= estimate_updates(recipe, size) <= updates * 4 / 3


def test_where_the_end_is_set_as_updates_no_epochs_are_added() -> None:
    recipe = filled(12_000, train={"steps": 500})
    assert (recipe.train.steps, recipe.train.epochs) == (500, None)
    assert recipe.train.warmup == 50


def test_the_learning_rate_falls_with_the_width_that_is_set() -> None:
    rates = [
        filled(12_000, model={"kind": "transformer", "width": width}).train.lr for width in (64, 128, 512)
    ]
    assert rates[0] == rates[1] > rates[2]
    post = filled(12_000, model={"kind": "transformer", "norm": "post"})
    assert post.train.lr < rates[1]


@pytest.mark.parametrize("longest", [100, 250, 5_000])
def test_the_longest_pair_fits_a_batch(longest: int) -> None:
    assert filled(300, batch={"max_length": longest}).batch.batch_tokens >= longest + 2


def test_a_script_of_many_letters_gets_room_for_them() -> None:
    recipe, _ = fill_defaults(recipe_of(), DataSize(1_000, 20_000, 2_000, 3_000), CPU)
    assert recipe.tokens.vocab == 6_000
    assert filled(12_000, tokens={"kind": "word"}).tokens.vocab == recipe_of().tokens.vocab


@pytest.mark.parametrize(("train", "every"), [({}, 12), ({"patience": 3}, None), ({"average": 3}, None)])
def test_many_short_epochs_are_not_validated_one_by_one(train: dict[str, int], every: int | None) -> None:
    recipe = filled(3_000, train=train)
    if every is None:
        assert recipe.train.validate_every == "epoch"  # patience and average count validations
    else:
        assert isinstance(recipe.train.validate_every, int)
        assert estimate_updates(recipe, size_of(3_000)) / recipe.train.validate_every <= every
    assert filled(1_000_000).train.validate_every == "epoch"


def test_arithmetic_follows_from_the_machine() -> None:
    assert filled(3_000, CPU).train.precision == "32"
    assert filled(3_000, CPU._replace(bfloat16=True)).train.precision == "bf16"
    assert filled(3_000, CPU._replace(device="cuda")).train.threads is None
    assert filled(3_000, CPU).train.threads == 1
    gpu = filled(1_000_000, CPU._replace(device="cuda"))
    assert gpu.model.width > filled(1_000_000).model.width  # pyright: ignore[reportAttributeAccessIssue]
    assert 1 < (filled(130_000, CPU).train.threads or 0) < 8
    assert filled(130_000, CPU._replace(threads=1)).train.threads == 1


def test_a_resumed_recipe_takes_the_defaults_of_its_run_and_keeps_what_it_sets() -> None:
    run = filled(12_000, train={"lr": 0.5})
    recipe = take_defaults(recipe_of(train={"epochs": 99}), run)
    assert recipe.train.epochs == 99
    assert (recipe.tokens, recipe.model, recipe.batch) == (run.tokens, run.model, run.batch)
    assert recipe.train.warmup == run.train.warmup
    other = take_defaults(recipe_of(model={"kind": "rnn"}), run)
    assert other.model.kind == "rnn"  # and the run refuses it


def test_the_sections_that_are_not_there_have_nothing_set() -> None:
    assert not any(is_set(recipe_of(), key) for key in KEYS)
    assert not is_set(recipe_of(train={"lr": 1.0}), "train.epochs")
    assert is_set(recipe_of(train={"lr": 1.0}), "train.lr")


def unfinished(folder: Path, **train: Any) -> Path:
    """A recipe that leaves almost everything to the data."""
    return tiny.recipe_in(
        folder,
        tokens={},
        batch={"max_length": 12},
        model={"kind": "rnn", "embedding": 16, "hidden": 16},
        train=train,
    )


def test_training_prints_the_defaults_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = unfinished(tmp_path, steps=3, precision="32")
    fit(recipe, tmp_path / "run")
    printed = capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["batch"]["batch_tokens"] == 512
    for setting in ("batch.batch_tokens=512 ", "tokens.vocab=1000 ", "train.schedule=cosine "):
        assert setting in printed
    assert "train.precision=" not in printed
    assert "this training makes only 3 updates" in printed
    assert "about 2,000: raise train.steps" in printed


def test_a_training_with_defaults_resumes_with_the_same_defaults(tmp_path: Path) -> None:
    recipe = unfinished(tmp_path, steps=2)
    fit(recipe, tmp_path / "run", quiet=True)
    before = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    (tmp_path / "run" / "recipe.yaml").unlink()  # the state knows it too
    fit(recipe, tmp_path / "run", changes=["train.steps=4"], resume=True, quiet=True)
    after = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    before["train"]["steps"] = 4
    assert after == before


def test_enough_updates_are_not_remarked_upon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(
        "demo-rnn",
        tmp_path / "run",
        changes=["data.phrases.size=1200", "train.steps=1", "validation.decode=0"],
    )
    assert "updates, and" not in capsys.readouterr().err


def test_threads_are_those_of_the_recipe_while_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    update = Updater.update

    def counted(self: Updater, *arguments: Any) -> None:
        counts.append(torch.get_num_threads())
        update(self, *arguments)

    monkeypatch.setattr(Updater, "update", counted)
    before = torch.get_num_threads()
    fit(unfinished(tmp_path, steps=1, threads=before + 1), tmp_path / "run", quiet=True)
    assert counts == [before + 1]
    assert torch.get_num_threads() == before
