"""Numbers, measured amounts and money: functions that draw a value, and that write it in a language.

A `write_` function returns None if CLDR has no pattern for it in the language. The docstrings have English
examples.

Integers of four digits are never drawn: Babel lacks the field of CLDR that says whether to group them.
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

from qkv.data.generated.phrases.language import Language
from qkv.data.generated.phrases.words import CALENDAR, CLOCK, CURRENCIES, FLOWS, PRICED, SPANS, UNITS


def draw_number(rng: Random) -> tuple[Decimal]:
    """A random integer of three, five or six digits, or a number with tenths or hundredths."""
    low, high, places = rng.choice(((100, 999, 0), (10_000, 999_999, 0), (1, 999, 1), (1, 9999, 2)))
    return (_draw_decimal(rng, low, high, places),)


def write_number(language: Language, value: Decimal) -> str | None:
    """Write a number: "12,345" or "3.25"."""
    return format_decimal(value, locale=language.locale) if _is_translated(language) else None


def draw_percent(rng: Random) -> tuple[Decimal]:
    """A random share up to 100 %; half of the draws have tenths of a per cent."""
    return (_draw_decimal(rng, *rng.choice(((1, 100, 0), (1, 999, 1)))).scaleb(-2),)


def write_percent(language: Language, value: Decimal) -> str | None:
    """Write a percentage: "12.5%"."""
    if not _is_translated(language):
        return None
    return format_percent(value, locale=language.locale, decimal_quantization=False)


def draw_compact(rng: Random) -> tuple[Decimal]:
    """Random thousands, millions or milliards of at most three digits, so that no language rounds."""
    low, high, places = rng.choice(
        ((1, 1, 0), (2, 9, 0), (10, 99, 0), (100, 999, 0), (11, 19, 1), (21, 99, 1))
    )
    return (_draw_decimal(rng, low, high, places).scaleb(rng.choice((3, 6, 9))).quantize(Decimal(1)),)


def write_compact(language: Language, value: Decimal) -> str | None:
    """Write a large number: "2.5 million"; in short form in a language without long ones."""
    formats = language.data["compact_decimal_formats"]
    length = "long" if "long" in formats else "short"
    if not (
        _is_translated(language)
        and language.has_own_text("compact_decimal_formats", length, "other", "1000000")
    ):
        return None
    return format_compact_decimal(value, format_type=length, locale=language.locale, fraction_digits=2)


def draw_measure(rng: Random) -> tuple[Decimal, str]:
    """A random number and unit; about a third of the numbers have tenths."""
    return _draw_amount(rng), rng.choice(UNITS)


def write_measure(language: Language, value: Decimal, unit: str) -> str | None:
    """Write a measure: "3.5 kilometers"."""
    patterns = language.find_unit_patterns(unit)
    return (
        language.format_plural(patterns, value, format_decimal(value, locale=language.locale))
        if patterns
        else None
    )


def draw_rate(rng: Random) -> tuple[Decimal, str, str]:
    """A random number, unit and unit of time."""
    return _draw_amount(rng), rng.choice(FLOWS), rng.choice(CLOCK + CALENDAR)


def write_rate(language: Language, value: Decimal, unit: str, per: str) -> str | None:
    """Write a rate: "3 liters per hour"."""
    return _append_unit(language, write_measure(language, value, unit), per)


def draw_span(rng: Random) -> tuple[tuple[Decimal, str], ...]:
    """A random duration, length or mass in two or three units, the largest first."""
    return tuple((Decimal(rng.randint(1, largest)), unit) for unit, largest in rng.choice(SPANS))


def write_span(language: Language, *parts: tuple[Decimal, str]) -> str | None:
    """Write an amount in several units: "3 hours, 20 minutes"."""
    return language.join_list("unit", [write_measure(language, value, unit) for value, unit in parts])


def draw_money(rng: Random) -> tuple[Decimal, str]:
    """A random amount and currency; whole for currencies without hundredths."""
    currency = rng.choice(CURRENCIES)
    places = get_currency_precision(currency)
    units = rng.randint(*rng.choice(((1, 1), (2, 9), (10, 99), (100, 999))))
    return Decimal(units * 10**places + rng.randrange(10**places)).scaleb(-places), currency


def write_money(language: Language, value: Decimal, currency: str) -> str | None:
    """Write money with a symbol: "$3.50"."""
    return format_currency(value, currency, locale=language.locale) if currency in language.symbols else None


def draw_named_money(rng: Random) -> tuple[Decimal, str]:
    """A random amount and currency; at least half of the amounts are whole."""
    value, currency = draw_money(rng)
    return rng.choice((value, Decimal(int(value)))), currency


def write_named_money(language: Language, value: Decimal, currency: str) -> str | None:
    """Write money with the name of its currency: "3.50 US dollars"."""
    if currency not in language.data["currency_names"]:
        return None
    cents = value.as_tuple().exponent != 0
    return format_currency(value, currency, locale=language.locale, format_type="name", currency_digits=cents)


def draw_price(rng: Random) -> tuple[Decimal, str, str]:
    """A random amount, currency and unit that it buys."""
    return *draw_money(rng), rng.choice(PRICED)


def write_price(language: Language, value: Decimal, currency: str, per: str) -> str | None:
    """Write a price: "$3.50 per kilogram"."""
    return _append_unit(language, write_money(language, value, currency), per)


def _draw_amount(rng: Random) -> Decimal:
    """A random number for a unit."""
    # Small numbers are frequent, because many languages have plural forms for one, two and a few.
    integers = ((1, 1, 0), (1, 2, 0), (3, 10, 0), (3, 10, 0), (11, 99, 0), (11, 99, 0), (100, 999, 0))
    tenths = ((1, 9, 1), (11, 19, 1), (21, 99, 1))
    return _draw_decimal(rng, *rng.choice(integers + tenths))


def _draw_decimal(rng: Random, low: int, high: int, places: int) -> Decimal:
    """A random number from `low` to `high` in units of its last decimal place, which is never 0."""
    units = rng.randint(low, high)
    return Decimal(units + (places > 0 and units % 10 == 0)).scaleb(-places)


def _append_unit(language: Language, amount: str | None, unit: str) -> str | None:
    """The amount per unit, such as "$3.50 per kilogram"."""
    pattern = language.find_unit_patterns(unit).get("per")
    return pattern.replace("{0}", amount) if pattern and amount else None


def _is_translated(language: Language) -> bool:
    """Whether the locale has words of its own; numbers alone do not tell it from an empty one."""
    return language.has_own_text("months", "format", "wide")
