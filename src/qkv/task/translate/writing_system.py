"""Finds the writing system of a text, which decides how BLEU splits it: without spaces there are no words."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

MIN_SHARE = 0.25  # of all letters; the others may be names, brands and formulas in another script
MIN_KANA_SHARE = 0.1  # of kana and ideographs together: Japanese has more, Chinese hardly any
KANA = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH")
UNSPACED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI", "NEW")


class WritingSystem(NamedTuple):
    """What lines are written in.

    Args:
        language: its name, for messages.
        tokenizers: sacrebleu's tokenisers for it, the best first; the last one needs no further package.
        is_spaced: whether there are spaces between words.
        is_asian: whether TER can split it into characters.
        extra: the extra of sacrebleu that the first tokeniser needs, if any.
    """

    language: str
    tokenizers: tuple[str, ...]
    is_spaced: bool = True
    is_asian: bool = False
    extra: str = ""


SPACED = WritingSystem("a script with spaces between words", ("13a",))
CHINESE = WritingSystem("Chinese", ("zh",), is_spaced=False, is_asian=True)
JAPANESE = WritingSystem("Japanese", ("ja-mecab", "char"), is_spaced=False, is_asian=True, extra="ja")
KOREAN = WritingSystem("Korean", ("ko-mecab", "char"), extra="ko")


def find_writing_system(lines: Iterable[str]) -> WritingSystem:
    """The writing system of most letters in the lines; all scripts with spaces count as one."""
    letters: Counter[str] = Counter()
    for character, count in _count_characters(lines).items():
        if character.isalpha():
            letters[unicodedata.name(character, "").partition(" ")[0]] += count
    kana = sum(letters[name] for name in KANA)
    is_japanese = kana > MIN_KANA_SHARE * (kana + letters["CJK"])
    counts = {JAPANESE if is_japanese else CHINESE: kana + letters["CJK"], KOREAN: letters["HANGUL"]}
    for name in UNSPACED:
        system = WritingSystem(f"{name.capitalize()} script", ("char",), is_spaced=False)
        counts[system] = letters[name]
    system, count = max(counts.items(), key=lambda item: item[1])
    return system if count and count >= MIN_SHARE * letters.total() else SPACED


def _count_characters(lines: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    return counts
