"""The generated phrase corpus: correct in both languages, a function of the source, seeded, and bounded."""

import os
import re
import subprocess
import sys
from datetime import date, time
from decimal import Decimal
from random import Random

import pytest
from babel.dates import format_date
from pydantic import ValidationError

from qkv.data.generated.phrases import KINDS, PhraseData, generate_phrases, split_phrases
from qkv.data.generated.phrases.language import find_language
from qkv.errors import BadData, UnknownName

PAIRS = [("en", "fr"), ("en", "de"), ("en", "ja"), ("en", "ar"), ("fr", "de"), ("en", "zh"), ("es", "fi")]
DAY = date(2023, 7, 4)
GOLDEN = [
    ("dates", ("full", DAY), "en", "Tuesday, July 4, 2023"),
    ("dates", ("full", DAY), "fr", "mardi 4 juillet 2023"),
    ("dates", ("long", DAY), "ja", "2023年7月4日"),
    ("dates", ("full", DAY), "fi", "tiistai 4. heinäkuuta 2023"),
    ("moments", ("long", DAY, time(15, 5)), "en", "July 4, 2023, 3:05\u202fPM"),
    ("moments", ("long", DAY, time(15, 5)), "fr", "4 juillet 2023, 15:05"),
    ("parts of dates", ("MMMMd", DAY), "es", "4 de julio"),
    ("parts of dates", ("yQQQQ", DAY), "en", "3rd quarter 2023"),
    ("intervals", (DAY, date(2023, 9, 9)), "de", "4. Juli\u2009–\u20099. Sept. 2023"),
    ("distances", ("hour", "future", 3), "en", "in 3 hours"),
    ("distances", ("hour", "future", 3), "fr", "dans 3 heures"),
    ("distances", ("month", "past", 1), "fr", "il y a 1 mois"),
    ("distances", ("hour", "past", 2), "ar", "قبل ساعتين"),
    ("measures", (Decimal("1.5"), "length-kilometer"), "en", "1.5 kilometers"),
    ("measures", (Decimal("1.5"), "length-kilometer"), "fr", "1,5\xa0kilomètre"),
    ("measures", (Decimal(3), "duration-hour"), "ja", "3 時間"),
    ("rates", (Decimal(3), "volume-liter", "duration-hour"), "de", "3 Liter pro Stunde"),
    ("spans", ((Decimal(3), "duration-hour"), (Decimal(20), "duration-minute")), "en", "3 hours, 20 minutes"),
    (
        "spans",
        ((Decimal(3), "duration-hour"), (Decimal(20), "duration-minute")),
        "fi",
        "3 tuntia ja 20 minuuttia",
    ),
    ("prices", (Decimal("3.50"), "USD", "mass-kilogram"), "en", "$3.50 per kilogram"),
    ("prices", (Decimal("3.50"), "USD", "mass-kilogram"), "fr", "3,50\xa0$US par kilogramme"),
    ("named money", (Decimal(3), "USD"), "en", "3 US dollars"),
    ("named money", (Decimal(3), "USD"), "fr", "3 dollars des États-Unis"),
    ("named money", (Decimal("1.50"), "USD"), "fr", "1,50 dollar des États-Unis"),
    ("percents", ("or", (Decimal("0.125"),), (Decimal("0.5"),)), "en", "12.5% or 50%"),
    ("numbers", ("standard", (Decimal(12345),), (Decimal("0.5"),)), "de", "12.345 und 0,5"),
    ("compact numbers", (Decimal(3000),), "en", "3 thousand"),
    ("compact numbers", (Decimal(3000),), "fr", "3 mille"),
    ("compact numbers", (Decimal(125_000),), "zh", "12.5万"),
    ("territories", ("standard", ("DE",), ("IT",), ("FR",)), "en", "Germany, Italy, and France"),
    ("territories", ("standard", ("DE",), ("IT",), ("FR",)), "fr", "Allemagne, Italie et France"),
    ("languages", ("or", ("sv",), ("tr",)), "de", "Schwedisch oder Türkisch"),
    ("locales", ("fr", "CA"), "fr", "français (Canada)"),
    ("lists of months", ("standard", ("months", 1), ("months", 2)), "fi", "tammikuu ja helmikuu"),
]
SCRIPTS = {"ja": r"[ァ-ヶ一-龯]", "zh": r"[一-龥]", "ar": r"[ء-ي]"}
WORDS = ("dates", "distances", "measures", "named money", "territories", "languages", "lists of weekdays")
# What CLDR has no correct pattern for, so that nothing is written.
UNWRITTEN = [
    ("locales", ("fr", "CA"), "zh"),
    ("territories", ("standard", ("DE",), ("IT",)), "es"),
    ("territories", ("standard", ("DE",), ("IT",)), "cy"),
    ("numbers", ("standard", (Decimal(300),), (Decimal("0.5"),)), "he"),
    ("dates", ("long", DAY), "ba"),
    ("distances", ("hour", "future", 3), "ki"),
    ("measures", (Decimal(3), "length-kilometer"), "ki"),
    ("compact numbers", (Decimal(3000),), "ki"),
]


def all_drawn(source, target, times=15):
    """`times` values of each kind, as they are drawn, in both languages."""
    rng, languages = Random(3), (find_language(source), find_language(target))
    for name, kind in KINDS.items():
        for _ in range(times):
            value = kind.draw(rng)
            yield name, *(kind.write(language, *value) for language in languages)


@pytest.fixture(scope="module")
def french():
    return generate_phrases(PhraseData(size=3000))


@pytest.mark.parametrize(("kind", "value", "language", "expected"), GOLDEN)
def test_a_value_is_written_as_the_language_writes_it(kind, value, language, expected):
    assert KINDS[kind].write(find_language(language), *value) == expected


