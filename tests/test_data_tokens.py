"""Tokenisers: the way there and back, unknown text, text that looks like control tokens, and the file."""

import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qkv.data import (
    BOS,
    EOS,
    PAD,
    UNK,
    ParallelData,
    TokenizerConfig,
    read_pairs,
    train_tokenizers,
)
from qkv.errors import BadData

KINDS = ["bpe", "word", "char"]
ODD = "a\u00a0b\u202f! \u2009x\ty\u2028z\u200b <pad> <s> </s> <unk> ▁ ▁▁a 12½ é e\u0301 中文 👩‍👩‍👧 ß İ"
TEXT = [
    ("the cat sat on the mat .", "le chat s'est assis ."),
    ("the dog sat , 42 times !", "le chien s'est assis 42 fois\u202f!"),
    (ODD, "un"),
    ("the cats", "les chats"),
]


def trained(kind: Any = "bpe", lines=None, **options):
    pairs = TEXT if lines is None else [(line, line) for line in lines]
    return train_tokenizers(pairs, TokenizerConfig(kind=kind, **options))


def there_and_back(tokenizer, line):
    return tokenizer.decode(tokenizer.encode([line])[0])


def expected(kind, line):
    line = unicodedata.normalize("NFC", line)
    return line if kind == "char" else re.sub(" +", " ", line).strip(" ")


@pytest.mark.parametrize("kind", KINDS)
@given(line=st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_line_of_known_characters_comes_back(kind, line):
    tokenizer = trained(kind, [line, "x"]).source
    assert there_and_back(tokenizer, line) == expected(kind, line)


@pytest.mark.parametrize("kind", ["bpe", "char"])
@given(line=st.text("ab ▁<>/spadunk\u00a0\u202f\u3000\t.,1é\u0301", max_size=30))
@settings(max_examples=100, deadline=None)
def test_lines_never_seen_come_back_if_their_characters_are_known(kind, line):
    tokenizer = trained(
        kind, ["the pad", "ab ▁<>/spadunk\u00a0\u202f\u3000\t.,1éa\u0301n\u0301", "á . ,"]
    ).source
    ids = tokenizer.encode([line])[0]
    assert UNK in ids or tokenizer.decode(ids) == expected(kind, line)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_white_space_survives(kind):
    assert there_and_back(trained(kind).source, ODD) == unicodedata.normalize("NFC", ODD)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_plain_spaces(kind):
    line = "  the   cat "
    assert there_and_back(trained(kind).source, line) == {"char": line}.get(kind, "the cat")
    assert trained(kind).source.encode(["", "   "])[0] == []
    if kind != "char":
        assert trained(kind).source.encode(["   "]) == [[]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("literal", ["<pad>", "<s>", "</s>", "<unk>", "▁", " ▁ "])
def test_control_tokens_in_the_text_stay_text(kind, seen, literal):
    lines = ["a b", "< / p a d s u n k >▁"] + [f"a{literal}b {literal}"] * (5 if seen else 0)
    tokenizer = trained(kind, lines).source
    line = f"a{literal}b {literal}"
    ids = tokenizer.encode([line])[0]
    assert not {PAD, BOS, EOS} & set(ids)
    assert (UNK in ids) == (kind == "word" and not seen)
    if UNK not in ids:
        assert tokenizer.decode(ids) == expected(kind, line)


def test_control_tokens_have_their_numbers_and_vanish():
    tokenizer = trained().source
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)
    ids = tokenizer.encode(["the cat"])[0]
    assert tokenizer.decode([BOS, *ids, EOS, PAD]) == "the cat"
    assert tokenizer.pieces([PAD, UNK, BOS, EOS]) == ["<pad>", "<unk>", "<s>", "</s>"]


@pytest.mark.parametrize(
    ("kind", "shown"), [("bpe", "the c<unk>t"), ("word", "the <unk>"), ("char", "the c<unk>t")]
)
def test_unknown_is_shown_where_it_stands(kind, shown):
    assert there_and_back(trained(kind).source, "the cЖt") == shown


def test_a_run_of_unknown_characters_is_one_unknown_token_in_bpe():
    assert trained("bpe").source.encode(["ЖФЩ"])[0].count(UNK) == 1


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("bpe", ["▁the", "▁cat", ".", "1", "2", "▁3"]),
        ("word", ["the", "cat.12", "3"]),
        ("char", list("the▁cat.12▁3")),
    ],
)
def test_pieces_are_readable_one_per_id(kind, pieces):
    tokenizer = trained(kind, ["the cat.12 3"] * 3).source
    assert tokenizer.pieces(tokenizer.encode(["the cat.12 3"])[0]) == pieces


