"""Scripts without spaces between words, and the places inside their text at which a word may begin."""

import unicodedata

# The names of the characters of these scripts begin with these words in Unicode.
UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "BOPOMOFO",
    "IDEOGRAPHIC",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "JAVANESE",
    "BALINESE",
    "TAI ",
    "NEW TAI LUE",
    "YI ",
)
# Vowels of Thai and Lao that are written before their consonant, and the signs of Khmer and Myanmar that join
# two consonants.
JOINS_NEXT = frozenset("เแโใไເແໂໃໄ\u17d2\u1039")
# Vowels of Thai and Lao that follow their consonant and are no combining marks.
TRAILING_VOWELS = frozenset("ะาำๅะາຳຽ")


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script without spaces between words.

    >>> is_unspaced("語"), is_unspaced("ไ"), is_unspaced("한"), is_unspaced("a")
    (True, True, False, False)
    """
    return unicodedata.name(character, "").startswith(UNSPACED)


def may_begin_word(before: str, after: str) -> bool:
    """Whether a word may begin at `after`, which directly follows `before` in a text without a space.

    There is no dictionary, so the answer is coarse: a word may begin wherever one of the two characters
    belongs to a script without spaces, except inside a syllable and inside a run of Katakana, which mostly
    writes one foreign word.

    Args:
        before: one character.
        after: one character.

    >>> may_begin_word("日", "本"), may_begin_word("タ", "ー"), may_begin_word("1", "2")
    (True, False, False)
    """
    if not (is_unspaced(before) or is_unspaced(after)):
        return False
    if before in JOINS_NEXT or after in TRAILING_VOWELS or _continues_syllable(after):
        return False
    return not (_is_katakana(before) and _is_katakana(after))


def _continues_syllable(character: str) -> bool:
    """Whether a character is a combining mark, or a small letter or sound mark of Japanese."""
    name = unicodedata.name(character, "")
    is_small = name.startswith(("HIRAGANA LETTER SMALL", "KATAKANA LETTER SMALL"))
    return is_small or "SOUND MARK" in name or unicodedata.category(character).startswith("M")


def _is_katakana(character: str) -> bool:
    return "KATAKANA" in unicodedata.name(character, "") and character != "・"
