"""Word alignments from attention beside those of IBM model 2, which reads nothing but pairs of sentences.

    python benchmarks/alignment_agreement.py RUN --source test.en --target test.fr \\
        --train-source train.en --train-target train.fr [--head N]...

Model 2 in the form of Dyer et al. 2013: positions near the diagonal are likely, exp(-TENSION |i/I - j/J|),
and a target word has none in the source with probability NULL.  It is trained in both directions on the
training and test pairs together, in lower case and without punctuation at the ends of words.  The alignment
from attention is scored as if model 2 were gold: links that both directions share are sure, the others of
grow-diag-final-and are possible.  The row "diagonal" links every target word to the source word in the same
place.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markdown_tables import Table, format_markdown

import qkv
from qkv.data.lines import read_lines
from qkv.task.translate.aligner import AlignOptions, align_pairs, list_readings
from qkv.task.translate.links import AlignmentScore, Gold, Links, score_links, symmetrise

ITERATIONS, TENSION, NULL = 6, 4.0, 0.08
Pair = tuple[str, str]


class Cells(NamedTuple):
    """All pairs of a source and a target word of one sentence pair, of all sentence pairs, flattened.

    Args:
        pair: the number of the pair of word types.
        target: the number of the target word within the corpus.
        prior: the probability of the position.
        source_type: the number of the source word's type; 0 is none.
    """

    pair: np.ndarray
    target: np.ndarray
    prior: np.ndarray
    source_type: np.ndarray


def train_model_2(pairs: Sequence[Pair]) -> list[Links]:
    """The links (source word, target word) of the most likely alignment of every pair."""
    cells = _list_cells(pairs)
    count = int(cells.pair.max()) + 1
    types = np.zeros(count, np.int64)
    types[cells.pair] = cells.source_type
    table = np.ones(count)
    for _ in range(ITERATIONS):
        posterior = table[cells.pair] * cells.prior
        posterior /= np.bincount(cells.target, posterior)[cells.target]
        counts = np.bincount(cells.pair, posterior, count)
        table = counts / np.bincount(types, counts)[types]
    return list(_read_links(pairs, table[cells.pair] * cells.prior))


def _list_cells(pairs: Sequence[Pair]) -> Cells:
    """The first column of every sentence pair is the word that stands for none."""
    source_ids: dict[str, int] = {}
    target_ids: dict[str, int] = {}
    sources, targets, words, priors, first = [], [], [], [], 0
    for source, target in pairs:
        ids = [0, *(source_ids.setdefault(_normalise(word), len(source_ids) + 1) for word in source.split())]
        others = [target_ids.setdefault(_normalise(word), len(target_ids)) for word in target.split()]
        sources.append(np.tile(ids, len(others)))
        targets.append(np.repeat(others, len(ids)))
        words.append(np.repeat(np.arange(first, first + len(others)), len(ids)))
        priors.append(_compute_prior(len(ids) - 1, len(others)).ravel())
        first += len(others)
    source_type, target_type = np.concatenate(sources), np.concatenate(targets)
    _, pair = np.unique(source_type * len(target_ids) + target_type, return_inverse=True)
    return Cells(pair, np.concatenate(words), np.concatenate(priors), source_type)


def _normalise(word: str) -> str:
    return word.lower().strip(".,;:!?\"'()«»-") or word


def _compute_prior(source: int, target: int) -> np.ndarray:
    """[target, 1 + source]: the probability of every position, none first."""
    i, j = (np.arange(source) + 0.5) / max(source, 1), (np.arange(target) + 0.5) / max(target, 1)
    near = np.exp(-TENSION * np.abs(j[:, None] - i[None]))
    near *= (1 - NULL) / np.maximum(near.sum(1, keepdims=True), 1e-9)
    return np.concatenate([np.full((target, 1), NULL), near], axis=1)


def _read_links(pairs: Sequence[Pair], scores: np.ndarray) -> Iterator[Links]:
    start = 0
    for source, target in pairs:
        rows, columns = len(target.split()), len(source.split()) + 1
        best = scores[start : start + rows * columns].reshape(rows, columns).argmax(1)
        start += rows * columns
        yield frozenset((int(i) - 1, j) for j, i in enumerate(best) if i > 0)


def combine_directions(pairs: Sequence[Pair]) -> list[Gold]:
    """The alignments of model 2: common links of both directions are sure, those of grow-diag possible."""
    forward = train_model_2(pairs)
    backward = [
        frozenset((i, j) for j, i in links)
        for links in train_model_2([(target, source) for source, target in pairs])
    ]
    return [Gold(one & other, symmetrise(one, other)) for one, other in zip(forward, backward, strict=True)]


def link_diagonal(pair: Pair) -> Links:
    """Every target word beside the source word in the same place."""
    source, target = (len(text.split()) for text in pair)
    return frozenset((min(source - 1, int((j + 0.5) / target * source)), j) for j in range(target) if source)


def compare(
    run: Path, test: Sequence[Pair], train: Sequence[Pair], heads: Sequence[int]
) -> list[tuple[str, AlignmentScore]]:
    """The rows of the table: every layer at both steps, the choice of `qkv align`, and the diagonal."""
    gold = combine_directions([*train, *test])[len(train) :]
    translator = qkv.load(run)
    chosen = align_pairs(translator, test, AlignOptions())
    rows = [(f"`qkv align`: {chosen.reading}", chosen.links)]
    for reading in list_readings(translator, AlignOptions()):
        for head in (None, *heads):
            options = AlignOptions(reading.layer, head, reading.is_shifted)
            name = f"{reading}, {'mean of heads' if head is None else f'head {head}'}"
            rows.append((name, align_pairs(translator, test, options).links))
    rows.append(("diagonal", [link_diagonal(pair) for pair in test]))
    return [(name, score_links(links, gold)) for name, links in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a trained translator")
    for name in ("--source", "--target", "--train-source", "--train-target"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument(
        "--head", type=int, action="append", help="also read this head alone; may be repeated"
    )
    options = parser.parse_args(arguments)
    test, train = (
        list(zip(read_lines(source), read_lines(target), strict=True))
        for source, target in (
            (options.source, options.target),
            (options.train_source, options.train_target),
        )
    )
    scores = compare(options.run, test, train, options.head or [])
    rows = [(name, *(f"{100 * value:.1f} %" for value in score)) for name, score in scores]
    columns = ("alignment", "error rate", "precision", "recall")
    print("\n".join(format_markdown(Table("Agreement with IBM model 2", columns, rows))))


if __name__ == "__main__":
    main()
