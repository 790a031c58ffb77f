"""From lines to token ids and back: BPE, words or characters, trained on the user's own text.

A space is part of the piece that it precedes (" the"), and every line is read as if a space stood before it,
so joining the pieces gives the line back, whatever characters it holds.  Displays write "▁" for the space.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from qkv.data.lines import LONGEST_LINE
from qkv.errors import BadData, BadRun
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

# One optional white-space character leads each piece.  Digits and punctuation stand alone in BPE.
# Merges take quadratic time in a piece, so pieces are bounded, beyond any word of a language.
_PIECE = {
    "bpe": r"\s?(?:\p{N}|[\p{P}\p{S}]|[^\s\p{N}\p{P}\p{S}]{1,1000})|\s",
    "word": r"\s?\S{1,1000}|\s",
    "char": r"[\s\S]",
}
_LINES_AT_ONCE, _CHARACTERS_AT_ONCE = 8192, 1_000_000  # a token takes a hundred bytes while encoding


class TokenizerConfig(Strict):
    """How text is cut: `kind`, the largest vocabulary (the 4 control tokens included), one vocabulary or two.

    `lowercase` and `plain_spaces` change the text that is read, and so what is written: all in lower case,
    and no-break spaces (U+00A0, U+202F) as plain ones.  `min_count` leaves out words seen less often (kind:
    word only).
    """

    kind: Kind = "bpe"
    vocab: int = Field(default=8000, gt=len(CONTROL))
    joint: bool = True
    lowercase: bool = False
    plain_spaces: bool = False
    min_count: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _min_count_is_for_words(self) -> "TokenizerConfig":
        if self.min_count > 1 and self.kind != "word":
            raise ValueError(
                f"'min_count' needs kind: word, not kind: {self.kind}; leave it out or change the kind"
            )
        return self


class Tokenizer:
    """The vocabulary of one language.  Text becomes NFC, in lower case and with plain spaces if asked; no
    more.

    Decoding what was encoded gives that text back exactly, provided that its characters are known (its words,
    for kind: word); except for kind: char, runs of plain spaces become one and those at the ends go.
    """

    def __init__(self, kind: Kind, backend: Any) -> None:
        self.kind: Kind = kind
        self.backend = backend
        self._text = _texts(kind, backend.get_vocab(with_added_tokens=False))
        self._blank = {number for number, text in enumerate(self._text) if text.isspace()} | {PAD, BOS, EOS}

    @property
    def size(self) -> int:
        """V, the number of ids, control tokens included."""
        return len(self._text)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The token ids of each line, without BOS and EOS; a string is one line.  Text that spells a control
        token stays text.
        """
        lines = [lines] if isinstance(lines, str) else lines
        found: list[list[int]] = []
        with _no_threads():
            for some in _portions(lines):
                found += [row.ids for row in self.backend.encode_batch_fast(some, add_special_tokens=False)]
        return found

    def normalise(self, text: str) -> str:
        """The text as the tokenizer reads it: what decoding gives back where every character is known."""
        text = self.backend.normalizer.normalize_str(text)
        return text if self.kind == "char" else text.removeprefix(" ")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids.  PAD, BOS and EOS vanish; UNK reads "<unk>"."""
        text = "".join(self._text[number] for number in ids)
        return text if self.kind == "char" else text.removeprefix(" ")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One string per id, for display: "▁" for a space (none for kind: word), control tokens by name."""
        space = "" if self.kind == "word" else "▁"
        return [CONTROL[i] if i < len(CONTROL) else self._text[i].replace(" ", space) for i in ids]

    def unknown(self, ids: Sequence[int]) -> bool:
        """True if there is something in these ids, and all of it, white space aside, is UNK."""
        return UNK in ids and all(number == UNK or number in self._blank for number in ids)


def _portions(lines: Iterable[str]) -> Iterator[list[str]]:
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


def _texts(kind: Kind, vocab: Mapping[str, int]) -> list[str]:
    texts = sorted(vocab, key=vocab.__getitem__)
    if tuple(texts[: len(CONTROL)]) != CONTROL or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"the vocabulary does not number its tokens from 0, with {', '.join(CONTROL)} first")
    unknown = f" {CONTROL[UNK]}" if kind == "word" else CONTROL[UNK]
    return ["", unknown, "", "", *texts[len(CONTROL) :]]


