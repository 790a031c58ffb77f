"""The IBM model 2 that alignments from attention are compared with."""

import random
from typing import Any

import numpy as np
import pytest

from qkv.task.translate.links import score_links
from script_loading import load_script


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """benchmarks/alignment_agreement.py."""
    return load_script("benchmarks", "alignment_agreement")


def make_pairs(count: int) -> tuple[list[tuple[str, str]], list[frozenset[tuple[int, int]]]]:
    """Sentences of which every word has one translation, neighbours out of order, and their links."""
    generator = random.Random(0)
    pairs, links = [], []
    for _ in range(count):
        words = generator.sample(range(30), 6)
        order = list(range(6))
        for i in (0, 2, 4):
            if generator.random() < 0.5:
                order[i], order[i + 1] = order[i + 1], order[i]
        source = " ".join(f"S{word}" for word in words) + "."
        pairs.append((source, " ".join(f"t{words[i]}" for i in order)))
        links.append(frozenset((i, j) for j, i in enumerate(order)))
    return pairs, links


def test_model_2_finds_the_links_of_words_with_one_translation(benchmark: Any) -> None:
    pairs, links = make_pairs(200)
    assert benchmark.train_model_2(pairs) == links
    gold = benchmark.combine_directions(pairs)
    assert [each.sure for each in gold] == [each.possible for each in gold] == links
    diagonal = score_links([benchmark.link_diagonal(pair) for pair in pairs], gold).error_rate
    assert 0.4 < diagonal < 0.6


def test_a_word_without_a_translation_has_no_link(benchmark: Any) -> None:
    pairs, _ = make_pairs(200)
    pairs = [(source, f"{target} of") for source, target in pairs]
    assert all(j < 6 for links in benchmark.train_model_2(pairs) for _, j in links)


def test_positions_near_the_diagonal_are_likely_and_add_up_to_1(benchmark: Any) -> None:
    prior = benchmark._compute_prior(4, 3)
    assert prior.shape == (3, 5)
    assert prior.sum(1) == pytest.approx(np.ones(3))
    assert prior[0, 1:].argmax() == 0
    assert prior[2, 1:].argmax() == 3
    expected = np.exp(-benchmark.TENSION * np.abs(0.5 / 3 - (np.arange(4) + 0.5) / 4))
    assert prior[0, 1:] == pytest.approx((1 - benchmark.NULL) * expected / expected.sum())
