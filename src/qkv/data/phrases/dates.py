"""Dates, times, distances in time: drawing one, and writing it in a language, None if CLDR has no way to."""

import re
from datetime import date, time
from random import Random

from babel.dates import format_date, format_interval, format_time

from qkv.data.phrases.language import Language
from qkv.data.phrases.words import CALENDAR, CLOCK

_FIRST, _LAST = date(1950, 1, 1).toordinal(), date(2049, 12, 31).toordinal()


def draw_date(rng: Random) -> tuple[str, date]:
    """A day within a hundred years, to be written in full (with its weekday) or long."""
    return rng.choice(("full", "full", "long")), _day(rng)


def write_date(language: Language, style: str, day: date) -> str | None:
    """Tuesday, July 4, 2023."""
    return format_date(day, style, language.locale) if _knows_style(language, style) else None


def draw_time(rng: Random) -> tuple[time]:
    """A minute of the day."""
    return (time(rng.randrange(24), rng.randrange(60)),)


def write_time(language: Language, at: time) -> str | None:
    """3:05 PM."""
    return format_time(at, "short", locale=language.locale) if _knows_style(language, "long") else None


def draw_moment(rng: Random) -> tuple[str, date, time]:
    """A day and a minute of it."""
    return *draw_date(rng), *draw_time(rng)


def write_moment(language: Language, style: str, day: date, at: time) -> str | None:
    """Tuesday, July 4, 2023, 3:05 PM."""
    written, clock = write_date(language, style, day), write_time(language, at)
    if written is None or clock is None:
        return None
    pattern = str(language.data["datetime_formats"][style]).replace("'", "")
    return pattern.replace("{0}", clock).replace("{1}", written)


def draw_part(rng: Random) -> tuple[str, date]:
    """A day, of which the month and year, the day and month, or the quarter and year are to be written."""
    return rng.choice(("yMMMM", "yMMMM", "MMMMd", "yQQQQ")), _day(rng)


def write_part(language: Language, skeleton: str, day: date) -> str | None:
    """July 2023, July 4, 3rd quarter 2023."""
    pattern = language.data["datetime_skeletons"].get(skeleton)
    if pattern is None or not _knows_style(language, "full"):
        return None
    if "Q" in skeleton:
        known = language.says("quarters", "format", "wide") and language.says("datetime_skeletons", skeleton)
    else:
        known = _in_order(language, str(pattern))
    return pattern.apply(day, language.locale) if known else None


def draw_interval(rng: Random) -> tuple[date, date]:
    """Two days of one month, of one year or of two years, the earlier one first."""
    start = _day(rng)
    end = _day(rng, start.toordinal() + 2, start.toordinal() + rng.choice((27, 180, 800)))
    return start, end


def write_interval(language: Language, start: date, end: date) -> str | None:
    """Jul 4 – Sep 9, 2023."""
    patterns = language.data["interval_formats"].get("yMMMd", {})
    ordered = all(_in_order(language, "".join(patterns.get(field, "?"))) for field in "yMd")
    if not ordered or not _knows_style(language, "full"):
        return None
    return format_interval(start, end, "yMMMd", fuzzy=False, locale=language.locale)


def draw_distance(rng: Random) -> tuple[str, str, int]:
    """A number of units from now, into the past or the future."""
    unit = rng.choice(CLOCK + CALENDAR)
    low, high = rng.choice(((1, 1), (2, 10), (2, 10), (11, 99), (11, 99), (11, 99)))
    return unit.removeprefix("duration-"), rng.choice(("past", "future")), rng.randint(low, high)


def write_distance(language: Language, unit: str, direction: str, count: int) -> str | None:
    """In 3 hours, 3 hours ago."""
    if not language.says("date_fields", unit, direction, "other"):
        return None
    return language.plural(language.data["date_fields"][unit][direction], count, str(count))


def draw_weekday(rng: Random) -> tuple[str, int]:
    """A weekday's name on its own."""
    return "days", rng.randrange(7)


def draw_month(rng: Random) -> tuple[str, int]:
    """A month's name on its own."""
    return "months", rng.randint(1, 12)


def write_name(language: Language, kind: str, index: int) -> str | None:
    """Tuesday, July: as they are written outside dates."""
    path = (kind, "stand-alone", "wide")
    return language.data[kind]["stand-alone"]["wide"][index] if language.says(*path) else None


def _day(rng: Random, first: int = _FIRST, last: int = _LAST) -> date:
    # The first of a month has an ordinal in several languages, "1er avril", which CLDR's patterns cannot say.
    day = date.fromordinal(rng.randint(first, last))
    return day.replace(day=max(day.day, 2))


def _knows_style(language: Language, style: str) -> bool:
    words = language.says("months", "format", "wide") and language.says("days", "format", "wide")
    return words and language.says("date_formats", style)


def _in_order(language: Language, pattern: str) -> bool:
    """Does the pattern order day, month and year as this language's dates do, unlike most root patterns?"""
    order = _order(str(language.data["date_formats"]["long"]))
    return _order(pattern) == "".join(field for field in order if field in _order(pattern))


def _order(pattern: str) -> str:
    fields = re.sub(r"'[^']*'", "", pattern).replace("L", "M")
    return "".join(dict.fromkeys(field for field in fields if field in "yMd"))
