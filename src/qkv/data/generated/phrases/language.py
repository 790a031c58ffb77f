"""One language of CLDR: its names and patterns, told apart from those inherited from the root locale."""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.localedata import locale_identifiers
from babel.numbers import get_currency_symbol

from qkv.data.generated.phrases.words import CURRENCIES, NAMED
from qkv.errors import UnknownName

# Conjunctions that change with the next word, which CLDR's patterns cannot express: Spanish "e Italia" and
# "u 8", the Hebrew prefix that takes a hyphen before anything but a Hebrew letter.
_CONJUNCTION_CLASH = {
    "es": re.compile(r" y h?[ií](?![ae])| o (h?[oó]|8|11\b)", re.IGNORECASE),
    "he": re.compile(r" ו(?![א-ת])"),
}
_LIST_FALLBACKS = {"standard": ("standard",), "or": ("or",), "unit": ("standard", "unit-short", "unit")}


class Language:
    """A language and its CLDR data; look-ups are cached.

    Args:
        locale: the locale of Babel.

    Attributes:
        locale: a copy of it that shares no data with other locales.
        data: everything that CLDR has for the language, nested by name.
    """

    def __init__(self, locale: Locale) -> None:
        self.locale = _copy_locale(locale)
        self.data: Mapping[str, Any] = self.locale._data
        self.has_own_text = cache(self._has_own_text)
        self.find_unit_patterns = cache(self._find_unit_patterns)
        self.find_list_patterns = cache(self._find_list_patterns)
        self.find_names = cache(self._find_names)

    def format_plural(self, patterns: Mapping[str, str], number: Any, digits: str) -> str:
        """Fill the pattern for this number's plural form with the number.

        Args:
            patterns: plural form -> pattern with `{0}`.
            number: the number.
            digits: the number as this language writes it.
        """
        form = self.locale.plural_form(number)
        return patterns.get(form, patterns["other"]).replace("{0}", digits)

    def join_list(self, style: str, items: Sequence[str | None]) -> str | None:
        """The items as one list; None if an item is missing or CLDR's pattern would be wrong.

        The list is built from its end, as the section List Patterns of Unicode Technical Standard 35 says.

        Args:
            style: "standard" (joined by "and"), "or" or "unit".
            items: two or more texts; None for one that the language has no words for.
        """
        patterns, texts = self.find_list_patterns(style), [item for item in items if item]
        if not patterns or len(texts) < len(items):
            return None
        if len(texts) == 2:
            text = patterns["2"].format(*texts)
        else:
            text = patterns["end"].format(*texts[-2:])
            for item in reversed(texts[1:-2]):
                text = patterns["middle"].format(item, text)
            text = patterns["start"].format(texts[0], text)
        clash = _CONJUNCTION_CLASH.get(self.locale.language)
        return None if clash and clash.search(text) else text

    @cached_property
    def symbols(self) -> Mapping[str, str]:
        """Currency code -> symbol, for currencies with a name in this language and a symbol of their own."""
        named = [code for code in CURRENCIES if code in self.data["currency_names"]]
        symbols = [get_currency_symbol(code, locale=self.locale) for code in named]
        return {
            code: symbol for code, symbol in zip(named, symbols, strict=True) if symbols.count(symbol) == 1
        }

    def _find_names(self, kind: str) -> Mapping[str, str]:
        """Code -> name of the "territories" or "languages", without names that mean both, as in Thai."""
        all_names = [self.data[each].get(code) for each, codes in NAMED.items() for code in codes]
        names = {code: self.data[kind].get(code) for code in NAMED[kind]}
        return {code: name for code, name in names.items() if name and all_names.count(name) == 1}

    def _has_own_text(self, *path: str | int | None) -> bool:
        """Whether the language has a text, or a mapping of texts, at this path that is not inherited.

        False if it is missing or equals the root locale's, like "M07" for July.
        """
        return _is_own(_look_up(self.data, path), _look_up(_load_root(), path))

    def _find_unit_patterns(self, unit: str) -> Mapping[str, str]:
        """Plural form, or "per" -> long pattern of a unit, without inherited patterns."""
        lengths = self.data["unit_patterns"].get(unit, {})
        inherited = _look_up(_load_root(), ("unit_patterns", unit, "short")) or {}
        patterns = {**lengths.get("short", {}), **lengths.get("long", {})}
        if patterns.get("per") == inherited.get("per"):
            patterns.pop("per", None)
        return patterns if patterns.get("other") not in (None, inherited.get("other")) else {}

    def _find_list_patterns(self, style: str) -> Mapping[str, str]:
        """Place in a list -> pattern; empty if the language has no pattern of its own that can be used."""
        patterns: dict[str, str] = {}
        for name in _LIST_FALLBACKS[style]:
            patterns |= self.data["list_patterns"].get(name, {})
        # A list of units may equal the root locale's, "3 hours, 20 minutes", so the list with "and" decides.
        is_own = self.has_own_text("list_patterns", "standard", "2")
        if style == "or":  # the root locale's pattern is English
            is_own = self.locale.language == "en" or self.has_own_text("list_patterns", "or", "2")
        # Alternatives in brackets, as in Welsh "a(c)", are instructions to a human reader.
        return patterns if is_own and not any("(" in pattern for pattern in patterns.values()) else {}


def find_language(name: str) -> Language:
    """The language of a Babel locale identifier such as "fr", "pt-BR" or "zh_Hant".

    Args:
        name: the identifier; hyphens are taken for underscores.

    Raises:
        UnknownName: Babel has no data for it; the message names the nearest identifiers.
    """
    try:
        return Language(Locale.parse(name.replace("-", "_")))
    except (UnknownLocaleError, ValueError):
        raise UnknownName(f"unknown language: {name!r}.{_suggest_identifiers(name)}") from None


def _suggest_identifiers(name: str) -> str:
    """The end of an error message: the nearest identifiers and what an identifier looks like."""
    identifiers = sorted(locale_identifiers())
    languages = Locale("en").languages.items()
    english = {word.lower(): code for code, word in languages if code in identifiers}
    by_word = [english[word] for word in difflib.get_close_matches(name.lower(), english, n=1, cutoff=0.8)]
    near = by_word or difflib.get_close_matches(name, identifiers, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    count = len(identifiers)
    return f"{hint} Give one of Babel's {count} locale identifiers, such as 'en', 'pt_BR' or 'zh_Hant'"


def _copy_locale(locale: Locale) -> Locale:
    """A deep copy of the locale that shares no data with other locales."""
    # Locales share inherited data, and Babel writes the aliases that it resolves into them: after a look-up
    # of Japanese month names, Spanish ones could be Japanese. A copy before the first nested look-up is safe.
    _ = locale.languages
    return copy.deepcopy(locale)


@cache
def _load_root() -> Mapping[str, Any]:
    """The data of the root locale, from which all others inherit."""
    return _copy_locale(Locale("root"))._data


def _look_up(data: Any, path: Sequence[str | int | None]) -> Any:
    """The value at a path of nested mappings; None if there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _is_own(value: Any, inherited: Any) -> bool:
    """Whether a text, or every text in a mapping, differs from the inherited one."""
    if isinstance(value, Mapping):
        return bool(value) and all(_is_own(value[key], _look_up(inherited, (key,))) for key in value)
    return value is not None and str(value) != str(inherited)