def test_digits_and_punctuation_stand_alone_in_bpe():
    tokenizer = trained("bpe", ["a 1234, b..."] * 50).source
    pieces = tokenizer.pieces(tokenizer.encode(["a 1234, b..."])[0])
    assert " ".join(pieces) == "▁a ▁1 2 3 4 , ▁b . . ."


@pytest.mark.parametrize("kind", KINDS)
def test_entirely_unknown_lines_are_recognised(kind):
    tokenizer = trained(kind, ["the cat . \u00a0", "a b"]).source
    rows = tokenizer.encode(["ЖЖ ФФ", "Ж", "the ЖЖ", "the cat", "", " "])
    assert [tokenizer.is_unknown(ids) for ids in rows] == [True, True, False, False, False, False]
    assert tokenizer.is_unknown([BOS, UNK, EOS, PAD])


@pytest.mark.parametrize("kind", KINDS)
def test_lower_case_only_if_asked(kind):
    for lowercase, expected in [(False, "The ÉT\u00c9"), (True, "the été")]:
        tokenizer = trained(kind, ["The E\u0301T\u00c9"], lowercase=lowercase).source
        assert there_and_back(tokenizer, "The E\u0301T\u00c9") == expected


def test_words_seen_too_seldom_are_left_out():
    tokenizer = trained("word", ["a a b"], min_count=4, joint=False).source
    assert tokenizer.size == 4
    tokenizer = trained("word", ["a a b"], min_count=2, joint=False).source
    assert tokenizer.pieces(range(tokenizer.size))[4:] == ["a"]


def test_min_count_is_refused_where_it_does_nothing():
    with pytest.raises(ValidationError, match="'min_count' needs kind: word, not kind: bpe"):
        TokenizerConfig(min_count=2)


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_no_text_to_learn_from(lines):
    with pytest.raises(BadData, match="no text to learn a vocabulary from"):
        trained("bpe", lines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [5, 20, 60])
def test_vocabulary_has_at_most_the_size_asked_for_and_keeps_the_frequent(kind, vocab):
    lines = ["e" * 9 + chr(0x4E00 + i) for i in range(40)]
    tokenizer = trained(kind, lines, vocab=vocab).source
    assert tokenizer.size <= vocab
    if kind != "word":
        assert there_and_back(tokenizer, "e" * 4).strip("<unk>") in ("eeee", "e" * 3)


def test_joint_is_one_vocabulary_and_separate_are_two():
    joint, separate = trained(joint=True), trained(joint=False)
    assert joint.is_joint
    assert joint.source is joint.target
    assert not separate.is_joint
    assert UNK not in joint.source.encode(["'"])[0]
    assert UNK in separate.source.encode(["'"])[0]
    assert there_and_back(separate.target, "le chat s'est assis") == "le chat s'est assis"


def vocabularies():
    lines = [f"{a}{b} {b}{a}" for a in "abcdefgh" for b in "ijklmnop"] + [chr(0x4E00 + i) for i in range(99)]
    several = [trained(kind, lines, vocab=vocab).source for kind in KINDS for vocab in (40, 90, 8000)]
    return [tokenizer.pieces(range(tokenizer.size)) + tokenizer.encode(["ai bj"]) for tokenizer in several]


def in_another_process(code, **variables):
    env = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"} | variables
    code = f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_same_text_gives_the_same_vocabulary_in_every_process():
    process = in_another_process(
        "from test_data_tokens import *; print(ascii(vocabularies()))", PYTHONHASHSEED="7"
    )
    assert (process.stdout.strip(), process.stderr) == (ascii(vocabularies()), "")


FORK = """
from test_data_tokens import trained
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
trained().source.encode(["the cat"] * 100)
print(threads() - before, os.environ.get("TOKENIZERS_PARALLELISM"))
sys.stdout.flush()
child = os.fork()
if not child:
    trained().source.encode(["the cat"] * 100)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc/self/task to count threads in")
def test_no_threads_are_left_for_a_fork_to_trip_over():
    process = in_another_process(FORK)
    assert (process.returncode, process.stderr, process.stdout) == (0, "", "0 None\n")


def test_the_users_choice_of_threads_is_kept(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    trained()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


@pytest.mark.skipif(not os.environ.get("QKV_DATA"), reason="QKV_DATA is not set: no Multi30k text to read")
def test_multi30k_comes_back_exactly():
    tok = "${QKV_DATA}/multi30k/tok"
    pairs = read_pairs(ParallelData(source=f"{tok}/train.en.gz", target=f"{tok}/train.de.gz"))
    assert len(pairs) == 29_000
    tokenizers = train_tokenizers(pairs, TokenizerConfig(vocab=10_000))
    assert tokenizers.source.size == 10_000
    for side, tokenizer in enumerate(tokenizers):
        lines = [pair[side] for pair in pairs[::50]]
        assert [tokenizer.decode(ids) for ids in tokenizer.encode(lines)] == lines
