"""Names of territories and languages: functions that draw one, and that write it in a language.

A `write_` function returns None if CLDR has no name in the language.
"""

from random import Random

from qkv.data.generated.phrases.language import Language
from qkv.data.generated.phrases.words import LANGUAGES, TERRITORIES

# Babel's data lack CLDR's pattern for "language (territory)"; these languages have a different one.
_OTHER_LOCALE_PATTERN = frozenset({"dz", "ii", "ko", "ksh", "tok", "zh"})


def draw_territory(rng: Random) -> tuple[str]:
    """A random territory's code."""
    return (rng.choice(TERRITORIES),)


def write_territory(language: Language, code: str) -> str | None:
    """Write the name of a territory: "France"."""
    return language.find_names("territories").get(code)


def draw_language(rng: Random) -> tuple[str]:
    """A random language's code."""
    return (rng.choice(LANGUAGES),)


def write_language(language: Language, code: str) -> str | None:
    """Write the name of a language: "French"."""
    return language.find_names("languages").get(code)


def draw_locale(rng: Random) -> tuple[str, str]:
    """The codes of a random language and a random territory, drawn independently."""
    return *draw_language(rng), *draw_territory(rng)


def write_locale(language: Language, spoken: str, territory: str) -> str | None:
    """Write a language and a territory: "French (Canada)"."""
    name, place = write_language(language, spoken), write_territory(language, territory)
    if name is None or place is None or language.locale.language in _OTHER_LOCALE_PATTERN:
        return None
    return f"{name} ({place})"
