"""The task `classify` on ListOps: the generated expressions are documents whose class is their value."""

import json
from pathlib import Path
from typing import Any

import pytest

import qkv
from qkv.errors import QKVError
from qkv.progress import NoProgress
from qkv.task.classify.documents import read_splits, read_test_documents
from qkv.task.evaluation import EvaluateOptions
from qkv.task.recipe import parse_recipe, read_recipe
from qkv.task.registry import find_task
from tiny_text import TRAIN, merged

LISTOPS = {
    **{"min_length": 4, "max_length": 12, "depth": 3, "arguments": 4},
    **{"train": 150, "valid": 30, "test": 20, "seed": 1},
}


def listops_recipe(**sections: Any) -> Any:
    raw: dict[str, Any] = {
        "task": "classify",
        "data": {"listops": LISTOPS},
        "tokens": {"kind": "word", "vocab": 20},
        "batch": {"batch_tokens": 300, "max_length": 12},
        "model": {"layers": 1, "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.0},
        "train": {**TRAIN, "steps": 8, "validate_every": 8},
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def test_training_scores_and_labels(tmp_path: Path) -> None:
    recipe = listops_recipe()
    assert 0 <= qkv.fit(recipe, tmp_path / "run", quiet=True).scores["accuracy"] <= 1
    run = qkv.load(tmp_path / "run")
    assert run.classes == [str(digit) for digit in range(10)]
    assert run.classify("[MAX 2 9 [MIN 4 7 ] 0 ]").label in run.classes
    task = find_task("classify")
    evaluation = task.evaluate(run, task.read_test_data(recipe, EvaluateOptions()), EvaluateOptions(), True)
    assert evaluation.examples == 20
    assert evaluation.scores == {name: score for name, score in run.evaluate().items() if name != "cut"}
    assert not evaluation.notes  # no expression was cut
    other = listops_recipe(data={"listops": {"seed": 2}})
    with pytest.raises(QKVError, match=r"another data\.listops"):
        qkv.fit(other, tmp_path / "run", resume=True, quiet=True)


def test_every_symbol_is_a_token_and_brackets_are_kept(tmp_path: Path) -> None:
    recipe, task = listops_recipe(), find_task("classify")
    data = task.read_data(recipe, NoProgress())
    parsed: Any = task.parse_files(task.learn_files(recipe, data, {}), tmp_path)
    assert parsed.tokenizer.size == 4 + 15
    for document in data.train[:20]:
        (ids,) = parsed.tokenizer.encode([document.texts[0]])
        assert parsed.tokenizer.pieces(ids) == document.texts[0].split(" ")
        assert document.texts[0].count("[") == document.texts[0].count("]") > 0


def test_splits_have_no_document_in_common() -> None:
    recipe = listops_recipe()
    splits = read_splits(recipe.data, seed=1)
    train, valid, test = (
        {document.texts for document in documents}
        for documents in (splits.train, splits.valid, read_test_documents(recipe))
    )
    assert (len(splits.train), len(splits.valid)) == (150, 30)
    assert not train & valid
    assert not train & test
    assert not valid & test


def test_few_expressions_have_all_classes(tmp_path: Path) -> None:
    small = {"train": 40, "valid": 10, "test": 10, "min_length": 4, "max_length": 20, "arguments": 3}
    recipe = listops_recipe(
        data={"listops": {**small, "depth": 3}},
        batch={"max_length": 20},
        train={"steps": 1, "validate_every": 1},
    )
    qkv.fit(recipe, tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "labels.json").read_text())["classes"] == list("0123456789")


def test_few_labels_and_documents_of_a_file(tmp_path: Path) -> None:
    splits = read_splits(listops_recipe(data={"labels": 20}).data, seed=1)
    assert len(splits.train) == 20
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "[SM 1 2 ]", "label": 3}) + "\n")
    documents = read_test_documents(listops_recipe(), tmp_path / "test.jsonl")
    assert documents == [(("[SM 1 2 ]",), "3")]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"train": {"file": "a.jsonl"}}}, "give either 'train', .* or 'listops'"),
        ({"data": {"valid": {"file": "a.jsonl"}}}, "leave out 'valid'"),
        ({"batch": {"max_length": 11}}, r"batch\.max_length=11 would cut expressions.* raise it to 12"),
        ({"tokens": {"kind": "byte"}}, "raise it to 60"),
        ({"tokens": {"vocab": 18}}, r"tokens\.vocab to at least 19"),
        ({"data": {"listops": {"min_length": 13}}}, "min_length=13 is above max_length=12"),
        ({"data": {"listops": {"depth": 1}}}, r"data\.listops\.depth"),
        ({"data": {"listops": {"seed": -1}}}, r"data\.listops\.seed"),
        ({"data": {"listops": {"deep": 4}}}, "Did you mean 'depth'"),
    ],
)
def test_a_recipe_that_cannot_work(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(QKVError, match=message):
        listops_recipe(**sections)


def test_the_recipes_differ_in_their_attention_alone() -> None:
    rfa, softmax = (read_recipe(f"listops-{name}").model_dump() for name in ("rfa", "softmax"))
    for recipe in (rfa, softmax):
        del recipe["model"]["attention"], recipe["description"]
    assert rfa == softmax
