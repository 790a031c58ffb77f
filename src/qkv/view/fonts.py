"""Fonts that can write a text: matplotlib takes every character from the first font of a list that has it."""

import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

BASE = "DejaVu Sans"  # comes with matplotlib; Latin, Greek, Cyrillic, Hebrew, Arabic and many symbols
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
_ENDINGS = (("HANGUL", "KR"), ("HIRAGANA", "JP"), ("KATAKANA", "JP"))


class MissingGlyphs(UserWarning):
    """No installed font has some characters of a picture; the message names a package that does."""


class Fonts(NamedTuple):
    """What to write a text with.

    families: what to ask matplotlib for, the preferred one first.  missing: characters that none of them has.
    """

    families: list[str]
    missing: frozenset[str]

    def writable(self, text: str) -> str:
        """The text with every missing character replaced by one that is there, invisible ones left out."""
        characters = (("" if _invisible(c) else REPLACEMENT) if c in self.missing else c for c in text)
        return "".join(characters)


def fonts_for(text: str) -> Fonts:
    """A short chain of installed regular fonts that has all characters of the text, as far as possible.

    Fonts installed since matplotlib built its list count too.  Warns with MissingGlyphs about what remains.
    """
    from matplotlib.font_manager import findfont

    missing = frozenset(c for c in text if not c.isspace()) - _characters(findfont(BASE))
    families = [BASE]
    fonts = _installed(_region(missing)) if missing else []
    while missing and fonts:
        complete = (font for font in fonts if missing <= _characters(font[1]))
        family, path = next(complete, None) or max(
            fonts, key=lambda font: len(missing & _characters(font[1]))
        )
        if not missing & _characters(path):
            break
        families.append(family)
        missing -= _characters(path)
    invisible = frozenset(filter(_invisible, missing))
    if missing - invisible:
        warnings.warn(_advice(missing - invisible), MissingGlyphs, stacklevel=2)
    return Fonts(families, missing)


@cache
def _characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()


def _installed(region: str) -> list[tuple[str, str]]:
    """(family, file) of every regular font, those preferred for the region's script first."""
    from matplotlib.font_manager import findSystemFonts, fontManager, weight_dict

    known = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known and _characters(path):
            fontManager.addfont(path)
    paths = {}
    for entry in fontManager.ttflist:
        weight = weight_dict.get(str(entry.weight), entry.weight)
        if entry.style == "normal" and weight in range(300, 501) and not entry.name.startswith("Last Resort"):
            paths.setdefault(entry.name, entry.fname)
    return sorted(paths.items(), key=lambda font: _rank(font[0], region))


def _rank(family: str, region: str) -> tuple[bool, bool, bool, bool, str]:
    sans = "Sans" in family or "Gothic" in family
    return ("Mono" in family, not family.endswith(region), not sans, not family.startswith("Noto"), family)


def _region(characters: Iterable[str]) -> str:
    names = [unicodedata.name(character, "") for character in characters]
    endings = (ending for script, ending in _ENDINGS if any(name.startswith(script) for name in names))
    return next(endings, "SC")


def _invisible(character: str) -> bool:
    """Joiners, direction marks, variation selectors: they steer other glyphs and have none themselves."""
    return unicodedata.category(character) == "Cf" or "VARIATION SELECTOR" in unicodedata.name(character, "")


def _advice(missing: frozenset[str]) -> str:
    packages = sorted({_package(character) for character in missing})
    examples = "".join(sorted(missing)[:12]) + ("…" if len(missing) > 12 else "")
    count = f"{len(missing)} character{'s' if len(missing) > 1 else ''}"
    return (
        f"no installed font has {count} of this picture ({examples}); {REPLACEMENT} stands in their place. "
        f"Install fonts that do and draw again; on Debian or Ubuntu: apt install {' '.join(packages)}"
    )


def _package(character: str) -> str:
    if unicodedata.name(character, "").startswith(_CJK):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) in ("So", "Sk") else "fonts-noto-core"
