"""Metrics of captions against values worked out by hand from the papers' formulas; pointing on tiny grids."""

import math
from typing import Any

import numpy as np
import pytest

from qkv.data.generated.shapes import ShapesConfig, ShapesSplit
from qkv.data.pictures.boxes import find_cells_in_box, make_even_centres, spread_over_boxes
from qkv.errors import BadData
from qkv.task.caption.metrics import compute_cider, compute_rouge, score_captions, split_words
from qkv.task.caption.pointing import PointingCounts, add_counts, count_pointing

BOXES = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]])  # the upper left quarter, and the right half
RIGHT = [[split_words("a red circle")], [split_words("a blue star")]]


def test_cider_by_hand() -> None:
    """Of two pictures, "a" is in both and weighs nothing; every other n-gram weighs ln 2."""
    captions = [split_words("a red star"), split_words("a blue star")]
    # unigrams and bigrams share one of two, trigrams none; an equal caption has no n-gram of four words
    assert compute_cider(captions, RIGHT) == pytest.approx([10 / 4 * (1 / 2 + 1 / 2), 10 / 4 * 3])


def test_cider_clips_counts_and_punishes_length() -> None:
    caption = split_words("a red circle red circle")
    unigrams, bigrams, trigrams = 2 / math.sqrt(8 * 2), 2 / math.sqrt(6 * 2), 1 / math.sqrt(3)
    expected = 10 / 4 * math.exp(-(2**2) / 72) * (unigrams + bigrams + trigrams)
    assert compute_cider([caption, ()], RIGHT) == pytest.approx([expected, 0])


def test_cider_averages_over_references_and_needs_several_pictures() -> None:
    references = [[*RIGHT[0], ("nothing",)], RIGHT[1]]
    caption = RIGHT[0][0]
    assert compute_cider([caption, ()], references)[0] == pytest.approx(10 / 4 * 3 / 2)
    assert compute_cider([caption], [RIGHT[0]]) == [0]


@pytest.mark.parametrize(
    ("caption", "references", "expected"),
    [
        ("police kill the gunman", ["police killed the gunman"], 3 / 4),  # the example of the paper
        ("the gunman kill police", ["police killed the gunman"], 2 / 4),
        ("a b", ["a b c d"], 2.44 * 0.5 / (0.5 + 1.44)),
        ("a b c d", ["a b"], 2.44 * 0.5 / (1 + 1.44 * 0.5)),
        ("a b", ["b", "a b c d"], 1.0),  # precision of the second reference, recall of the first
        ("", ["a b"], 0.0),
    ],
)
def test_rouge_by_hand(caption: str, references: list[str], expected: float) -> None:
    score = compute_rouge(split_words(caption), [split_words(text) for text in references])
    assert score == pytest.approx(expected)


def test_bleu_takes_the_best_of_any_number_of_references() -> None:
    captions = ["A small red circle.", "a blue star"]
    references = [["a big circle", "one small red circle"], ["the blue star"]]
    scores = score_captions(captions, references).scores
    # unigrams: a, small, red, circle; blue, star of 7.  bigrams: small red, red circle; blue star of 5
    assert scores["bleu1"] == pytest.approx(100 * 6 / 7)
    assert scores["bleu2"] == pytest.approx(100 * math.sqrt(6 / 7 * 3 / 5))
    assert scores["bleu3"] == pytest.approx(100 * (6 / 7 * 3 / 5 * 1 / 3) ** (1 / 3))
    assert scores["exact"] == 0


def test_case_and_punctuation_do_not_count_but_words_do() -> None:
    references = [["Two dogs run, fast and far!", "dogs"], ["l'étoile d’un chien très noir"]]
    same = score_captions(["two dogs run fast and far", "L'e\u0301toile d’un chien très noir."], references)
    first = (
        10 / 4 * (4 + math.exp(-(5**2) / 72) / math.sqrt(6)) / 2
    )  # the second reference has one word of six
    assert same.scores == pytest.approx(
        {
            "cider": 100 * (first + 10) / 2,
            "rouge_l": 100,
            "exact": 100,
            **{f"bleu{n}": 100 for n in range(1, 5)},
        }
    )
    assert "tok:none" in same.signature
    other = score_captions(["two dogs run fast and near", ""], references)
    assert 0 < other.scores["rouge_l"] < 100
    assert other.scores["exact"] == 0


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [
        (["a"], [], "1 caption and the references of 0 pictures"),
        ([], [], "0 captions"),
        (["a", "b"], [["a"], []], "picture 2 has no reference"),
        (["a"], [["..."]], "picture 1 has no reference"),
    ],
)
def test_captions_without_references_are_refused(captions: Any, references: Any, message: str) -> None:
    with pytest.raises(BadData, match=message):
        score_captions(captions, references)


