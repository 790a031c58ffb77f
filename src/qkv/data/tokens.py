"""From lines to token ids and back: BPE, words or characters, trained on the user's own text.

A space is part of the piece that follows it (" the"), and a space is inserted before every line. The pieces,
joined, are therefore the line itself, whatever its characters. Displays write "▁" for the space.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from qkv.errors import BadRun
from qkv.files import open_text_output
from qkv.strict import Strict
from qkv.symbols import BOS as BOS
from qkv.symbols import EOS as EOS
from qkv.symbols import PAD as PAD
from qkv.symbols import UNK as UNK

CONTROL = ("<pad>", "<unk>", "<s>", "</s>")
NO_BREAK_SPACES = "\u00a0\u202f"
FORMAT = "qkv-tokenizer/1"

Kind = Literal["bpe", "word", "char"]

# Each piece starts with at most one white-space character. In BPE, digits and punctuation are pieces of
# their own. Merges take quadratic time in the length of a piece, so it is bounded, well above any word.
PIECE_PATTERNS = {
    "bpe": r"\s?(?:\p{N}|[\p{P}\p{S}]|[^\s\p{N}\p{P}\p{S}]{1,1000})|\s",
    "word": r"\s?\S{1,1000}|\s",
    "char": r"[\s\S]",
}
_LINES_AT_ONCE, _CHARACTERS_AT_ONCE = 8192, 1_000_000  # encoding takes about 100 bytes per token


class TokenizerConfig(Strict):
    """How text is cut into tokens.

    Args:
        kind: byte-pair encoding, words between white space, or characters.
        vocab: largest size of a vocabulary, the 4 control tokens included.
        joint: one vocabulary for both sides instead of two.
        lowercase: read all text in lower case, so that output is in lower case too.
        plain_spaces: read no-break spaces (U+00A0, U+202F) as plain ones.
        min_count: rarer words are unknown (kind: word only).
    """

    kind: Kind = "bpe"
    vocab: int = Field(default=8000, gt=len(CONTROL))
    joint: bool = True
    lowercase: bool = False
    plain_spaces: bool = False
    min_count: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_min_count(self) -> "TokenizerConfig":
        if self.min_count > 1 and self.kind != "word":
            raise ValueError(
                f"'min_count' needs kind: word, not kind: {self.kind}; leave it out, or set kind: word"
            )
        return self


class Tokenizer:
    """The vocabulary of one language.

    Text is normalised to NFC, and to lower case and plain spaces if the configuration says so. Unless the
    kind is char, runs of plain spaces also become one, and those at both ends are removed. Decoding encoded
    text gives the normalised text exactly, if all its characters (its words, for kind: word) are known.

    Args:
        kind: "bpe", "word" or "char".
        backend: the tokenizer of the library `tokenizers`.
    """

    def __init__(self, kind: Kind, backend: Any) -> None:
        self.kind: Kind = kind
        self.backend = backend
        self._text = _order_texts(kind, backend.get_vocab(with_added_tokens=False))
        self._blank = {number for number, text in enumerate(self._text) if text.isspace()} | {PAD, BOS, EOS}

    @property
    def size(self) -> int:
        """V, the number of ids, control tokens included."""
        return len(self._text)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The token ids of each line, without BOS and EOS.

        Args:
            lines: a string is one line. Text that spells a control token is encoded as text.
        """
        lines = [lines] if isinstance(lines, str) else lines
        ids: list[list[int]] = []
        with use_one_thread():
            for portion in _split_portions(lines):
                encodings = self.backend.encode_batch_fast(portion, add_special_tokens=False)
                ids += [encoding.ids for encoding in encodings]
        return ids

    def normalise(self, text: str) -> str:
        """The text as the tokenizer reads it, which decoding returns if every character is known."""
        text = self.backend.normalizer.normalize_str(text)
        return text if self.kind == "char" else text.removeprefix(" ")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. PAD, BOS and EOS are left out; UNK is "<unk>"."""
        text = "".join(self._text[number] for number in ids)
        return text if self.kind == "char" else text.removeprefix(" ")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One string per id to display: "▁" for a space (nothing for kind: word), control tokens by name."""
        space = "" if self.kind == "word" else "▁"
        return [CONTROL[i] if i < len(CONTROL) else self._text[i].replace(" ", space) for i in ids]

    def find_token(self, piece: str) -> int | None:
        """The id of a piece as `pieces` shows it; None where the vocabulary has none."""
        text = piece.replace("▁", " ")
        return self._text.index(text) if text in self._text else None

    def is_unknown(self, ids: Sequence[int]) -> bool:
        """Whether the ids contain UNK, and nothing else but white space and control tokens."""
        return UNK in ids and not self.count_known(ids)

    def count_known(self, ids: Sequence[int]) -> int:
        """How many of the ids are neither UNK nor white space nor control tokens."""
        return sum(number != UNK and number not in self._blank for number in ids)


