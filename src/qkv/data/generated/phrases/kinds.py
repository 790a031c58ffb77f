"""The kinds of phrases: how often each occurs, how its values are drawn, and how a language writes them."""

from collections.abc import Callable
from operator import itemgetter
from random import Random
from typing import Any, NamedTuple

from qkv.data.generated.phrases import amounts, dates, names
from qkv.data.generated.phrases.language import Language

Draw = Callable[[Random], tuple[Any, ...]]
Write = Callable[..., str | None]


class Kind(NamedTuple):
    """A kind of phrases.

    Args:
        weight: how often it is drawn, relative to the other kinds.
        draw: draw(rng) returns a random value, as plain data that is independent of any language.
        write: write(language, *value) returns the phrase; None if CLDR has no words for it in this language.
    """

    weight: int
    draw: Draw
    write: Write


def _make_list_kind(weight: int, draw: Draw, write: Write, distinct_by: Callable[[Any], Any] = tuple) -> Kind:
    """A kind of two or three values, no two with the same `distinct_by(value)`, joined by "and" or "or"."""

    def draw_list(rng: Random) -> tuple[Any, ...]:
        style, count = rng.choice(("standard", "standard", "or")), rng.choice((2, 2, 3))
        values: dict[Any, tuple[Any, ...]] = {}
        while len(values) < count:
            value = draw(rng)
            values.setdefault(distinct_by(value), value)
        return style, *values.values()

    def write_list(language: Language, style: str, *values: tuple[Any, ...]) -> str | None:
        return language.join_list(style, [write(language, *value) for value in values])

    return Kind(weight, draw_list, write_list)


def _find_dimension(measure: tuple[Any, str]) -> str:
    # In many languages a list of two lengths looks like one length in two units, but not in English.
    return measure[1].split("-")[0]


_MIXED: dict[str, tuple[Draw, Write]] = {
    "territory": (names.draw_territory, names.write_territory),
    "language": (names.draw_language, names.write_language),
    "weekday": (dates.draw_weekday, dates.write_name),
    "time": (dates.draw_time, dates.write_time),
    "measure": (amounts.draw_measure, amounts.write_measure),
    "money": (amounts.draw_named_money, amounts.write_named_money),
    "percent": (amounts.draw_percent, amounts.write_percent),
}


def _draw_mixed(rng: Random) -> tuple[Any, ...]:
    kind = rng.choice(list(_MIXED))
    return kind, *_MIXED[kind][0](rng)


def _write_mixed(language: Language, kind: str, *value: Any) -> str | None:
    return _MIXED[kind][1](language, *value)


# Dates, amounts and money are frequent, because they need reordering and inflection. Names can only be
# memorised: with these weights each name occurs in at least fifty of 20,000 pairs.
KINDS: dict[str, Kind] = {
    "dates": Kind(12, dates.draw_date, dates.write_date),
    "moments": Kind(9, dates.draw_moment, dates.write_moment),
    "parts of dates": Kind(4, dates.draw_part, dates.write_part),
    "intervals": Kind(6, dates.draw_interval, dates.write_interval),
    "distances": Kind(4, dates.draw_distance, dates.write_distance),
    "lists of distances": _make_list_kind(4, dates.draw_distance, dates.write_distance),
    "lists of times": _make_list_kind(3, dates.draw_time, dates.write_time),
    "lists of weekdays": _make_list_kind(1, dates.draw_weekday, dates.write_name),
    "lists of months": _make_list_kind(2, dates.draw_month, dates.write_name),
    "measures": Kind(7, amounts.draw_measure, amounts.write_measure),
    "lists of measures": _make_list_kind(
        5, amounts.draw_measure, amounts.write_measure, distinct_by=_find_dimension
    ),
    "rates": Kind(6, amounts.draw_rate, amounts.write_rate),
    "lists of rates": _make_list_kind(2, amounts.draw_rate, amounts.write_rate),
    "spans": Kind(6, amounts.draw_span, amounts.write_span),
    "money": _make_list_kind(4, amounts.draw_money, amounts.write_money),
    "named money": Kind(6, amounts.draw_named_money, amounts.write_named_money),
    "lists of named money": _make_list_kind(4, amounts.draw_named_money, amounts.write_named_money),
    "prices": Kind(6, amounts.draw_price, amounts.write_price),
    "percents": _make_list_kind(2, amounts.draw_percent, amounts.write_percent),
    "numbers": _make_list_kind(2, amounts.draw_number, amounts.write_number),
    "compact numbers": Kind(2, amounts.draw_compact, amounts.write_compact),
    "lists of compact numbers": _make_list_kind(2, amounts.draw_compact, amounts.write_compact),
    "territories": _make_list_kind(7, names.draw_territory, names.write_territory),
    "languages": _make_list_kind(4, names.draw_language, names.write_language),
    "locales": Kind(5, names.draw_locale, names.write_locale),
    "mixtures": _make_list_kind(5, _draw_mixed, _write_mixed, distinct_by=itemgetter(0)),
}
