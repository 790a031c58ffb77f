"""Lines of any length, gzip bombs, pipes: bounded time and memory."""

import gzip
import json
import os
import re
import threading
import time
import tracemalloc
import unicodedata
from pathlib import Path

import pytest

import tiny
from qkv.data import (
    ParallelData,
    TokenizerConfig,
    compute_max_characters,
    read_lines,
    read_pairs,
    train_tokenizers,
)
from qkv.data import lines as module
from qkv.data.lines import LONGEST_LINE, decode_stream
from qkv.errors import BadData
from qkv.task.translate.pairs import encode_pairs

PAIRS = [("one two", "un deux")] * 30


@pytest.mark.parametrize("character", ["x", "é", "你", "😀"])
def test_a_long_line_is_cut_and_the_rest_is_read(tmp_path: Path, character: str) -> None:
    path = tmp_path / "long"
    path.write_text(f"one\n{character * 1_100_000}\nthree\n", encoding="utf-8")
    first, long, last = read_lines(path)
    assert (first, last) == ("one", "three")
    assert len(long) > LONGEST_LINE
    assert set(long) == {character}
    assert len(long.encode()) <= 4 * (LONGEST_LINE + 1)


def test_the_longest_line_is_longer_than_any_text_worth_tokenising() -> None:
    assert compute_max_characters(1) == 10_000
    assert compute_max_characters(250) == 25_000
    assert compute_max_characters(10**9) == LONGEST_LINE