def _split_portions(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines in order, in lists of bounded size."""
    portion: list[str] = []
    characters = 0
    for line in lines:
        portion.append(line)
        characters += len(line)
        if len(portion) == _LINES_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion


def _order_texts(kind: Kind, vocab: Mapping[str, int]) -> list[str]:
    """The text of every id; control tokens have none, except UNK."""
    texts = sorted(vocab, key=vocab.__getitem__)
    if tuple(texts[: len(CONTROL)]) != CONTROL or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"the vocabulary does not number its tokens from 0, with {', '.join(CONTROL)} first")
    unknown = f" {CONTROL[UNK]}" if kind == "word" else CONTROL[UNK]
    return ["", unknown, "", "", *texts[len(CONTROL) :]]


class TokenizerPair(NamedTuple):
    """The tokenizers of both sides; the same object twice if the vocabulary is joint.

    Args:
        source: the tokenizer of the sources.
        target: the tokenizer of the targets.
    """

    source: Tokenizer
    target: Tokenizer

    @property
    def is_joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target

    def to_json(self) -> str:
        """Both tokenizers as the content of one JSON file."""
        source, target = (json.loads(tokenizer.backend.to_str()) for tokenizer in self)
        content = {"format": FORMAT, "kind": self.source.kind, "joint": self.is_joint}
        content |= {"source": source, "target": None if self.is_joint else target}
        return json.dumps(content, ensure_ascii=False)

    def save(self, path: str | Path) -> None:
        """Write both tokenizers into one JSON file, atomically."""
        with open_text_output(path) as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "TokenizerPair":
        """Read the file that `save` wrote.

        Args:
            path: the file.

        Raises:
            BadRun: the file cannot be read.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise BadRun(
                f"{path}: cannot be read ({error.strerror or error}): check the path and its permissions"
            ) from None
        return cls.from_json(content, path)

    @classmethod
    def from_json(cls, text: str | bytes, path: str | Path) -> "TokenizerPair":
        """Parse the JSON text of `to_json`.

        Args:
            text: the JSON text.
            path: where it comes from, for error messages.

        Raises:
            BadRun: the text is no such JSON.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRun(
                f"{path}: damaged, not a JSON file ({error}); copy it again from the original run"
            ) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadRun(
                f"{path}: not a tokenizer of the format {FORMAT}; if a newer qkv wrote it, update qkv"
            )
        try:
            kind, source = content["kind"], restore_tokenizer(content["kind"], content["source"])
            return cls(source, source if content["joint"] else restore_tokenizer(kind, content["target"]))
        except Exception as error:  # tokenizers raises bare Exception for bad content
            reason = f"{type(error).__name__}: {error}"
            raise BadRun(f"{path}: damaged ({reason}); copy it again from the original run") from None


def restore_tokenizer(kind: Any, content: Any) -> Tokenizer:
    """The tokenizer that the library `tokenizers` described as JSON.

    Args:
        kind: "bpe", "word" or "char".
        content: the parsed JSON.

    Raises:
        ValueError: the kind is unknown.
    """
    from tokenizers import Tokenizer as Backend

    if kind not in PIECE_PATTERNS:
        raise ValueError(f"unknown kind {kind!r}")
    return Tokenizer(kind, Backend.from_str(json.dumps(content)))


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Keep `tokenizers` on one thread, unless the user chose: older releases warn at forks after threads."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name, None)
