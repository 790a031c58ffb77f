"""Text for language models: the files that a recipe names, and the text as one long array of token ids."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from qkv.data.byte_tokens import ByteTokenizer
from qkv.data.generated.phrases import PhraseData
from qkv.data.lines import read_whole_lines
from qkv.data.text import parse_json_row, refuse_half_surrogates
from qkv.data.tokens import CONTROL, EOS, UNK, Tokenizer, TokenizerConfig, TokenizerPair
from qkv.data.vocabularies import train_tokenizer
from qkv.errors import BadData
from qkv.strict import Strict
from qkv.task.checksums import digest_lines, name_split
from qkv.task.data_source import check_one_source

AnyTokenizer = Tokenizer | ByteTokenizer
ENCODED_AT_ONCE = 100_000  # characters
CHECKED_LINES = 1000


class TextConfig(Strict):
    """Where the text comes from: files of your own, or generated phrases.

    Args:
        train: text files, plain or gzipped, read one after the other.
        valid: held-out text; null takes the last `holdout` of the training text.
        test: what `qkv evaluate` takes when no file is named; null: the held-out text.
        text_key: the files have a JSON object on every line, whose text has this key; null: they are text.
        holdout: the share of the training text to hold out where valid is null.
        phrases: generate phrases instead of reading files; the source language alone is used.
    """

    train: str | list[str] | None = None
    valid: str | list[str] | None = None
    test: str | list[str] | None = None
    text_key: str | None = None
    holdout: float = Field(default=0.1, gt=0, lt=1)
    phrases: PhraseData | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> "TextConfig":
        check_one_source(self, ("phrases",), "text")
        return self


class VocabularyConfig(Strict):
    """How text becomes tokens.

    Args:
        kind: byte: 256 tokens and no vocabulary to learn; char: characters; word: words between spaces;
            bpe: word pieces.
        vocab: the largest vocabulary, the 4 control tokens included (char, word and bpe).
        lowercase: read all text in lower case.
        min_count: leave out words seen less often (word).
    """

    kind: Literal["byte", "char", "word", "bpe"] = "bpe"
    vocab: PositiveInt = 8000
    lowercase: bool = False
    min_count: PositiveInt = 1


class Texts(NamedTuple):
    """The training text and the held-out text, in lines without their ends."""

    train: list[str]
    valid: list[str]


class EncodedText(NamedTuple):
    """A text as token ids, with the sizes that scores are divided by.

    Args:
        ids: int32 [N].
        bytes: the size of the text in UTF-8, line ends included.
        words: the number of words between spaces, with one more for every line end.
    """

    ids: np.ndarray
    bytes: int
    words: int


def read_texts(config: TextConfig) -> Texts:
    """The training and the held-out text that a recipe names.

    Raises:
        BadData: a file cannot be read, or there is no text in it.
    """
    if config.phrases is not None:
        from qkv.data.generated.phrases import generate_phrases, split_phrases

        corpus = split_phrases(generate_phrases(config.phrases), config.phrases.dev, config.phrases.test)
        return Texts([source for source, _ in corpus.train], [source for source, _ in corpus.dev])
    train = _read(config.train, "data.train", config.text_key)
    if config.valid is not None:
        return Texts(train, _read(config.valid, "data.valid", config.text_key))
    return _split(train, config.holdout)


def fingerprint_texts(texts: Texts) -> dict[str, dict[str, Any]]:
    """The number and a digest of the lines of both texts; see `Task.compute_fingerprint`."""
    return {
        f"{split}.text": {"lines": len(lines), "digest": digest_lines(lines)}
        for split, lines in texts._asdict().items()
    }


def name_text(part: str, config: TextConfig) -> str:
    """What a user calls the text of a split; see `Task.name_data_part`."""
    if config.phrases is not None:
        return "data.phrases"
    return name_split(part, has_valid=config.valid is not None)


def read_test_text(config: TextConfig, file: Path | None = None) -> list[str]:
    """The lines of a file, of the recipe's test text, or of the held-out text where there is no test.

    Raises:
        BadData: the file cannot be read, or there is no text in it.
    """
    if file is not None:
        return _read(str(file), "--data", config.text_key)
    if config.test is not None:
        return _read(config.test, "data.test", config.text_key)
    return read_texts(config).valid


def learn_tokenizer(lines: Sequence[str], config: VocabularyConfig) -> AnyTokenizer:
    """The tokenizer of a recipe, learnt from the training text.

    Raises:
        BadData: there is no text.
    """
    if config.kind == "byte":
        return ByteTokenizer()
    fields = config.model_dump(exclude={"min_count"} if config.kind != "word" else None)
    text = ["\n".join(lines)] if config.kind == "char" else lines
    return train_tokenizer(text, TokenizerConfig(**fields))


def measure_unknown_share(lines: Sequence[str], tokenizer: AnyTokenizer) -> float:
    """The share of unknown tokens in a text, white space aside, from some `CHECKED_LINES` of its lines."""
    some = lines[:: max(1, len(lines) // CHECKED_LINES)]
    ids = [token for row in tokenizer.encode(some) for token in row]
    unknown = ids.count(UNK)
    return unknown / max(1, unknown + tokenizer.count_known(ids))


def tokenizer_to_json(tokenizer: AnyTokenizer) -> str:
    """The content of a run's tokenizer.json."""
    if isinstance(tokenizer, ByteTokenizer):
        return json.dumps({"kind": "byte"})
    return TokenizerPair(tokenizer, tokenizer).to_json()


