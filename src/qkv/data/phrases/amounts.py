"""Numbers, measured amounts and money: drawing one, and writing it in a language, None if CLDR has no way to.

Integers of four digits are never drawn: whether they are grouped depends on a field of CLDR that Babel lacks.
"""

from decimal import Decimal
from random import Random

from babel.numbers import (
    format_compact_decimal,
    format_currency,
    format_decimal,
    format_percent,
    get_currency_precision,
)

from qkv.data.phrases.language import Language
from qkv.data.phrases.words import CALENDAR, CLOCK, CURRENCIES, FLOWS, PRICED, SPANS, UNITS


def draw_number(rng: Random) -> tuple[Decimal]:
    """An integer of three, five or six digits, or a number with tenths or hundredths."""
    low, high, places = rng.choice(((100, 999, 0), (10_000, 999_999, 0), (1, 999, 1), (1, 9999, 2)))
    return (_decimal(rng, low, high, places),)


def write_number(language: Language, value: Decimal) -> str | None:
    """12,345 or 3.25."""
    return format_decimal(value, locale=language.locale) if _translated(language) else None


def draw_percent(rng: Random) -> tuple[Decimal]:
    """Up to a hundred per cent, half of them with tenths."""
    return (_decimal(rng, *rng.choice(((1, 100, 0), (1, 999, 1)))).scaleb(-2),)


def write_percent(language: Language, value: Decimal) -> str | None:
    """12.5%."""
    if not _translated(language):
        return None
    return format_percent(value, locale=language.locale, decimal_quantization=False)


def draw_compact(rng: Random) -> tuple[Decimal]:
    """Thousands, millions or milliards of at most three digits, so that no language has to round."""
    low, high, places = rng.choice(
        ((1, 1, 0), (2, 9, 0), (10, 99, 0), (100, 999, 0), (11, 19, 1), (21, 99, 1))
    )
    return (_decimal(rng, low, high, places).scaleb(rng.choice((3, 6, 9))).quantize(Decimal(1)),)


def write_compact(language: Language, value: Decimal) -> str | None:
    """2.5 million; in a language without long forms, its only compact form, as CLDR has it."""
    formats = language.data["compact_decimal_formats"]
    length = "long" if "long" in formats else "short"
    if not (_translated(language) and language.says("compact_decimal_formats", length, "other", "1000000")):
        return None
    return format_compact_decimal(value, format_type=length, locale=language.locale, fraction_digits=2)


def draw_measure(rng: Random) -> tuple[Decimal, str]:
    """A number of some unit, a third of them with tenths."""
    return _amount(rng), rng.choice(UNITS)


def write_measure(language: Language, value: Decimal, unit: str) -> str | None:
    """3.5 kilometers."""
    patterns = language.unit_patterns(unit)
    return (
        language.plural(patterns, value, format_decimal(value, locale=language.locale)) if patterns else None
    )


def draw_rate(rng: Random) -> tuple[Decimal, str, str]:
    """A number of some unit in each unit of time."""
    return _amount(rng), rng.choice(FLOWS), rng.choice(CLOCK + CALENDAR)


def write_rate(language: Language, value: Decimal, unit: str, per: str) -> str | None:
    """3 liters per hour."""
    return _per(language, write_measure(language, value, unit), per)


def draw_span(rng: Random) -> tuple[tuple[Decimal, str], ...]:
    """A duration, length or mass in two or three units, the larger ones first."""
    return tuple((Decimal(rng.randint(1, most)), unit) for unit, most in rng.choice(SPANS))


def write_span(language: Language, *parts: tuple[Decimal, str]) -> str | None:
    """3 hours, 20 minutes."""
    return language.join("unit", [write_measure(language, value, unit) for value, unit in parts])


def draw_money(rng: Random) -> tuple[Decimal, str]:
    """An amount with hundredths, or whole for currencies without them."""
    currency = rng.choice(CURRENCIES)
    places = get_currency_precision(currency)
    whole = rng.randint(*rng.choice(((1, 1), (2, 9), (10, 99), (100, 999))))
    return Decimal(whole * 10**places + rng.randrange(10**places)).scaleb(-places), currency


def write_money(language: Language, value: Decimal, currency: str) -> str | None:
    """$3.50."""
    return format_currency(value, currency, locale=language.locale) if currency in language.symbols else None


def draw_named_money(rng: Random) -> tuple[Decimal, str]:
    """An amount of money, half of them whole."""
    value, currency = draw_money(rng)
    return rng.choice((value, Decimal(int(value)))), currency


def write_named_money(language: Language, value: Decimal, currency: str) -> str | None:
    """3.50 US dollars, 3 US dollars."""
    if currency not in language.data["currency_names"]:
        return None
    cents = value.as_tuple().exponent != 0
    return format_currency(value, currency, locale=language.locale, format_type="name", currency_digits=cents)


def draw_price(rng: Random) -> tuple[Decimal, str, str]:
    """An amount of money for each unit of something."""
    return *draw_money(rng), rng.choice(PRICED)


def write_price(language: Language, value: Decimal, currency: str, per: str) -> str | None:
    """$3.50 per kilogram."""
    return _per(language, write_money(language, value, currency), per)


def _amount(rng: Random) -> Decimal:
    # One, two and the few after them have forms of their own in many languages, so they are drawn often.
    whole = ((1, 1, 0), (1, 2, 0), (3, 10, 0), (3, 10, 0), (11, 99, 0), (11, 99, 0), (100, 999, 0))
    tenths = ((1, 9, 1), (11, 19, 1), (21, 99, 1))
    return _decimal(rng, *rng.choice(whole + tenths))


def _decimal(rng: Random, low: int, high: int, places: int) -> Decimal:
    """A number from `low` to `high`, in units of its last place, which is not 0 after the point."""
    units = rng.randint(low, high)
    return Decimal(units + (places > 0 and units % 10 == 0)).scaleb(-places)


def _per(language: Language, amount: str | None, unit: str) -> str | None:
    pattern = language.unit_patterns(unit).get("per")
    return pattern.replace("{0}", amount) if pattern and amount else None


def _translated(language: Language) -> bool:
    """Has the language words at all?  Figures alone do not tell a translated locale from an empty one."""
    return language.says("months", "format", "wide")