def test_cells_in_a_box_have_their_centre_in_it_and_there_is_always_one() -> None:
    cells = find_cells_in_box(np.array([0.0, 0.5, 0.7, 1.0]), make_even_centres(2, 4)).reshape(2, 4)
    assert cells.tolist() == [[False] * 4, [True, True, True, False]]
    narrow = find_cells_in_box(np.array([0.30, 0.95, 0.32, 1.0]), make_even_centres(2, 4)).reshape(2, 4)
    assert narrow.tolist() == [[False] * 4, [False, True, False, False]]
    assert find_cells_in_box(np.array([0.0, 0, 1, 1]), make_even_centres(3, 5)).all()


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0, 0.6, 1, 0.5), (-0.1, 0, 1, 1), (0, 0, 64, 64), (math.nan,) * 4]
)
def test_a_box_that_is_empty_or_outside_is_refused(box: Any) -> None:
    with pytest.raises(BadData, match="fractions from 0 to 1"):
        find_cells_in_box(np.array(box, float), make_even_centres(4, 4))


def test_targets_of_attention_are_uniform_in_the_box_of_the_named_object() -> None:
    targets = spread_over_boxes([None, 1, 0], BOXES, make_even_centres(2, 2))
    assert targets.tolist() == [[0, 0, 0, 0], [0, 0.5, 0, 0.5], [1, 0, 0, 0]]
    assert spread_over_boxes([], BOXES, make_even_centres(2, 2)).shape == (0, 4)
    with pytest.raises(BadData, match="names the object 2, but there are 2 boxes"):
        spread_over_boxes([2], BOXES, make_even_centres(2, 2))


def test_pointing_by_hand() -> None:
    weights = np.array([[0.9, 0.1, 0, 0], [0.4, 0.2, 0.1, 0.3], [0.1, 0.2, 0.3, 0.4], [0.6, 0.2, 0.1, 0.1]])
    counts = count_pointing(weights, [None, 1, 1, 0], BOXES, make_even_centres(2, 2))
    assert counts == pytest.approx(PointingCounts(3, 2, 0.5 + 0.6 + 0.6, 0.5 + 0.5 + 0.25))
    twice = add_counts([counts, counts, count_pointing(weights[:1], [None], BOXES, make_even_centres(2, 2))])
    assert twice.compute_scores() == pytest.approx(
        {"pointing": 200 / 3, "attention_mass": 170 / 3, "pointing_chance": 125 / 3}
    )
    assert all(math.isnan(value) for value in add_counts([]).compute_scores().values())
    with pytest.raises(BadData, match=r"\[4, 4\], but there are 3 words and 2 × 2 cells"):
        count_pointing(weights, [None, 1, 0], BOXES, make_even_centres(2, 2))


def test_the_boxes_of_generated_pictures_hold_what_the_words_name() -> None:
    """Attention that is uniform in the right boxes points at every object; in the other box at none."""
    split = ShapesSplit(ShapesConfig(size=32), "valid")
    right, wrong = [], []
    for i in range(20):
        example = split[i]
        for counts, named in (
            (right, example.named),
            (wrong, [n if n is None else 1 - n for n in example.named]),
        ):
            weights = spread_over_boxes(named, example.boxes, make_even_centres(8, 8))
            counts.append(count_pointing(weights, example.named, example.boxes, make_even_centres(8, 8)))
    assert add_counts(right).compute_scores()["pointing"] == 100
    assert add_counts(right).compute_scores()["attention_mass"] == pytest.approx(100)
    assert add_counts(wrong).compute_scores()["pointing"] == 0
    assert add_counts(right).words == sum(number is not None for i in range(20) for number in split[i].named)
