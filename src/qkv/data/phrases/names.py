"""Names of territories and languages: drawing one, and writing it in a language, None if CLDR has none."""

from random import Random

from qkv.data.phrases.language import Language
from qkv.data.phrases.words import LANGUAGES, TERRITORIES

# CLDR's pattern for "language (territory)" is not in Babel's data; in these languages it is another one.
_OTHER_LOCALE_PATTERN = frozenset({"dz", "ii", "ko", "ksh", "tok", "zh"})


def draw_territory(rng: Random) -> tuple[str]:
    """The code of a territory."""
    return (rng.choice(TERRITORIES),)


def write_territory(language: Language, code: str) -> str | None:
    """France."""
    return language.names("territories").get(code)


def draw_language(rng: Random) -> tuple[str]:
    """The code of a language."""
    return (rng.choice(LANGUAGES),)


def write_language(language: Language, code: str) -> str | None:
    """French."""
    return language.names("languages").get(code)


def draw_locale(rng: Random) -> tuple[str, str]:
    """A language and a territory, whether or not they belong together."""
    return *draw_language(rng), *draw_territory(rng)


def write_locale(language: Language, spoken: str, territory: str) -> str | None:
    """French (Canada)."""
    name, place = write_language(language, spoken), write_territory(language, territory)
    if name is None or place is None or language.locale.language in _OTHER_LOCALE_PATTERN:
        return None
    return f"{name} ({place})"
