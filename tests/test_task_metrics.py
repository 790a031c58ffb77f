"""Scores do not depend on how a right translation is spelled in bytes: Unicode form, spaces, letter case."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import qkv
import tiny
from qkv.data import train_tokenizer
from qkv.errors import BadRecipe
from qkv.progress import NoProgress
from qkv.task.training import fit
from qkv.task.translate import demo
from qkv.task.translate.metric_choice import build_scorer
from qkv.task.translate.metrics import Scorer, check_tokenize
from qkv.task.translate.recipe import TranslationRecipe, ValidationConfig
from qkv.task.translate.translator import Translator
from qkv.task.translate.validator import Validator
from qkv.task.translate.writing_system import find_writing_system
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


def scoring_of(
    references: Sequence[str] = TARGETS, validation: dict[str, Any] | None = None, **tokens: Any
) -> Scorer:
    told: dict[str, Any] = {"data": {"train": {"file": "none"}}, "tokens": {"kind": "word", **tokens}}
    recipe = TranslationRecipe(**told, validation=ValidationConfig(**(validation or {})))
    return build_scorer(recipe, train_tokenizer(references, recipe.tokens), references)


@pytest.fixture(scope="module")
def translator() -> Translator:
    return qkv.load(tiny.trained())


@pytest.mark.parametrize("kind", ["word", "bpe", "char"])
@pytest.mark.parametrize("change", CHANGES)
def test_references_are_normalised_as_the_tokenizer_does(kind: str, change: str) -> None:
    changed = [CHANGES[change](target) for target in TARGETS]
    scoring = scoring_of(kind=kind)
    for translations, references in ((TARGETS, changed), (changed, TARGETS)):
        assert scoring.compute_scores(translations, references) == pytest.approx({**PERFECT, "ter": 0})
        report = scoring.report(translations, references, SOURCES)
        assert report.scores == pytest.approx({**PERFECT, "ter": 0})
        assert all(row["exact"] == 100 for row in report.buckets)
        assert all(map(scoring.is_match, translations, references))


def test_what_differs_still_differs() -> None:
    scoring = scoring_of()
    others = ["un deux trois quatre", "Çinq six", "septhüit nèuf dîx"]
    assert scoring.compute_scores(others, TARGETS)["exact"] == 0
    assert not any(map(scoring.is_match, others, TARGETS))


def test_a_model_in_lower_case_is_not_blamed_for_it() -> None:
    capitals = [target.upper() for target in TARGETS]
    scoring = scoring_of(lowercase=True)
    report = scoring.report(TARGETS, capitals, SOURCES)
    assert report.scores == pytest.approx({**PERFECT, "ter": 0})
    assert "case:lc" in report.signatures["bleu"]
    assert "lower case" in report.comparison
    cased = scoring_of().report(TARGETS, capitals, SOURCES)
    assert cased.scores["exact"] == 0
    assert "case:mixed" in cased.signatures["bleu"]
    assert "lower case" not in cased.comparison


@pytest.mark.parametrize("change", ["trailing", "double"])
def test_evaluation_and_validation_agree_on_other_spaces(translator: Translator, change: str) -> None:
    pairs = tiny.pairs_of(20, seed=1)
    spaced = [(source, CHANGES[change](target)) for source, target in pairs]
    assert translator.evaluate(spaced).scores == translator.evaluate(pairs).scores
    objective = Translation(translator.model, 0.0, translator.recipe.objective)
    plain, other = (
        Validator(objective, translator.tokens, side, translator.recipe, NoProgress())()
        for side in (pairs, spaced)
    )
    assert plain == other
    assert plain["exact"] > 0


def test_the_examples_of_the_demo_are_judged_the_same_way(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    pairs = [("one two", "un  deux "), ("three", "trois ")]
    monkeypatch.setattr(demo, "read_test_pairs", lambda data: pairs)
    demo._show_examples(translator, tmp_path / "t.npz", tmp_path / "t.png")
    assert "✗" not in capsys.readouterr().out


def test_training_says_how_it_compares(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tiny.recipe_in(tmp_path), tmp_path / "run", changes=["train.steps=1"])
    said = capsys.readouterr().err
    assert "BLEU by sacrebleu's tokeniser 13a (for a script with spaces between words)" in said
    assert "compared in Unicode NFC, runs of spaces as one, no space at the ends" in said


# ---- scripts ----

WITHOUT_SPACES = {
    "Chinese": ["今天天气很好，我们去公园散步吧。", "他在北京大学学习语言学。"],
    "Japanese": ["今日は天気がいいので公園を散歩しましょう。", "彼は東京の大学で言語学を勉強しています。"],
    "Korean": ["오늘은 날씨가 좋으니 공원을 산책합시다.", "그는 서울의 대학에서 언어학을 공부합니다."],
    "Thai script": ["วันนี้อากาศดีเราไปเดินเล่นที่สวนกันเถอะ", "เขาเรียนภาษาศาสตร์ที่มหาวิทยาลัย"],
    "Lao script": ["ມື້ນີ້ອາກາດດີພວກເຮົາໄປຍ່າງຫຼິ້ນ", "ລາວຮຽນພາສາສາດຢູ່ມະຫາວິທະຍາໄລ"],
    "Khmer script": ["ថ្ងៃនេះអាកាសធាតុល្អណាស់យើងទៅដើរលេង", "គាត់រៀនភាសាវិទ្យានៅសាកលវិទ្យាល័យ"],
    "Myanmar script": ["ဒီနေ့ရာသီဥတုကောင်းတယ်ပန်းခြံကိုသွားရအောင်", "သူတက္ကသိုလ်မှာဘာသာဗေဒသင်ယူနေသည်"],
}
BEST = {"Chinese": "zh", "Japanese": "ja-mecab", "Korean": "ko-mecab"}
SPACED = [
    "The cat sat on the mat.",
    "Кошка сидит на ковре.",
    "Η γάτα κάθεται.",
    "القطة تجلس على السجادة",
    "",
    "123 %",
]


def works(tokenize: str) -> bool:
    try:
        check_tokenize(tokenize)
    except BadRecipe:
        return False
    return True


@pytest.mark.parametrize("language", WITHOUT_SPACES)
def test_a_script_without_spaces_gets_a_tokeniser_that_sees_its_words(language: str) -> None:
    references = WITHOUT_SPACES[language]
    best = BEST.get(language, "char")
    scoring = scoring_of(references, kind="char")
    assert scoring.tokenize == (best if works(best) else "char")
    assert f"tokeniser {scoring.tokenize} (for {language}" in scoring.description
    assert scoring.tokenize == best or f"{best} needs pip install 'sacrebleu[" in scoring.description
    nearly = [line[:-2] + "x" for line in references]
    report = scoring.report(nearly, references, references)
    assert 40 < report.scores["bleu"] < 100
    assert f"tok:{scoring.tokenize}" in report.signatures["bleu"]
    by_words = scoring_of(references, {"tokenize": "13a"}, kind="char").compute_scores(nearly, references)
    assert language == "Korean" or by_words["bleu"] < 1


def test_ter_counts_characters_where_sacrebleu_can() -> None:
    for language in ("Chinese", "Japanese"):
        references = WITHOUT_SPACES[language]
        nearly = [line[:-2] + "x" for line in references]
        assert 0 < scoring_of(references, kind="char").compute_scores(nearly, references)["ter"] < 50


@pytest.mark.parametrize("line", SPACED)
def test_other_scripts_keep_13a(line: str) -> None:
    assert scoring_of([line, "a"], kind="char").tokenize == "13a"


def test_a_few_words_of_another_script_change_nothing() -> None:
    english = "The characters 北京 stand for Beijing, and 東京 for Tokyo, in most of the texts that we read."
    chinese = "我们在Linux系统上安装了PyTorch和CUDA，然后训练模型，结果比以前的实验好得多，速度也快。"
    assert find_writing_system([english]).tokenizers == ("13a",)
    assert find_writing_system([chinese]).tokenizers == ("zh",)
    assert find_writing_system(["東京タワーは東京都港区にある"]).language == "Japanese"


def test_a_tokeniser_in_the_recipe_is_taken_as_it_is() -> None:
    scoring = scoring_of(WITHOUT_SPACES["Chinese"], {"tokenize": "none"}, kind="char")
    assert scoring.tokenize == "none"
    assert "tokeniser none (as asked for)" in scoring.description


def test_sources_without_spaces_are_counted_in_characters() -> None:
    sources = WITHOUT_SPACES["Chinese"]
    report = scoring_of().report(TARGETS[:2], TARGETS[:2], sources)
    assert report.unit == "characters"
    assert [row["characters"] for row in report.buckets] == ["11–20"]


# ---- letter case and no-break spaces, where a recipe asks ----

FRENCH = ["Bonjour\u00a0! Ça va\u202f?", "Oui\u00a0: très bien."]


def test_case_and_no_break_spaces_count_unless_a_recipe_says_otherwise() -> None:
    plain = [line.replace("\u00a0", " ").replace("\u202f", " ") for line in FRENCH]
    lower = [line.lower() for line in FRENCH]
    for others in (plain, lower):
        assert scoring_of(FRENCH).compute_scores(others, FRENCH)["exact"] == 0
    spaced = scoring_of(FRENCH, {"plain_spaces": True})
    assert spaced.compute_scores(plain, FRENCH) == pytest.approx({**PERFECT, "ter": 0})
    assert "no-break spaces as plain ones" in spaced.description
    cased = scoring_of(FRENCH, {"lowercase": True}).report(lower, FRENCH, FRENCH)
    assert cased.scores == pytest.approx({**PERFECT, "ter": 0})
    assert all("case:lc" in signature for signature in cased.signatures.values())
    assert "lower case" in cased.comparison


@pytest.mark.parametrize("kind", ["word", "bpe", "char"])
def test_a_tokenizer_may_read_no_break_spaces_as_plain_ones(kind: str) -> None:
    plain = "Bonjour ! Ça va ?"
    for wanted, told in ((FRENCH[0], False), (plain, True)):
        recipe = TranslationRecipe(
            **{"data": {"train": {"file": "none"}}, "tokens": {"kind": kind, "plain_spaces": told}}
        )
        tokenizer = train_tokenizer(FRENCH, recipe.tokens)
        assert tokenizer.decode(tokenizer.encode([FRENCH[0]])[0]) == wanted
        assert tokenizer.normalise(FRENCH[0]) == wanted
        assert build_scorer(recipe, tokenizer, FRENCH).is_match(plain, FRENCH[0]) == told
