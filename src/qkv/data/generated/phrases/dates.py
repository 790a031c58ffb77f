"""Dates, times, distances in time: functions that draw a value, and that write it in a language.

A `write_` function returns None if CLDR has no pattern for it in the language. The docstrings have English
examples.
"""

import re
from datetime import date, time
from random import Random

from babel.dates import format_date, format_interval, format_time

from qkv.data.generated.phrases.language import Language
from qkv.data.generated.phrases.words import CALENDAR, CLOCK

_FIRST, _LAST = date(1950, 1, 1).toordinal(), date(2049, 12, 31).toordinal()


def draw_date(rng: Random) -> tuple[str, date]:
    """A random style, "full" (with the weekday) or "long", and a day within a hundred years."""
    return rng.choice(("full", "full", "long")), _draw_day(rng)


def write_date(language: Language, style: str, day: date) -> str | None:
    """Write a day: "Tuesday, July 4, 2023"."""
    return format_date(day, style, language.locale) if _has_style(language, style) else None


def draw_time(rng: Random) -> tuple[time]:
    """A random minute of the day."""
    return (time(rng.randrange(24), rng.randrange(60)),)


def write_time(language: Language, at: time) -> str | None:
    """Write a time of day: "3:05 PM"."""
    return format_time(at, "short", locale=language.locale) if _has_style(language, "long") else None


def draw_moment(rng: Random) -> tuple[str, date, time]:
    """A random style, day and minute of the day."""
    return *draw_date(rng), *draw_time(rng)


def write_moment(language: Language, style: str, day: date, at: time) -> str | None:
    """Write a day and a time: "Tuesday, July 4, 2023, 3:05 PM"."""
    date_text, time_text = write_date(language, style, day), write_time(language, at)
    if date_text is None or time_text is None:
        return None
    pattern = str(language.data["datetime_formats"][style]).replace("'", "")
    return pattern.replace("{0}", time_text).replace("{1}", date_text)


def draw_part(rng: Random) -> tuple[str, date]:
    """A random day, and which parts of it to write: month and year, day and month, or quarter and year."""
    return rng.choice(("yMMMM", "yMMMM", "MMMMd", "yQQQQ")), _draw_day(rng)


def write_part(language: Language, skeleton: str, day: date) -> str | None:
    """Write parts of a date: "July 2023", "July 4" or "3rd quarter 2023"."""
    pattern = language.data["datetime_skeletons"].get(skeleton)
    if pattern is None or not _has_style(language, "full"):
        return None
    if "Q" in skeleton:
        is_own = language.has_own_text("quarters", "format", "wide") and language.has_own_text(
            "datetime_skeletons", skeleton
        )
    else:
        is_own = _has_date_order(language, str(pattern))
    return pattern.apply(day, language.locale) if is_own else None


def draw_interval(rng: Random) -> tuple[date, date]:
    """Two random days within a month, a year or 800 days, the earlier one first."""
    start = _draw_day(rng)
    end = _draw_day(rng, start.toordinal() + 2, start.toordinal() + rng.choice((27, 180, 800)))
    return start, end


def write_interval(language: Language, start: date, end: date) -> str | None:
    """Write an interval: "Jul 4 – Sep 9, 2023"."""
    patterns = language.data["interval_formats"].get("yMMMd", {})
    has_order = all(_has_date_order(language, "".join(patterns.get(field, "?"))) for field in "yMd")
    if not has_order or not _has_style(language, "full"):
        return None
    return format_interval(start, end, "yMMMd", fuzzy=False, locale=language.locale)


def draw_distance(rng: Random) -> tuple[str, str, int]:
    """A random unit of time, a direction ("past" or "future") and a number of units."""
    unit = rng.choice(CLOCK + CALENDAR)
    low, high = rng.choice(((1, 1), (2, 10), (2, 10), (11, 99), (11, 99), (11, 99)))
    return unit.removeprefix("duration-"), rng.choice(("past", "future")), rng.randint(low, high)


def write_distance(language: Language, unit: str, direction: str, count: int) -> str | None:
    """Write a distance in time: "in 3 hours" or "3 hours ago"."""
    if not language.has_own_text("date_fields", unit, direction, "other"):
        return None
    return language.format_plural(language.data["date_fields"][unit][direction], count, str(count))


def draw_weekday(rng: Random) -> tuple[str, int]:
    """A random weekday, as the arguments of `write_name`."""
    return "days", rng.randrange(7)


def draw_month(rng: Random) -> tuple[str, int]:
    """A random month, as the arguments of `write_name`."""
    return "months", rng.randint(1, 12)


def write_name(language: Language, kind: str, index: int) -> str | None:
    """Write a weekday or month in the form that is used outside dates: "Tuesday" or "July"."""
    path = (kind, "stand-alone", "wide")
    return language.data[kind]["stand-alone"]["wide"][index] if language.has_own_text(*path) else None


def _draw_day(rng: Random, first: int = _FIRST, last: int = _LAST) -> date:
    """A random day between two ordinals, never the first of a month."""
    # Several languages write the first as an ordinal, "1er avril", which CLDR's patterns cannot express.
    day = date.fromordinal(rng.randint(first, last))
    return day.replace(day=max(day.day, 2))


def _has_style(language: Language, style: str) -> bool:
    """Whether the language has words for dates and a pattern of this style."""
    has_words = language.has_own_text("months", "format", "wide") and language.has_own_text(
        "days", "format", "wide"
    )
    return has_words and language.has_own_text("date_formats", style)


def _has_date_order(language: Language, pattern: str) -> bool:
    """Whether the pattern orders day, month and year as this language does; root patterns often do not."""
    order = _list_fields(str(language.data["date_formats"]["long"]))
    fields = _list_fields(pattern)
    return fields == "".join(field for field in order if field in fields)


def _list_fields(pattern: str) -> str:
    """The letters y, M and d in the order in which a date pattern has them."""
    fields = re.sub(r"'[^']*'", "", pattern).replace("L", "M")
    return "".join(dict.fromkeys(field for field in fields if field in "yMd"))
