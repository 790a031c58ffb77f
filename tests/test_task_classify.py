"""The task `classify`: training, labels with probabilities, pairs, traces, and bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch

import qkv
from qkv.errors import QKVError
from qkv.model.classifier import Classifier, ClassifierConfig
from qkv.task.classify.documents import Document, LabelledData, read_documents
from tiny_text import classify_recipe, sentences

LONGER = {"steps": 80, "validate_every": 80}


@pytest.mark.parametrize("pool", ["mean", "first", "attention"])
@pytest.mark.parametrize("kernel", ["softmax", "elu"])
def test_training_learns_the_label(tmp_path: Path, pool: str, kernel: str) -> None:
    recipe = classify_recipe(tmp_path, model={"pool": pool, "attention": {"kernel": kernel}}, train=LONGER)
    assert qkv.fit(recipe, tmp_path / "run", quiet=True).scores["accuracy"] > 0.9
    run = qkv.load(tmp_path / "run")
    label = run.classify("dan knows bob .")
    assert label.label == "1"
    assert label.probability == max(label.probabilities.values())
    assert sum(label.probabilities.values()) == pytest.approx(1)
    assert [each.label for each in run.classify(["bob sees cat .", "ann sees cat ."])] == ["1", "0"]


def test_pairs_of_texts(tmp_path: Path) -> None:
    recipe = classify_recipe(tmp_path, pairs=True, train={"steps": 200, "validate_every": 200})
    assert qkv.fit(recipe, tmp_path / "run", quiet=True).scores["accuracy"] > 0.8
    run = qkv.load(tmp_path / "run")
    assert run.classify([("ann sees bob .", "ann knows dan .")])[0].label in ("0", "1")
    with pytest.raises(QKVError, match=r"reads 2 text\(s\) at a time, but text 1 has 1: pass pairs"):
        run.classify("ann sees bob .")
    with pytest.raises(QKVError, match=r"reads 2 text\(s\) at a time, but document 1 has 1"):
        run.evaluate([Document(("ann sees bob .",), "1")])
    with pytest.raises(QKVError, match="has the label '7'; known"):
        run.evaluate([Document(("ann sees bob .", "ann"), "7")])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("classify")
    recipe = classify_recipe(folder, model={"pool": "attention"}, train=LONGER)
    qkv.fit(recipe, folder / "run", quiet=True)
    return qkv.load(folder / "run")


def test_scores_and_trace(run: Any) -> None:
    scores = run.evaluate()
    assert scores["accuracy"] > 0.9
    assert scores["f1"] > 0.85
    assert 0.4 < scores["majority"] < 0.8
    example = run.trace("ann sees bob .").examples[0]
    assert set(example.weights) == {"layer.0", "pool"}
    assert example.weights["pool"].shape == (1, 1, 5)


def test_what_follows_a_text_in_its_batch_changes_nothing(run: Any) -> None:
    alone = run.classify("ann sees bob .").probabilities
    longer = " ".join(sentences(3))
    together = run.classify(["ann sees bob .", longer])[0].probabilities
    assert together == pytest.approx(alone, abs=1e-6)


def test_an_empty_text_and_a_huge_one_are_classified(run: Any) -> None:
    assert run.classify("").label in ("0", "1")
    assert run.classify("ann " * 300_000).label in ("0", "1")


def test_resuming_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = classify_recipe(tmp_path)
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 11})})
    qkv.fit(recipe, tmp_path / "whole", quiet=True)
    qkv.fit(stopped, tmp_path / "parts", quiet=True)
    qkv.fit(recipe, tmp_path / "parts", resume=True, quiet=True)
    states = [
        torch.load(tmp_path / name / "training/state.pt", weights_only=True)["weights"]
        for name in ("whole", "parts")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_only_so_many_labels_of_each_class(tmp_path: Path) -> None:
    from qkv.task.classify.documents import read_splits

    train = read_splits(classify_recipe(tmp_path, data={"labels": 20}).data, seed=1).train
    assert sorted(document.label for document in train) == ["0"] * 10 + ["1"] * 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"text": "a"}\n', "'label' is"),
        ('{"label": 1}\n', "'text' is"),
        ("nonsense\n", "line 1.*is not JSON"),
        ("[1]\n", "not a JSON object"),
        ('{"text": "\\ud800", "label": 1}\n', "half of a surrogate pair"),
        ('{"text": "' + "a" * 16_100_000 + '", "label": 1}\n', "line 1: longer than 4,000,000 characters"),
        ('{"text": "a", "label": null}\n', "'label' is 'None', expected a string"),
        ('{"text": "a", "label": " "}\n', "line 1: the label is empty"),
        ('{"text": "a b", "label": 1}\n' * 30, "every training text has the label '1'"),
        ('{"text": "a", "label": 1}\n', "too few to hold any out"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    recipe = classify_recipe(tmp_path)
    (tmp_path / "labelled.jsonl").write_text(content)
    with pytest.raises(QKVError, match=message):
        qkv.fit(recipe, tmp_path / "run", quiet=True)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    recipe = classify_recipe(tmp_path)
    (tmp_path / "labelled.jsonl").write_bytes(b'{"text": "\xe9", "label": 1}\n')
    with pytest.raises(QKVError, match="UTF-8"):
        qkv.fit(recipe, tmp_path / "run", quiet=True)


def test_padding_changes_no_score() -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(layers=2, width=16, heads=2, pool="attention"), 20, 3).double().eval()
    tokens = torch.randint(4, 20, (2, 6))
    keep = torch.ones(2, 6, dtype=torch.bool)
    padded = torch.cat([tokens, torch.full((2, 3), 7)], 1)
    longer = torch.cat([keep, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(model([padded], [longer]), model([tokens], [keep]), rtol=0, atol=1e-12)


def test_white_space_around_labels_makes_no_class(tmp_path: Path) -> None:
    lines = [f"{label}\tann sees bob" for label in ("pos", "pos ", " neg", "neg")] * 5
    (tmp_path / "labels.tsv").write_text("\n".join(lines) + "\n")
    documents = read_documents(LabelledData(file=str(tmp_path / "labels.tsv")))
    assert {document.label for document in documents} == {"pos", "neg"}
