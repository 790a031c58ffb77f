"""Text that a vocabulary does not know: it is found, counted and told, whatever the kind of tokens."""

from pathlib import Path
from typing import Any

import pytest

import qkv
import tiny
from qkv.data.byte_tokens import ByteTokenizer
from qkv.errors import BadData
from qkv.symbols import UNK
from qkv.task.texts import VocabularyConfig, learn_tokenizer, measure_unknown_share
from tiny_text import classify_recipe, fill_recipe, language_recipe, sentences, text_file

PIECES: Any = {"kind": "bpe", "vocab": 40}
FEW = {"steps": 2, "validate_every": 2}


def test_the_share_of_unknown_tokens_leaves_out_white_space() -> None:
    tokenizer = learn_tokenizer(sentences(100), VocabularyConfig(kind="bpe", vocab=60))
    assert tokenizer.encode(["我喜欢 кот"])[0].count(UNK) == 2
    assert measure_unknown_share(["我喜欢 кот"], tokenizer) == 1
    assert measure_unknown_share(sentences(10), tokenizer) == 0
    assert 0 < measure_unknown_share(["ann sees 我"], tokenizer) < 0.5
    assert measure_unknown_share(["  "], tokenizer) == 0


def test_bytes_that_are_white_space_say_nothing() -> None:
    assert ByteTokenizer().count_known(ByteTokenizer().encode([" a\t\n b"])[0]) == 2


def test_training_from_another_run_is_refused(tmp_path: Path) -> None:
    qkv.fit(language_recipe(tmp_path, tokens=PIECES, train=FEW), tmp_path / "run", quiet=True)
    recipe = language_recipe(tmp_path, tokens=PIECES, train=FEW)
    Path(text_file(tmp_path)).write_text("我喜欢 кот спит\n" * 100)
    with pytest.raises(BadData, match="100% of the tokens of the training text are unknown"):
        qkv.fit(recipe, tmp_path / "other", initial=tmp_path / "run", quiet=True)


def test_scores_of_unknown_text_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qkv.fit(language_recipe(tmp_path, tokens=PIECES, train=FEW), tmp_path / "run", quiet=True)
    (tmp_path / "other.txt").write_text("我喜欢\nann sees bob .\n" * 10)
    assert tiny.call("evaluate", tmp_path / "run", "--data", tmp_path / "other.txt") == 0
    assert "are unknown: all are one, which is easy to guess" in capsys.readouterr().out
    assert tiny.call("evaluate", tmp_path / "run") == 0
    assert "unknown" not in capsys.readouterr().out


@pytest.mark.parametrize("tokens", [PIECES, {"kind": "word", "vocab": 50}, {"kind": "char"}])
def test_labels_of_unknown_texts_say_so(tokens: dict[str, Any], tmp_path: Path) -> None:
    qkv.fit(classify_recipe(tmp_path, tokens=tokens, train=FEW), tmp_path / "run", quiet=True)
    labels = qkv.load(tmp_path / "run").classify(["我喜欢", "кот ϰ", "", "ann sees bob ."])
    assert [label.is_unknown for label in labels] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ann sees [MASK].", ["[MASK]", "."]),
        ("ann sees [MASK]bob .", ["[MASK]", "b", "o", "b", "▁."]),
        ("ann sees [MASK] bob .", ["[MASK]", "▁bob", "▁."]),
    ],
)
def test_what_follows_a_blank_joins_it_unless_there_is_a_space(
    text: str, pieces: list[str], tmp_path: Path
) -> None:
    qkv.fit(
        fill_recipe(tmp_path, tokens={"kind": "bpe", "vocab": 60}, train=FEW), tmp_path / "run", quiet=True
    )
    read = qkv.load(tmp_path / "run").trace(text).examples[0].named_axes["text"]
    assert "".join(read[read.index("[MASK]") :]) == "".join(pieces)
    assert UNK not in read
