"""The script of a text, and so how BLEU cuts it into tokens: without spaces there are no words to count."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

SHARE = 0.25  # of all letters; the rest may be names, brands and formulas in another script
KANA_SHARE = 0.1  # of kana and ideographs: Japanese has more, Chinese hardly any
KANA = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH")
UNSPACED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI", "NEW")


class Script(NamedTuple):
    """What the lines are written in.

    language: for messages.  tokenize: sacrebleu's tokenisers for it, the best first; the last one needs
    nothing else.  spaced: whether spaces stand between words.  asian: whether TER can cut it into characters.
    needs: the extra of sacrebleu that the first tokeniser needs, if any.
    """

    language: str
    tokenize: tuple[str, ...]
    spaced: bool = True
    asian: bool = False
    needs: str = ""


SPACED = Script("a script with spaces between words", ("13a",))
CHINESE = Script("Chinese", ("zh",), spaced=False, asian=True)
JAPANESE = Script("Japanese", ("ja-mecab", "char"), spaced=False, asian=True, needs="ja")
KOREAN = Script("Korean", ("ko-mecab", "char"), needs="ko")


def script_of(lines: Iterable[str]) -> Script:
    """The script of the lines, by their letters; the spaced scripts are one."""
    letters: Counter[str] = Counter()
    for character, count in _characters(lines).items():
        if character.isalpha():
            letters[unicodedata.name(character, "").partition(" ")[0]] += count
    least = SHARE * letters.total()
    kana = sum(letters[name] for name in KANA)
    groups = {
        JAPANESE if kana > KANA_SHARE * (kana + letters["CJK"]) else CHINESE: kana + letters["CJK"],
        KOREAN: letters["HANGUL"],
    }
    for name in UNSPACED:
        groups[Script(f"{name.capitalize()} script", ("char",), spaced=False)] = letters[name]
    script, count = max(groups.items(), key=lambda group: group[1])
    return script if count and count >= least else SPACED


def _characters(lines: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    return counts
