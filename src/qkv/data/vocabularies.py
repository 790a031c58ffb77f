"""Learns the vocabularies of tokenizers from text."""

import json
from collections.abc import Sequence
from typing import Any

from qkv.data.lines import LONGEST_LINE
from qkv.data.tokens import (
    CONTROL,
    NO_BREAK_SPACES,
    PIECE_PATTERNS,
    Tokenizer,
    TokenizerConfig,
    TokenizerPair,
    restore_tokenizer,
    use_one_thread,
)
from qkv.errors import BadData
from qkv.symbols import UNK


def train_tokenizers(
    pairs: Sequence[tuple[str, str]], config: TokenizerConfig, longest: int = LONGEST_LINE
) -> TokenizerPair:
    """Learn one vocabulary or two, as configured, from text. The same text gives the same vocabulary.

    BPE merges the most frequent neighbours first (Sennrich et al. 2016), but none that occur only once. If
    the text has more different characters than the vocabulary has entries, it contains the most frequent.

    Args:
        pairs: source and target lines.
        config: how text is cut into tokens.
        longest: pairs with a side of more characters are ignored.

    Raises:
        BadData: there is no text.
    """
    short = [pair for pair in pairs if max(map(len, pair)) <= longest]
    if pairs and not short:
        raise BadData(
            f"there is no text to learn a vocabulary from: every line has over {longest:,} characters; "
            "split the lines into shorter ones"
        )
    sides = [[source for source, _ in short], [target for _, target in short]]
    if config.joint:
        tokenizer = train_tokenizer(sides[0] + sides[1], config)
        return TokenizerPair(tokenizer, tokenizer)
    return TokenizerPair(train_tokenizer(sides[0], config), train_tokenizer(sides[1], config))


def train_tokenizer(lines: Sequence[str], config: TokenizerConfig) -> Tokenizer:
    """Learn one vocabulary from text; see `train_tokenizers`.

    Args:
        lines: a string is one line.
        config: how text is cut into tokens; `joint` is not used.

    Raises:
        BadData: there is no text.
    """
    lines = [lines] if isinstance(lines, str) else lines
    if not any(line.strip(" ") for line in lines):
        raise BadData(
            "there is no text to learn a vocabulary from: every line is empty; give at least one line "
            "with text"
        )
    with use_one_thread():
        if config.kind != "bpe":
            return _train_backend(lines, config, _make_word_trainer(config))
        # The trainer allocates its vocabulary first, and aborts the process where memory does not suffice.
        useful_size = len(CONTROL) + 8 * sum(len(line) + 1 for line in lines)
        config = config.model_copy(update={"vocab": min(config.vocab, useful_size)})
        tokenizer = _train_backend(lines, config, _make_merge_trainer(config, alphabet=None))
        if tokenizer.size <= config.vocab:
            return tokenizer
        character_config = config.model_copy(update={"kind": "char"})
        characters = _train_backend(lines, character_config, _make_word_trainer(config))
        alphabet = [text for text in characters.backend.get_vocab() if text not in CONTROL]
        return _train_backend(lines, config, _make_merge_trainer(config, alphabet))


def _make_word_trainer(config: TokenizerConfig) -> Any:
    """A trainer of vocabularies of words or characters."""
    from tokenizers.trainers import WordLevelTrainer

    return WordLevelTrainer(
        vocab_size=config.vocab,
        min_frequency=config.min_count,
        show_progress=False,
        special_tokens=list(CONTROL),
    )


def _make_merge_trainer(config: TokenizerConfig, alphabet: list[str] | None) -> Any:
    """A trainer of BPE merges; only characters of the alphabet, if there is one, are known."""
    from tokenizers.trainers import BpeTrainer

    trainer = BpeTrainer(
        vocab_size=config.vocab,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(CONTROL),
        initial_alphabet=alphabet or [],
    )
    if alphabet:  # with a limit alone, ties would be broken at random
        trainer.limit_alphabet = len(alphabet)
    return trainer


def _train_backend(lines: Sequence[str], config: TokenizerConfig, trainer: Any) -> Tokenizer:
    """A tokenizer as configured, whose vocabulary the trainer learns from the lines."""
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
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE_PATTERNS[config.kind]), "isolated")
    backend.train_from_iterator(lines, trainer)
    # The trainer registers the control tokens for search in text, where a "<pad>" of the user would match.
    content = json.loads(backend.to_str())
    return restore_tokenizer(config.kind, content | {"added_tokens": []})
