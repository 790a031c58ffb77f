"""Classifiers that read a long text in windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qkv
from qkv.data.byte_tokens import ByteTokenizer
from qkv.errors import QKVError
from qkv.task.classify.documents import Document
from qkv.task.classify.encoding import encode_documents
from tiny_text import classify_recipe

WINDOWS = {"long_texts": "windows"}
FILLER = "x y z "


def encode(folder: Path, *texts: str) -> Any:
    recipe = classify_recipe(folder, tokens={"kind": "byte"}, data=WINDOWS, batch={"max_length": 4})
    return encode_documents([Document((text,), "1") for text in texts], ByteTokenizer(), ["0", "1"], recipe)


def test_every_token_is_in_one_window(tmp_path: Path) -> None:
    encoded = encode(tmp_path, "abcdefghi", "", "abcd")
    assert [ByteTokenizer().decode(ids) for ids in encoded.texts[0]] == ["abcd", "efgh", "i", "", "abcd"]
    assert encoded.documents.tolist() == [0, 0, 0, 1, 2]
    assert encoded.labels == [1] * 5
    assert encoded.cut == []


def test_the_probabilities_of_windows_are_averaged(tmp_path: Path) -> None:
    encoded = encode(tmp_path, "abcdef", "ab")
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    np.testing.assert_allclose(np.exp(encoded.average(np.log(probabilities))), [[0.7, 0.3], [0.2, 0.8]])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("windows")
    recipe = classify_recipe(folder, tokens={"kind": "char"}, data=WINDOWS, batch={"max_length": 10})
    result = qkv.fit(recipe, folder / "run", quiet=True)
    assert 0 <= result.scores["accuracy"] <= 1
    return qkv.load(folder / "run")


def test_a_label_is_that_of_the_mean_over_the_windows(run: Any) -> None:
    text = "bob sees cat"
    alone = [run.classify(part).probabilities["1"] for part in (text[:10], text[10:])]
    label = run.classify(text)
    assert label.probabilities["1"] == pytest.approx(sum(alone) / 2, abs=1e-6)
    assert not label.is_cut
    assert label.pieces == 2
    labels = run.classify(["", "0123456789" * 3, "0123456789bob", "bob"])
    assert [each.is_unknown for each in labels] == [True, True, False, False]
    assert [each.pieces for each in labels] == [1, 3, 2, 1]
    assert run.classify([text, "bob"])[0].probabilities == pytest.approx(label.probabilities)
    assert run.evaluate([Document((text,), "1")])["nll"] == pytest.approx(-np.log(sum(alone) / 2), abs=1e-6)


def test_a_text_of_a_megabyte_is_read_to_its_end(run: Any) -> None:
    text = FILLER * 175_000
    assert (
        run.classify(text).probabilities != run.classify(text[: len(text) // 2] + "b" * 500_000).probabilities
    )


def test_every_window_is_traced(run: Any) -> None:
    examples = run.trace(["bob sees cat", "ann"]).examples
    assert [example.meta["line"] for example in examples] == [1, 1, 2]
    assert examples[1].weights["layer.0"].shape[-1] == 3  # the start symbol and two characters


def test_the_count_is_said_in_training(tmp_path: Path, capsys: Any) -> None:
    recipe = classify_recipe(
        tmp_path, tokens={"kind": "char"}, data=WINDOWS, batch={"max_length": 10}, train={"steps": 1}
    )
    qkv.fit(recipe, tmp_path / "run")
    assert "training documents are longer than 10 tokens: " in capsys.readouterr().err


def test_pairs_and_sentences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QKVError, match="windows reads single texts, and these are pairs"):
        qkv.fit(classify_recipe(tmp_path, pairs=True, data=WINDOWS), tmp_path / "run", quiet=True)
    with pytest.raises(QKVError, match="kind=hierarchical reads sentences"):
        classify_recipe(tmp_path, data=WINDOWS, model={"kind": "hierarchical"})
