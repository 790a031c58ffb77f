"""Metrics of captions with several references: BLEU-1 to 4 by sacrebleu, CIDEr-D, ROUGE-L and exact match.

CIDEr-D (Vedantam et al. 2015, section 5 and eq. 8) compares n-grams by their count times log(pictures /
pictures with the n-gram in a reference), with counts clipped to those of the reference:

    10 / 4 Σ_n mean_j exp(-(l_c - l_j)² / (2 · 6²)) Σ min(g_c, g_j) g_j / (|g_c| |g_j|)

ROUGE-L (Lin 2004, section 3) is F = (1 + β²) P R / (R + β² P) with β = 1.2, P and R being the longest common
subsequence over the length of the caption and of the reference, each at its best reference.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from qkv.errors import BadData
from qkv.wording import plural

LARGEST_N = 4
_SIZES = range(1, LARGEST_N + 1)
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2
Words = tuple[str, ...]
References = Sequence[Sequence[str]]
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class CaptionScores(NamedTuple):
    """Scores of captions.

    Args:
        scores: bleu1 to bleu4, rouge_l and exact in percent, and cider times 100, as papers print it.
        signature: how sacrebleu computed BLEU-4.
    """

    scores: dict[str, float]
    signature: str


def split_words(caption: str) -> Words:
    """The words of a caption in lower case, without punctuation.

    Args:
        caption: the text.
    """
    return tuple(_WORD.findall(unicodedata.normalize("NFC", caption).lower()))


def score_captions(captions: Sequence[str], references: References) -> CaptionScores:
    """All metrics of captions; words are compared in lower case and without punctuation.

    Args:
        captions: a caption of every picture.
        references: one right caption or more of every picture.

    Raises:
        BadData: the numbers of pictures differ, or a picture has no reference.

    Example:
        >>> result = score_captions(["a red circle", "a blue star"], [["A red circle."], ["the blue star"]])
        >>> {name: round(score, 1) for name, score in result.scores.items() if name in ("bleu1", "exact")}
        {'bleu1': 83.3, 'exact': 50.0}
    """
    check_references(captions, references)
    candidates = [split_words(caption) for caption in captions]
    right = [[split_words(text) for text in texts] for texts in references]
    bleu, signature = _compute_bleu(candidates, right)
    exact = [float(words in texts) for words, texts in zip(candidates, right, strict=True)]
    scores = {
        **bleu,
        "cider": 100 * _mean(compute_cider(candidates, right)),
        "rouge_l": 100 * _mean([compute_rouge(*pair) for pair in zip(candidates, right, strict=True)]),
        "exact": 100 * _mean(exact),
    }
    return CaptionScores(scores, signature)


def check_references(captions: Sequence[str], references: References) -> None:
    """Raise BadData if there is no caption, their numbers differ, or a picture has no reference."""
    if len(captions) != len(references) or not captions:
        raise BadData(
            f"{plural(len(captions), 'caption')} and the references of "
            f"{plural(len(references), 'picture')}: give one caption and one reference or more of every "
            "picture"
        )
    for number, texts in enumerate(references, start=1):
        if not any(split_words(text) for text in texts):
            raise BadData(f"picture {number} has no reference with a word: at least one is needed")


def compute_cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of every caption, from 0 to 10.

    How rare an n-gram is follows from these references: with one picture every score is 0.

    Args:
        captions: the words of a caption of every picture.
        references: the words of the right captions of every picture.
    """
    frequency: Counter[Words] = Counter()
    for texts in references:
        frequency.update({gram for words in texts for n in _SIZES for gram in _count_grams(words, n)})
    pictures, scores = math.log(max(len(references), 1)), []
    for words, texts in zip(captions, references, strict=True):
        total = 0.0
        for n in _SIZES:
            candidate = _weigh_grams(words, n, frequency, pictures)
            for text in texts:
                penalty = math.exp(-((len(words) - len(text)) ** 2) / (2 * CIDER_SIGMA**2))
                total += penalty * _compare(candidate, _weigh_grams(text, n, frequency, pictures))
        scores.append(10 * total / (LARGEST_N * len(texts)))
    return scores


def compute_rouge(caption: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of a caption, from 0 to 1.

    Args:
        caption: its words.
        references: the words of the right captions.
    """
    common = [_count_longest_common_subsequence(caption, text) for text in references]
    precision = max(common) / max(len(caption), 1)
    recall = max(length / max(len(text), 1) for length, text in zip(common, references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _compute_bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[Any, str]:
    """BLEU-1 to 4 in percent, and the signature of BLEU-4."""
    from sacrebleu.metrics.bleu import BLEU

    lines = [" ".join(words) for words in captions]
    streams = list(zip_longest(*([" ".join(words) for words in texts] for texts in references)))
    scores, signature = {}, ""
    for n in _SIZES:
        metric: Any = BLEU(tokenize="none", max_ngram_order=n, force=True)
        scores[f"bleu{n}"] = metric.corpus_score(lines, streams).score
        signature = str(metric.get_signature())
    return scores, signature


def _count_grams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[i : i + n] for i in range(len(words) - n + 1))


def _weigh_grams(words: Words, n: int, frequency: Counter[Words], log_pictures: float) -> dict[Words, float]:
    """The count of every n-gram times log(pictures / pictures with it)."""
    counts = _count_grams(words, n).items()
    return {gram: count * (log_pictures - math.log(max(frequency[gram], 1))) for gram, count in counts}


def _compare(candidate: dict[Words, float], reference: dict[Words, float]) -> float:
    """Σ min(c, r) r / (|c| |r|); 0 where one of them is 0."""
    norms = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    shared = candidate.keys() & reference.keys()
    product = sum(min(candidate[gram], reference[gram]) * reference[gram] for gram in sorted(shared))
    return product / norms if norms else 0.0


def _count_longest_common_subsequence(a: Words, b: Words) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return row[-1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