def tokenizer_from_json(content: bytes, path: Any) -> AnyTokenizer:
    """The tokenizer of a run.

    Raises:
        BadRun: the file is damaged.
    """
    if content.strip() == json.dumps({"kind": "byte"}).encode():
        return ByteTokenizer()
    return TokenizerPair.from_json(content, path).target


def encode_text(lines: Sequence[str], tokenizer: AnyTokenizer) -> EncodedText:
    r"""The ids of a text.  A line end is `\n` where tokens are bytes or characters, else the end symbol."""
    text = "\n".join(lines) + "\n"
    words = sum(len(line.split()) for line in lines) + len(lines)
    if tokenizer.kind == "byte":
        ids = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32) + len(CONTROL)
    elif tokenizer.kind == "char":
        starts = range(0, len(text), ENCODED_AT_ONCE)
        ids = _concatenate(tokenizer.encode([text[start : start + ENCODED_AT_ONCE] for start in starts]))
    else:
        ids = _concatenate([[*row, EOS] for row in tokenizer.encode(lines)])
    return EncodedText(ids, len(text.encode("utf-8", "surrogatepass")), words)


def encode_prompt(text: str, tokenizer: AnyTokenizer) -> list[int]:
    """The ids of a prompt, behind a line end: the symbol that starts every text."""
    if tokenizer.kind in ("byte", "char"):
        return tokenizer.encode(["\n" + text])[0]
    lines = tokenizer.encode(text.split("\n"))
    return [EOS, *(token for i, row in enumerate(lines) for token in ([EOS] if i else []) + row)]


def decode_text(ids: Iterable[int], tokenizer: AnyTokenizer) -> str:
    """The text of the ids, with a line end for every end symbol."""
    if tokenizer.kind in ("byte", "char"):
        return tokenizer.decode(ids)
    lines: list[list[int]] = [[]]
    for token in ids:
        if token == EOS:
            lines.append([])
        else:
            lines[-1].append(token)
    return "\n".join(tokenizer.decode(line) for line in lines)


def start_token(tokenizer: AnyTokenizer) -> int:
    """The token that stands before the first one of a text: a line end."""
    return encode_prompt("", tokenizer)[0]


def _concatenate(rows: Iterable[Sequence[int]]) -> np.ndarray:
    arrays = [np.asarray(row, np.int32) for row in rows]
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int32)


def _read(paths: str | list[str] | None, key: str, text_key: str | None) -> list[str]:
    names = [paths] if isinstance(paths, str) else paths or []
    if text_key is None:
        lines = [line for name in names for line in read_whole_lines(name, "break it into lines")]
    else:
        lines = [line for name in names for line in _read_json_texts(name, text_key)]
    if not any(lines):
        raise BadData(f"{key}: there is no text in {', '.join(names) or 'an empty list'}")
    return lines


def _read_json_texts(name: str, text_key: str) -> Iterator[str]:
    """The lines of the texts in a file of JSON objects."""
    for number, line in enumerate(read_whole_lines(name, "break it into lines"), start=1):
        location = f"{name}, line {number}"
        row = parse_json_row(location, line)
        text = row.get(text_key)
        if not isinstance(text, str):
            raise BadData(
                f"{location}: '{text_key}' is {text!r:.60}, expected a text (keys here: {', '.join(row)}): "
                "set data.text_key to the key of the text"
            )
        refuse_half_surrogates(location, text_key, text)
        yield from text.split("\n")


def _split(lines: list[str], holdout: float) -> Texts:
    """Cut the text at the line end that is nearest to where its last `holdout` of characters begins."""
    if len(lines) < 2:
        raise BadData("data.train has a single line: name held-out text in data.valid")
    sizes = np.array([len(line) + 1 for line in lines]).cumsum()
    cut = 1 + int(np.abs(sizes[:-1] - (1 - holdout) * sizes[-1]).argmin())
    return Texts(lines[:cut], lines[cut:])
