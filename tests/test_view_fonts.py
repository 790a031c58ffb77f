"""Fonts of pictures: every character has one, or the picture warns."""

import warnings

import pytest

from qkv.trace import Trace
from qkv.view import MissingGlyphs, fonts, heatmap
from tiny import translation_example
from view_cases import rows


def test_fonts_are_added_until_every_character_has_one(monkeypatch):
    bundled = [font for font in fonts._list_installed("SC") if "STIX" in font[0]]
    monkeypatch.setattr(fonts, "_list_installed", lambda region: bundled)
    assert fonts.find_fonts("straße Ελλάδα мир שלום سلام ⟨end⟩ ▁") == ([fonts.BASE], frozenset())
    assert fonts.find_fonts("a ℊ⌒") == ([fonts.BASE, "STIXGeneral"], frozenset())


def test_no_font_is_chosen_that_draws_boxes_for_everything():
    assert not any("Last Resort" in family for family, _ in fonts._list_installed("SC"))


@pytest.mark.parametrize(
    ("text", "package", "count"),
    [
        ("你好", "fonts-noto-cjk", "2 characters"),
        ("한", "fonts-noto-cjk", "1 character "),
        ("カタ", "fonts-noto-cjk", "2 characters"),
        ("नमस्ते", "fonts-noto-core", "6 characters"),
        ("🦜你", "fonts-noto-cjk fonts-symbola", "2 characters"),
    ],
)
def test_characters_without_a_font_are_named_with_a_package_that_has_them(monkeypatch, text, package, count):
    monkeypatch.setattr(fonts, "_list_installed", lambda region: [])
    with pytest.warns(
        MissingGlyphs, match=f"no installed font has {count}.*apt install {package}$"
    ) as records:
        found = fonts.find_fonts("ab" + text)
    assert len(records) == 1
    assert found.replace_missing("a" + text[0] + "b") == "a\N{REPLACEMENT CHARACTER}b"


def test_characters_without_a_form_of_their_own_are_left_out_in_silence(monkeypatch):
    monkeypatch.setattr(fonts, "_list_installed", lambda region: [])
    text = "a\U0001d173b\U000e0101"  # a musical control and a variation selector
    assert fonts.find_fonts(text).replace_missing(text) == "ab"


def test_a_picture_without_the_right_font_is_drawn_with_one_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "_list_installed", lambda region: [])
    trace = Trace(
        (translation_example(("▁你好", "</s>"), ("▁Hello", "</s>"), {"cross.0": rows(1, 2, 2)}),),
        "translation",
    )
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        heatmap(trace, path=tmp_path / "p.png")
    assert [warning.category for warning in records] == [MissingGlyphs]


@pytest.mark.parametrize(("text", "ending"), [("你好", "SC"), ("これは", "JP"), ("한국어", "KR")])
def test_the_forms_of_characters_follow_the_script(text, ending):
    names = [
        "Noto Sans CJK JP",
        "Noto Sans CJK KR",
        "Noto Sans CJK SC",
        "Noto Sans Mono CJK SC",
        "Noto Serif CJK SC",
    ]
    region = fonts._guess_region(text)
    assert min(names, key=lambda name: fonts._rank(name, region)) == f"Noto Sans CJK {ending}"


def test_installed_cjk_fonts_are_found(tmp_path):
    found = [path for family, path in fonts._list_installed("SC") if "你" in fonts._list_characters(path)]
    if not found:
        pytest.skip("no CJK font is installed here")
    trace = Trace(
        (translation_example(("▁你好", "世界"), ("▁Hello", "▁مرحبا"), {"cross.0": rows(1, 2, 2)}),),
        "translation",
    )
    heatmap(trace, path=tmp_path / "p.png")
    assert not fonts.find_fonts("你好世界").missing