class TokenizerPair(NamedTuple):
    """The tokenizers of the two sides; one and the same object where the vocabulary is joint."""

    source: Tokenizer
    target: Tokenizer

    @property
    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target

    def to_json(self) -> str:
        """Both as the content of one JSON file."""
        sides = [
            None if self.joint and side == 1 else json.loads(self[side].backend.to_str()) for side in (0, 1)
        ]
        content = {"format": FORMAT, "kind": self.source.kind, "joint": self.joint}
        content |= {"source": sides[0], "target": sides[1]}
        return json.dumps(content, ensure_ascii=False)

    def save(self, path: str | Path) -> None:
        """Write both into one JSON file, which appears whole or not at all."""
        with open_text_output(path) as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "TokenizerPair":
        """Read what `save` wrote.  Raises BadRun, naming the file, where that cannot be done."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise BadRun(f"{path}: cannot be read ({error.strerror or error})") from None
        return cls.from_json(content, path)

    @classmethod
    def from_json(cls, text: str | bytes, path: str | Path) -> "TokenizerPair":
        """Parse what `to_json` gave.  Raises BadRun, naming the path, where that cannot be done."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRun(f"{path}: damaged, not a JSON file ({error}); copy it from its source") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadRun(f"{path}: not a tokenizer of the format {FORMAT}; a newer qkv may have written it")
        try:
            source = _restored(content["kind"], content["source"])
            return cls(source, source if content["joint"] else _restored(content["kind"], content["target"]))
        except Exception as error:  # tokenizers raises bare Exception for JSON that it does not understand
            reason = f"{type(error).__name__}: {error}"
            raise BadRun(f"{path}: damaged ({reason}); copy it from its source") from None


def _restored(kind: Any, content: Any) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    if kind not in _PIECE:
        raise ValueError(f"unknown kind {kind!r}")
    return Tokenizer(kind, Backend.from_str(json.dumps(content)))


def train_tokenizers(
    pairs: Sequence[tuple[str, str]], config: TokenizerConfig, longest: int = LONGEST_LINE
) -> TokenizerPair:
    """Learn the vocabulary, or the two, from the text.  The same text gives the same vocabulary.

    BPE merges the most frequent neighbours first (Sennrich et al. 2016); a pair seen once is never merged.
    Where the text has more different characters than the vocabulary has room for, the commonest are known.
    Pairs with a side of more than `longest` characters are passed over.
    Raises BadData where there is no text.
    """
    short = [pair for pair in pairs if max(map(len, pair)) <= longest]
    if pairs and not short:
        raise BadData(
            f"there is no text to learn a vocabulary from: every line has over {longest:,} characters"
        )
    sides = [[source for source, _ in short], [target for _, target in short]]
    if config.joint:
        both = train_tokenizer(sides[0] + sides[1], config)
        return TokenizerPair(both, both)
    return TokenizerPair(train_tokenizer(sides[0], config), train_tokenizer(sides[1], config))


def train_tokenizer(lines: Sequence[str], config: TokenizerConfig) -> Tokenizer:
    """Learn one vocabulary from the lines, or from the one line of a string; see `train_tokenizers`."""
    lines = [lines] if isinstance(lines, str) else lines
    if not any(line.strip(" ") for line in lines):
        raise BadData("there is no text to learn a vocabulary from: every line is empty")
    with _no_threads():
        if config.kind != "bpe":
            return _fit(lines, config, _words(config))
        # The trainer makes room for its vocabulary first, and aborts the process where there is none.
        room = len(CONTROL) + 8 * sum(len(line) + 1 for line in lines)
        config = config.model_copy(update={"vocab": min(config.vocab, room)})
        merged = _fit(lines, config, _merges(config, alphabet=None))
        if merged.size <= config.vocab:
            return merged
        known = _fit(lines, config.model_copy(update={"kind": "char"}), _words(config))
        alphabet = [text for text in known.backend.get_vocab() if text not in CONTROL]
        return _fit(lines, config, _merges(config, alphabet))


def _words(config: TokenizerConfig) -> Any:
    from tokenizers.trainers import WordLevelTrainer

    return WordLevelTrainer(
        vocab_size=config.vocab,
        min_frequency=config.min_count,
        show_progress=False,
        special_tokens=list(CONTROL),
    )


def _merges(config: TokenizerConfig, alphabet: list[str] | None) -> Any:
    from tokenizers.trainers import BpeTrainer

    trainer = BpeTrainer(
        vocab_size=config.vocab,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(CONTROL),
        initial_alphabet=alphabet or [],
    )
    if alphabet:  # a limit alone would break ties at random
        trainer.limit_alphabet = len(alphabet)
    return trainer


def _fit(lines: Sequence[str], config: TokenizerConfig, trainer: Any) -> Tokenizer:
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    unk = CONTROL[UNK]
    backend = Backend(
        models.BPE(unk_token=unk, fuse_unk=True) if config.kind == "bpe" else models.WordLevel(unk_token=unk)
    )
    steps: list[Any] = [normalizers.Lowercase()] if config.lowercase else []
    steps.append(normalizers.NFC())
    if config.plain_spaces:
        steps.append(normalizers.Replace(Regex(f"[{NO_BREAK_SPACES}]"), " "))
    if config.kind != "char":
        # In this order: a pattern for spaces at the end takes quadratic time over spaces in between.
        steps += [normalizers.Replace(Regex(" +"), " "), normalizers.Replace(Regex("^ | $"), "")]
        steps.append(normalizers.Prepend(" "))
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE[config.kind]), "isolated")
    backend.train_from_iterator(lines, trainer)
    # The trainer registers the control tokens for look-up in text, where a user's "<pad>" would match.
    content = json.loads(backend.to_str())
    return _restored(config.kind, content | {"added_tokens": []})


@contextmanager
def _no_threads() -> Iterator[None]:
    """Keep `tokenizers` on one thread unless the user chose: older releases warn at a fork after threads."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name, None)