@pytest.mark.parametrize(("kind", "value", "language"), UNWRITTEN)
def test_what_cldr_cannot_write_correctly_is_not_written(kind, value, language):
    assert KINDS[kind].write(find_language(language), *value) is None


@pytest.mark.parametrize(("source", "target"), [*PAIRS, ("fr", "en"), ("ja", "en")])
def test_whatever_is_drawn_the_source_decides_the_target(source, target):
    targets = {}
    for _, phrase, translation in all_drawn(source, target):
        if phrase and translation:
            assert targets.setdefault(phrase, translation) == translation, phrase


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_kind_is_written_in_words_of_the_language(source, target):
    unwritten = set(KINDS)
    for name, phrase, translation in all_drawn(source, target):
        if phrase and translation:
            unwritten.discard(name)
            for text in (phrase, translation):
                assert text == text.strip()
                assert not re.search(r"[{}¤#?]|None|\bM\d\d|  |[+]\d", text), text
            if name in WORDS:
                assert re.search(SCRIPTS.get(target, r"[^\W\d]"), translation), translation
    assert unwritten == ({"locales"} if target == "zh" else set())


def test_languages_do_not_leak_into_each_other():
    months = ("standard", ("months", 1), ("months", 2))
    for language, expected in (
        ("ja", "1月、2月"),
        ("he", "ינואר ופברואר"),
        ("es", "enero y febrero"),
        ("fr", "janvier et février"),
    ):
        assert KINDS["lists of months"].write(find_language(language), *months) == expected
    assert format_date(date(2023, 1, 2), "LLLL", locale="es") == "enero"


def test_measures_in_a_list_cannot_be_taken_for_a_span():
    rng = Random(0)
    for _ in range(200):
        _, *measures = KINDS["lists of measures"].draw(rng)
        dimensions = [unit.split("-")[0] for _, unit in measures]
        assert len(set(dimensions)) == len(dimensions)


def test_as_many_different_phrases_as_asked_for(french):
    assert len(french) == 3000
    assert len({source for source, _ in french}) == 3000
    assert all(source and target for source, target in french)


def test_the_seed_decides_the_phrases():
    first = generate_phrases(PhraseData(size=200, seed=7))
    assert generate_phrases(PhraseData(size=200, seed=7)) == first
    assert generate_phrases(PhraseData(size=200, seed=8)) != first


def test_another_process_generates_the_same_phrases():
    code = "from qkv.data.generated.phrases import *; print(ascii(generate_phrases(PhraseData(size=100))))"
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert process.stdout.strip() == ascii(generate_phrases(PhraseData(size=100)))


def test_phrases_are_of_many_lengths_and_names_are_seen_often(french):
    lengths = [len(source.split()) for source, _ in french]
    assert min(lengths) == 2
    assert 14 <= max(lengths) <= 20
    assert sum(length >= 6 for length in lengths) > 0.15 * len(lengths)
    english = find_language("en")
    for kind in ("territories", "languages"):
        for name in english.find_names(kind).values():
            assert sum(name in source for source, _ in french) >= 5, name


def test_held_out_phrases_are_unseen(french):
    train, dev, test = split_phrases(french, dev=300, test=200)
    assert (len(train), len(dev), len(test)) == (2500, 300, 200)
    assert sorted([*train, *dev, *test]) == sorted(french)
    sources = [{source for source, _ in part} for part in (train, dev, test)]
    assert not sources[0] & (sources[1] | sources[2])
    assert not sources[1] & sources[2]


def test_a_split_that_cannot_be_is_refused():
    pairs = [("a", "b"), ("c", "d"), ("e", "f")]
    with pytest.raises(BadData, match="dev=2 and test=1 leave no pair to train on out of 3"):
        split_phrases(pairs, dev=2, test=1)
    with pytest.raises(BadData, match="dev=-1"):
        split_phrases(pairs, dev=-1, test=1)
    with pytest.raises(BadData, match="the source phrase 'a' occurs twice"):
        split_phrases([*pairs, ("a", "g")], dev=1, test=1)


def test_only_the_kinds_asked_for():
    for source, _ in generate_phrases(PhraseData(size=50, kinds=("lists of weekdays",))):
        assert re.fullmatch(r"\w+day(, \w+day,)? (and|or) \w+day", source), source


def test_more_phrases_than_there_are_end_in_an_error():
    with pytest.raises(
        BadData, match=r"size=600: only about (4[5-9]|50)\d different phrases of the kinds lists of weekdays"
    ):
        generate_phrases(PhraseData(size=600, kinds=("lists of weekdays",)))
    with pytest.raises(BadData, match="CLDR has no phrases from 'en' to 'ba': choose other languages"):
        generate_phrases(PhraseData(target="ba", size=10))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("french", "Did you mean 'fr'"),
        ("fr_XY", "Did you mean .*'fr_"),
        ("zz", "Give one of Babel's"),
        ("", "Give one of"),
    ],
)
def test_an_unknown_language_is_named_with_the_nearest_one(name, hint):
    with pytest.raises(UnknownName, match=f"unknown language: '{name}'.*{hint}"):
        generate_phrases(PhraseData(target=name, size=10))


def test_other_mistakes_are_named():
    with pytest.raises(BadData, match="source and target are both 'en': choose two different languages"):
        generate_phrases(PhraseData(source="en", target="en"))
    with pytest.raises(UnknownName, match=r"unknown kind of phrases: 'date'\. Did you mean 'dates'"):
        generate_phrases(PhraseData(kinds=("date",)))
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        PhraseData(size=10**9)


def test_identifiers_may_have_hyphens_and_regions():
    assert len(generate_phrases(PhraseData(source="pt-BR", target="zh_TW", size=50))) == 50