@pytest.mark.parametrize("packed", [True, False])
def test_a_line_of_20_mb_costs_little_memory(tmp_path: Path, packed: bool) -> None:
    content = b"one\n" + b"word " * 4_000_000 + b"\nthree\n"
    path = tmp_path / "long"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    del content
    tracemalloc.start()
    try:
        assert [len(line) for line in read_lines(path)][::2] == [3, 5]
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"\0", b"\n", b"one\n"])
def test_a_gzip_bomb_is_refused(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNPACKED_BYTES", 2**18)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(content * (2_000_000 // len(content)), 6))
    with pytest.raises(BadData, match=r"bomb\.gz: by line [\d,]+ it unpacks to [\d,]+ times its size"):
        for _ in read_lines(path):
            pass


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENDLESS_BYTES", 2**24)
    with pytest.raises(BadData, match="zero, line 1: more than 1 GiB without an end of line"):
        list(read_lines("/dev/zero"))


def test_a_small_gzip_file_may_shrink_well(tmp_path: Path) -> None:
    path = tmp_path / "same.gz"
    path.write_bytes(gzip.compress(b"the same line\n" * 100_000))
    assert len(list(read_lines(path))) == 100_000


CONTENTS = {  # by name: processes that share the tests must agree on what they are called
    "text": b"one\ntwo",
    "gzip": gzip.compress(b"one\ntwo"),
    "like gzip": b"\x1f\ntwo",
    "one byte of gzip": b"\x1f",
    "empty": b"",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_pipes_are_read_without_seeking(tmp_path: Path, content: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    assert list(read_lines(pipe)) == plain.decode().splitlines()


def test_a_stream_is_answered_line_by_line() -> None:
    """A program at the other end of two pipes waits for the answer before it writes the next line."""
    source, sink = os.pipe()
    with os.fdopen(source, "rb") as reader:
        os.write(sink, b"\n")
        lines = decode_stream(reader, "stdin")
        answers = []
        for word in (b"one\n", b"two\n"):
            answers.append(next(lines).text)
            os.write(sink, word)
        os.close(sink)
        assert [*answers, *(line.text for line in lines)] == ["", "one", "two"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(BadData, match="characters that no file name can have"):
        list(read_lines(name))


def test_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "u16").write_bytes("one\n".encode("utf-16"))
    with pytest.raises(BadData, match="iconv -f UTF-16 -t UTF-8"):
        list(read_lines(tmp_path / "u16"))


@pytest.mark.parametrize("name", ["rows.tsv", "rows.jsonl"])
def test_a_row_that_is_too_long_keeps_its_place(tmp_path: Path, name: str) -> None:
    long = "x" * 1_100_000
    pairs = [("a", "b"), (long, "c"), ("d", "e")]
    write = {
        "rows.tsv": "\t".join,
        "rows.jsonl": lambda pair: json.dumps(dict(zip(("source", "target"), pair, strict=True))),
    }[name]
    (tmp_path / name).write_text("".join(f"{write(pair)}\n" for pair in pairs))
    pairs = read_pairs(ParallelData(file=str(tmp_path / name)))
    assert [pairs[0], pairs[2]] == [("a", "b"), ("d", "e")]
    assert min(map(len, pairs[1])) > LONGEST_LINE


def test_what_is_too_long_is_not_tokenised_and_counts_as_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = train_tokenizers(PAIRS, TokenizerConfig(kind="char"))
    lengths: list[int] = []
    encode_lines = type(tokens.source).encode

    def counted(self, lines):
        lengths.extend(map(len, lines))
        return encode_lines(self, lines)

    monkeypatch.setattr(type(tokens.source), "encode", counted)
    encoded = encode_pairs(
        [("one", "un"), ("x" * 10_001, "un"), ("two", "y" * 20_000), ("two", " ")], tokens, 12
    )
    assert max(lengths) < 10
    assert [len(ids) for ids in encoded.source] == [3, 13, 3, 3]
    assert [len(ids) for ids in encoded.target] == [2, 2, 13, 0]


def test_training_drops_long_lines_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.recipe_in(tmp_path)
    with (tmp_path / "train.en").open("a") as english, (tmp_path / "train.fr").open("a") as french:
        english.write("one " * 200_000 + "\none\n")
        french.write("un\n" + "un" * 1_000_000 + "\n")
    start = time.process_time()
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--set", "train.steps=1") == 0
    assert time.process_time() - start < 20
    err = capsys.readouterr().err
    assert "dropped 2 of 302 pairs: 2 longer than 12 tokens (first: line 301)" in err


def test_training_on_long_lines_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.recipe_in(tmp_path)
    for side in ("en", "fr"):
        (tmp_path / f"train.{side}").write_text(("x" * 30_000 + "\n") * 20)
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--quiet") == 2
    assert "every line has over 10,000 characters" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["bpe", "word"])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: "abcdefghij" * (n // 10),
        lambda n: "one" + " " * n + "two",
        lambda n: " " * n + "one" + " " * n,
        lambda n: "e" + "\u0301" * n,
        lambda n: "你好世界" * (n // 4),
        lambda n: "\0" * n,
    ],
)
def test_time_grows_with_the_characters(kind, make) -> None:
    """100,000 characters took seconds to minutes as long as it grew with their square."""
    line = make(100_000)
    start = time.process_time()
    tokens = train_tokenizers([*PAIRS, (line, line)], TokenizerConfig(kind=kind, vocab=100)).source
    (ids,) = tokens.encode([line])
    assert time.process_time() - start < 3
    known_text = tokens.decode(ids).replace("<unk>", "")
    text = unicodedata.normalize("NFC", re.sub(" +", " ", line).strip(" "))
    assert text.startswith(known_text[:50])


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_a_vocabulary_beyond_memory_is_as_large_as_the_text_allows(kind) -> None:
    """The BPE trainer reserved room for it, and aborted the process."""
    small = train_tokenizers(PAIRS, TokenizerConfig(kind=kind, vocab=8000))
    large = train_tokenizers(PAIRS, TokenizerConfig(kind=kind, vocab=2**62))
    assert large.to_json() == small.to_json()


def test_words_of_up_to_a_thousand_characters_are_one_piece() -> None:
    words = ["x" * 999, "y" * 1000, "z" * 1001]
    tokens = train_tokenizers([(" ".join(words), "un")], TokenizerConfig(kind="word")).source
    (ids,) = tokens.encode([" ".join(words)])
    assert [len(piece) for piece in tokens.pieces(ids)] == [999, 1000, 1000, 1]
    assert tokens.decode(ids) == " ".join(words)


def test_many_characters_are_encoded_in_portions() -> None:
    tokens = train_tokenizers(PAIRS, TokenizerConfig(kind="char")).source
    lines = ["one two" * 30_000] * 5
    assert tokens.encode(lines) == [row for line in lines for row in tokens.encode([line])]
