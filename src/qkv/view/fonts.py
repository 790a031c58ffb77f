"""Finds installed fonts for a text. matplotlib takes each character from the first font that has it."""

import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

BASE = "DejaVu Sans"  # part of matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic and many symbols
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
_REGIONS = (("HANGUL", "KR"), ("HIRAGANA", "JP"), ("KATAKANA", "JP"))


class MissingGlyphs(UserWarning):
    """Warns that no installed font has some characters of a picture; the message names a package."""


class Fonts(NamedTuple):
    """The fonts for a text.

    Args:
        families: names of font families, the preferred one first.
        missing: characters that none of them has.
    """

    families: list[str]
    missing: frozenset[str]

    def replace_missing(self, text: str) -> str:
        """The text with a replacement for every missing character; invisible ones are left out."""
        characters = (("" if _is_invisible(c) else REPLACEMENT) if c in self.missing else c for c in text)
        return "".join(characters)


def find_fonts(text: str) -> Fonts:
    """A short list of installed regular fonts that together have all characters of the text, if possible.

    Fonts that were installed after matplotlib built its list count too.

    Args:
        text: all characters of a picture.

    Warns:
        MissingGlyphs: if no installed font has some of the characters.
    """
    from matplotlib.font_manager import findfont

    missing = frozenset(c for c in text if not c.isspace()) - _list_characters(findfont(BASE))
    families = [BASE]
    fonts = _list_installed(_guess_region(missing)) if missing else []
    while missing and fonts:
        complete = (font for font in fonts if missing <= _list_characters(font[1]))
        family, path = next(complete, None) or max(
            fonts, key=lambda font: len(missing & _list_characters(font[1]))
        )
        if not missing & _list_characters(path):
            break
        families.append(family)
        missing -= _list_characters(path)
    invisible = frozenset(filter(_is_invisible, missing))
    if missing - invisible:
        warnings.warn(_suggest_packages(missing - invisible), MissingGlyphs, stacklevel=2)
    return Fonts(families, missing)


@cache
def _list_characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()


def _list_installed(region: str) -> list[tuple[str, str]]:
    """(family, file) of every regular font; fonts for the script of the region come first."""
    from matplotlib.font_manager import findSystemFonts, fontManager, weight_dict

    listed = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in listed and _list_characters(path):
            fontManager.addfont(path)
    paths = {}
    for entry in fontManager.ttflist:
        weight = weight_dict.get(str(entry.weight), entry.weight)
        if entry.style == "normal" and weight in range(300, 501) and not entry.name.startswith("Last Resort"):
            paths.setdefault(entry.name, entry.fname)
    return sorted(paths.items(), key=lambda font: _rank(font[0], region))


def _rank(family: str, region: str) -> tuple[bool, bool, bool, bool, str]:
    """A sorting key for font families: lower is better."""
    sans = "Sans" in family or "Gothic" in family
    return ("Mono" in family, not family.endswith(region), not sans, not family.startswith("Noto"), family)


def _guess_region(characters: Iterable[str]) -> str:
    names = [unicodedata.name(character, "") for character in characters]
    endings = (ending for script, ending in _REGIONS if any(name.startswith(script) for name in names))
    return next(endings, "SC")


def _is_invisible(character: str) -> bool:
    """Whether a character changes other glyphs and has none itself: joiners, direction marks, selectors."""
    return unicodedata.category(character) == "Cf" or "VARIATION SELECTOR" in unicodedata.name(character, "")


def _suggest_packages(missing: frozenset[str]) -> str:
    packages = sorted({_find_package(character) for character in missing})
    examples = "".join(sorted(missing)[:12]) + ("…" if len(missing) > 12 else "")
    count = f"{len(missing)} character{'s' if len(missing) > 1 else ''}"
    return (
        f"no installed font has {count} of this picture ({examples}), so {REPLACEMENT} replaces them. "
        f"Install fonts that have them and draw again; on Debian or Ubuntu: apt install {' '.join(packages)}"
    )


def _find_package(character: str) -> str:
    if unicodedata.name(character, "").startswith(_CJK):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) in ("So", "Sk") else "fonts-noto-core"
