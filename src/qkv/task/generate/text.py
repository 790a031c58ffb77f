"""Text files as one long array of token ids."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qkv.data import read_lines
from qkv.data.byte_tokens import ByteTokenizer
from qkv.data.tokens import CONTROL, EOS, Tokenizer, TokenizerConfig, TokenizerPair, train_tokenizer
from qkv.errors import BadData
from qkv.task.generate.recipe import TextConfig, VocabularyConfig

AnyTokenizer = Tokenizer | ByteTokenizer
ENCODED_AT_ONCE = 100_000  # characters


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
    train = _read(config.train, "data.train")
    if config.valid is not None:
        return Texts(train, _read(config.valid, "data.valid"))
    return _split(train, config.holdout)


def read_test_text(config: TextConfig) -> list[str]:
    """The lines of the test text, or of the held-out text where the recipe names no test."""
    return _read(config.test, "data.test") if config.test is not None else read_texts(config).valid


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


def _read(paths: str | list[str] | None, key: str) -> list[str]:
    names = [paths] if isinstance(paths, str) else paths or []
    lines = [line for name in names for line in read_lines(name)]
    if not any(lines):
        raise BadData(f"{key}: there is no text in {', '.join(names) or 'an empty list'}")
    return lines


def _split(lines: list[str], holdout: float) -> Texts:
    """Cut the text behind the line where its last `holdout` of characters begins."""
    sizes = np.array([len(line) + 1 for line in lines]).cumsum()
    cut = int(np.searchsorted(sizes, (1 - holdout) * sizes[-1]))
    cut = min(max(cut, 1), len(lines) - 1)
    if cut < 1:
        raise BadData("data.train has a single line: name held-out text in data.valid")
    return Texts(lines[:cut], lines[cut:])
