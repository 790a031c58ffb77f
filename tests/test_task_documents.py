"""Long documents and documents in sentences: what is read of them, what is counted, and their traces."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qkv
import tiny
from qkv.data.byte_tokens import ByteTokenizer
from qkv.data.sentences import split_sentences
from qkv.task.classify.documents import Document
from qkv.task.classify.encoding import encode_documents, make_dataset
from qkv.task.recipe import read_recipe
from qkv.trace import Trace
from tiny_text import classify_recipe

SENTENCES = {"kind": "hierarchical", "max_sentences": 4, "max_sentence_length": 6}


def encode(folder: Path, *texts: str, **sections: Any) -> Any:
    recipe = classify_recipe(folder, tokens={"kind": "byte"}, **sections)
    return encode_documents([Document((text,), "1") for text in texts], ByteTokenizer(), ["0", "1"], recipe)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("no mark at all", ["no mark at all"]),
        ("A b. C d! E?", ["A b.", "C d!", "E?"]),
        ('He said "Go." Then (he left.) And', ['He said "Go."', "Then (he left.)", "And"]),
        ("one<br /><br />two\r\nthree<br>four", ["one", "two", "three", "four"]),
        ("3.5 km e.g.x ... y", ["3.5 km e.g.x ...", "y"]),
        ("你好。再见！「走。」他说", ["你好。", "再见！", "「走。」", "他说"]),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(alphabet="ab.!? \n\"')。<br/>", max_size=60))
def test_no_character_but_white_space_and_line_breaks_is_lost(text: str) -> None:
    def strip(part: str) -> str:
        return "".join(part.replace("<br>", "").replace("<br/>", "").split())

    pieces = split_sentences(text)
    assert all(piece.strip() == piece != "" for piece in pieces)
    if "<br" not in text:
        assert strip("".join(pieces)) == strip(text)


@pytest.mark.parametrize("unit", [".", "<br", "\"'", ". ", ".'", "。」", " "])
def test_splitting_takes_linear_time(unit: str) -> None:
    assert len("".join(split_sentences(unit * 300_000))) <= len(unit) * 300_000


def test_long_sentences_are_split_and_what_exceeds_the_bounds_is_cut_and_counted(tmp_path: Path) -> None:
    texts = ("ab. cd.", "abcdefgh. i.", "a. b. c. d. e.", "")
    encoded = encode(tmp_path, *texts, model=SENTENCES)
    assert encoded.sentences == [[[3, 3], [6, 3, 2], [2, 2, 2, 2], []]]
    assert encoded.splits == 1
    assert encoded.cut == [3]
    assert ByteTokenizer().decode(encoded.texts[0][1]) == "abcdefgh.i."
    short = encode(tmp_path, "abcdefgh. i.", model=SENTENCES, batch={"max_length": 7})
    assert (short.sentences, short.cut) == ([[[6, 1]]], [1])
    batch = make_dataset(encoded).make_batch([0, 3])
    assert batch.tokens[0].shape == (2, 2, 3)
    assert batch.keep[0].sum((1, 2)).tolist() == [6, 0]


def test_white_space_before_the_end_is_counted_as_cut(tmp_path: Path) -> None:
    assert encode(tmp_path, " " * 50_000 + "end").cut == [1]
    assert encode(tmp_path, "end").cut == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hierarchical")
    model = {**SENTENCES, "encoder": "attention", "attention": {"kernel": "elu"}}
    recipe = classify_recipe(folder, model=model, train={"steps": 60, "validate_every": 60})
    assert qkv.fit(recipe, folder / "run", quiet=True).scores["accuracy"] > 0.9
    return folder / "run"


def test_training_with_gru_says_what_it_cut(tmp_path: Path, capsys: Any) -> None:
    recipe = classify_recipe(
        tmp_path, model={**SENTENCES, "max_sentence_length": 3, "max_sentences": 1}, train={"steps": 3}
    )
    qkv.fit(recipe, tmp_path / "run")
    printed = capsys.readouterr().err
    assert "documents (100%) cut after 20 tokens or 1 sentence" in printed
    assert "with more than 3 tokens" not in printed  # nothing of them is read
    recipe = classify_recipe(tmp_path, model={**SENTENCES, "max_sentence_length": 3}, train={"steps": 3})
    qkv.fit(recipe, tmp_path / "split")
    assert "sentences of training documents with more than 3 tokens split" in capsys.readouterr().err


def test_a_trace_has_the_words_of_each_sentence_and_the_sentences(run: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.npz"
    text = "ann sees bob. cat sees dan"
    qkv.load(run).trace([text, ""]).save(trace)
    full, empty = Trace.load(trace).examples
    sentences = ("ann sees <unk>", "cat sees dan")
    assert full.named_axes["sentences"] == sentences
    assert full.named_axes["sentence 2"] == ("cat", "sees", "dan")
    assert full.weights["words.1.pool"].shape == (1, 1, 3)
    assert full.weights["words.2.layer.0"].shape == (2, 3, 3)
    assert full.weights["sentences.layer.0"].shape == (2, 2, 2)
    assert full.weights["sentences.pool"].sum() == pytest.approx(1, abs=1e-3)
    assert set(Trace.load(trace).unnormalised) == {"words.1.layer.0", "words.2.layer.0", "sentences.layer.0"}
    assert not empty.weights["sentences.pool"].any()
    for layer in ("words.1.pool", "sentences.pool"):
        assert tiny.call("view", trace, "--png", tmp_path / "p.png", "--layers", layer) == 0


def test_the_recipes_of_a_comparison_differ_in_the_attention_only() -> None:
    recipes = [
        read_recipe(f"classify-imdb-{name}").model_dump(mode="json") for name in ("softmax", "rfa", "window")
    ]
    attentions = [recipe["model"].pop("attention") for recipe in recipes]
    assert len({str(attention) for attention in attentions}) == 3
    for recipe in recipes:
        recipe.pop("description")
        assert recipe == recipes[0]


def test_evaluation_and_long_texts(run: Path) -> None:
    classifier = qkv.load(run)
    assert classifier.evaluate()["accuracy"] > 0.9
    labels = classifier.classify(["", "ann sees cat . " * 70_000, "ann sees cat ."])
    assert [label.is_cut for label in labels] == [False, True, False]
