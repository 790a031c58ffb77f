"""One language as CLDR has it: finding it by name, and telling what it says from what it only inherits."""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.localedata import locale_identifiers
from babel.numbers import get_currency_symbol

from qkv.data.phrases.words import CURRENCIES, NAMED
from qkv.errors import UnknownName

# Where a conjunction changes with the word after it, which CLDR's patterns cannot say: Spanish "e Italia" and
# "u 8", the Hebrew prefix with a hyphen before anything but a Hebrew letter.
_CONJUNCTION_CLASH = {
    "es": re.compile(r" y h?[ií](?![ae])| o (h?[oó]|8|11\b)", re.IGNORECASE),
    "he": re.compile(r" ו(?![א-ת])"),
}
_LIST_FALLBACKS = {"standard": ("standard",), "or": ("or",), "unit": ("standard", "unit-short", "unit")}


class Language:
    """A language with CLDR data of its own, and what was found out about it so far.

    locale: what Babel's functions take.
    data: everything that CLDR has for the language, nested by name.
    """

    def __init__(self, locale: Locale) -> None:
        self.locale = _apart(locale)
        self.data: Mapping[str, Any] = self.locale._data
        self.says = cache(self._says)
        self.unit_patterns = cache(self._unit_patterns)
        self.list_patterns = cache(self._list_patterns)
        self.names = cache(self._names)

    def plural(self, patterns: Mapping[str, str], number: Any, written: str) -> str:
        """The pattern for this number's plural form, filled with the number as it is written here."""
        form = self.locale.plural_form(number)
        return patterns.get(form, patterns["other"]).replace("{0}", written)

    def join(self, style: str, items: Sequence[str | None]) -> str | None:
        """The items as a list ("standard": and, "or", "unit"); None where CLDR's pattern would be wrong.

        Built from the end, as in the section List Patterns of Unicode Technical Standard 35.
        """
        patterns, known = self.list_patterns(style), [item for item in items if item]
        if not patterns or len(known) < len(items):
            return None
        if len(known) == 2:
            text = patterns["2"].format(*known)
        else:
            text = patterns["end"].format(*known[-2:])
            for item in reversed(known[1:-2]):
                text = patterns["middle"].format(item, text)
            text = patterns["start"].format(known[0], text)
        clash = _CONJUNCTION_CLASH.get(self.locale.language)
        return None if clash and clash.search(text) else text

    @cached_property
    def symbols(self) -> Mapping[str, str]:
        """The symbols of those currencies that have a name here and a symbol that no other one has."""
        named = [code for code in CURRENCIES if code in self.data["currency_names"]]
        symbols = [get_currency_symbol(code, locale=self.locale) for code in named]
        return {code: own for code, own in zip(named, symbols, strict=True) if symbols.count(own) == 1}

    def _names(self, kind: str) -> Mapping[str, str]:
        """What the "territories" or "languages" are called, without names that mean both, as in Thai."""
        called = [self.data[other].get(code) for other, codes in NAMED.items() for code in codes]
        mine = {code: self.data[kind].get(code) for code in NAMED[kind]}
        return {code: name for code, name in mine.items() if name and called.count(name) == 1}

    def _says(self, *path: str | int | None) -> bool:
        """Does the language itself have a text at `path`, or a mapping of which every text is its own?

        False for what is missing and for what equals the root locale's, like "M07" for July.
        """
        return _differs(_at(self.data, path), _at(_root(), path))

    def _unit_patterns(self, unit: str) -> Mapping[str, str]:
        """The long patterns of a unit by plural form, and "per", without those that are the root locale's."""
        lengths = self.data["unit_patterns"].get(unit, {})
        inherited = _at(_root(), ("unit_patterns", unit, "short")) or {}
        patterns = {**lengths.get("short", {}), **lengths.get("long", {})}
        if patterns.get("per") == inherited.get("per"):
            patterns.pop("per", None)
        return patterns if patterns.get("other") not in (None, inherited.get("other")) else {}

    def _list_patterns(self, style: str) -> Mapping[str, str]:
        patterns: dict[str, str] = {}
        for name in _LIST_FALLBACKS[style]:
            patterns |= self.data["list_patterns"].get(name, {})
        # A list of units may look like the root locale's, "3 hours, 20 minutes"; its "and" tells whose it is.
        own = self.says("list_patterns", "standard", "2")
        if style == "or":  # of which the root locale's is English
            own = self.locale.language == "en" or self.says("list_patterns", "or", "2")
        # An alternative in brackets, as in Welsh "a(c)", is an instruction to a person.
        return patterns if own and not any("(" in pattern for pattern in patterns.values()) else {}


def find_language(name: str) -> Language:
    """The language of a Babel locale identifier such as "fr", "pt-BR" or "zh_Hant".

    Raises UnknownName, with the nearest identifiers, for what Babel has no data for.
    """
    try:
        return Language(Locale.parse(name.replace("-", "_")))
    except (UnknownLocaleError, ValueError):
        raise UnknownName(f"unknown language: {name!r}.{_nearest(name)}") from None


def _nearest(name: str) -> str:
    known = sorted(locale_identifiers())
    english = {word.lower(): code for code, word in Locale("en").languages.items() if code in known}
    by_word = [english[word] for word in difflib.get_close_matches(name.lower(), english, n=1, cutoff=0.8)]
    near = by_word or difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} Give one of Babel's {len(known)} locale identifiers, such as 'en', 'pt_BR' or 'zh_Hant'"


def _apart(locale: Locale) -> Locale:
    # Locales share what they inherit, and Babel writes the aliases that it resolves into what is shared: once
    # the Japanese month names were looked up, the Spanish ones could be Japanese.  A deep copy that is made
    # before the first look-up of a nested name shares nothing.
    _ = locale.languages
    return copy.deepcopy(locale)


@cache
def _root() -> Mapping[str, Any]:
    return _apart(Locale("root"))._data


def _at(data: Any, path: Sequence[str | int | None]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _differs(mine: Any, inherited: Any) -> bool:
    if isinstance(mine, Mapping):
        return bool(mine) and all(_differs(mine[key], _at(inherited, (key,))) for key in mine)
    return mine is not None and str(mine) != str(inherited)
