"""Scores do not depend on how a right translation is spelled in bytes: Unicode form, spaces, letter case."""

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

import qkv
import tiny
from qkv.data import TokenizerConfig, train_tokenizer
from qkv.progress import Silent
from qkv.task import demo
from qkv.task.score import Scoring
from qkv.task.training import fit
from qkv.task.translator import Translator
from qkv.task.validator import Validator
from qkv.train import Translation

SOURCES = ["one two three four", "five six", "seven eight nine ten"]
TARGETS = ["ün dèux troîs quâtre", "çinq six", "sept hüit nèuf dîx"]
PERFECT = {"bleu": 100, "chrf": 100, "exact": 100}
CHANGES: dict[str, Callable[[str], str]] = {
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "trailing": lambda text: text + " ",
    "leading": lambda text: "  " + text,
    "double": lambda text: text.replace(" ", "  "),
    "carriage return": lambda text: text + "\r",
    "tab at the end": lambda text: text + "\t",
}


def scoring_of(tokenize: str = "13a", **options: Any) -> Scoring:
    config = TokenizerConfig(**{"kind": "word", **options})
    return Scoring.like(train_tokenizer(TARGETS, config), config, tokenize)


@pytest.fixture(scope="module")
def translator() -> Translator:
    return qkv.load(tiny.trained())


@pytest.mark.parametrize("kind", ["word", "bpe", "char"])
@pytest.mark.parametrize("change", CHANGES)
def test_references_are_normalised_as_the_tokenizer_does(kind: str, change: str) -> None:
    changed = [CHANGES[change](target) for target in TARGETS]
    scoring = scoring_of(kind=kind)
    for translations, references in ((TARGETS, changed), (changed, TARGETS)):
        assert scoring.scores(translations, references) == pytest.approx({**PERFECT, "ter": 0})
        report = scoring.report(translations, references, SOURCES)
        assert report.scores == pytest.approx({**PERFECT, "ter": 0})
        assert all(row["exact"] == 100 for row in report.buckets)
        assert all(map(scoring.is_match, translations, references))


def test_what_differs_still_differs() -> None:
    scoring = scoring_of()
    others = ["un deux trois quatre", "Çinq six", "septhüit nèuf dîx"]
    assert scoring.scores(others, TARGETS)["exact"] == 0
    assert not any(map(scoring.is_match, others, TARGETS))


def test_a_model_in_lower_case_is_not_blamed_for_it() -> None:
    capitals = [target.upper() for target in TARGETS]
    scoring = scoring_of(lowercase=True)
    report = scoring.report(TARGETS, capitals, SOURCES)
    assert report.scores == pytest.approx({**PERFECT, "ter": 0})
    assert "case:lc" in report.signatures["bleu"]
    assert "lower case" in report.normalised
    cased = scoring_of().report(TARGETS, capitals, SOURCES)
    assert cased.scores["exact"] == 0
    assert "case:mixed" in cased.signatures["bleu"]
    assert "lower case" not in cased.normalised


@pytest.mark.parametrize("change", ["trailing", "double"])
def test_evaluation_and_validation_agree_on_other_spaces(translator: Translator, change: str) -> None:
    pairs = tiny.pairs_of(20, seed=1)
    spaced = [(source, CHANGES[change](target)) for source, target in pairs]
    assert translator.evaluate(spaced).scores == translator.evaluate(pairs).scores
    objective = Translation(translator.model, 0.0, translator.recipe.objective)
    plain, other = (
        Validator(objective, translator.tokens, side, translator.recipe, Silent())()
        for side in (pairs, spaced)
    )
    assert plain == other
    assert plain["exact"] > 0


def test_the_examples_of_the_demo_are_judged_the_same_way(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    pairs = [("one two", "un  deux "), ("three", "trois ")]
    monkeypatch.setattr(demo, "test_pairs", lambda data: pairs)
    demo._show_examples(translator, tmp_path / "t.npz", tmp_path / "t.png")
    assert "✗" not in capsys.readouterr().out


def test_training_says_how_it_compares(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tiny.recipe_in(tmp_path), tmp_path / "run", changes=["train.steps=1"])
    assert "compared in Unicode NFC, runs of spaces as one, no space at the ends" in capsys.readouterr().err
