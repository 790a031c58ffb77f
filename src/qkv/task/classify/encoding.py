"""Documents as token ids, bounded in length, and as batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.batching import Dataset, Ragged
from qkv.data.sentences import split_sentences
from qkv.errors import BadData
from qkv.model.hierarchical import HierarchicalConfig
from qkv.symbols import BOS, PAD
from qkv.task.classify.documents import Document
from qkv.task.classify.recipe import ClassificationRecipe
from qkv.task.texts import AnyTokenizer
from qkv.wording import plural


class LabelledBatch(NamedTuple):
    """Texts as token ids, their masks, and the numbers of their classes.

    A text is [B,N] behind a start symbol, or, in sentences, [B,S,N] without one.
    """

    tokens: list[Int64[Tensor, "B ..."]]
    keep: list[Bool[Tensor, "B ..."]]
    labels: Int64[Tensor, "B"]

    @property
    def inputs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The arguments of a classifier."""
        return self.tokens, self.keep

    def to(self, device: Any) -> "LabelledBatch":
        """The batch on another device."""
        tokens, keep = ([x.to(device) for x in part] for part in (self.tokens, self.keep))
        return LabelledBatch(tokens, keep, self.labels.to(device))


class Encoded(NamedTuple):
    """Documents as token ids.

    Args:
        texts: for the first and perhaps the second texts, the ids of every document, or of every window.
        labels: the number of the class of every document or window; -1 where it is unknown.
        cut: numbers of the documents, from 1, of which the end is not read.
        sentences: for the first and perhaps the second texts, the lengths of the sentences of every document;
            None where the model reads no sentences.
        splits: how many sentences were longer than the model reads, and became several.
        documents: where long documents are read in windows, the number of the document of every window, from
            0 and in order; None where a document is one row.
    """

    texts: list[list[list[int]]]
    labels: list[int]
    cut: list[int]
    sentences: list[list[list[int]]] | None = None
    splits: int = 0
    documents: np.ndarray | None = None

    def average(self, log_probs: np.ndarray) -> np.ndarray:
        """The log-probabilities [N,C] of documents: the mean probability over the windows of each.

        Args:
            log_probs: [rows,C].
        """
        if self.documents is None:
            return log_probs
        starts = np.flatnonzero(np.diff(self.documents, prepend=-1))
        sums = np.logaddexp.reduceat(log_probs, starts, axis=0)
        return sums - np.log(np.bincount(self.documents))[:, None]

    def find_unknown(self, tokenizer: AnyTokenizer) -> set[int]:
        """Numbers of the documents, from 1, of which the vocabulary knows no token: empty ones among them.

        Args:
            tokenizer: the vocabulary; white space is not a token that it knows.
        """
        rows = range(len(self.labels))
        documents = rows if self.documents is None else self.documents.tolist()
        known = {
            document
            for document, row in zip(documents, rows, strict=True)
            if any(tokenizer.count_known(column[row]) for column in self.texts)
        }
        return {document + 1 for document in documents if document not in known}

    def select(self, number: int) -> "Encoded":
        """One document alone, counted from 0."""
        texts, sentences = (
            None if columns is None else [[column[number]] for column in columns]
            for columns in (self.texts, self.sentences)
        )
        return Encoded(texts or [], [self.labels[number]], [], sentences)


class _Text(NamedTuple):
    ids: list[int]
    sentences: list[int]
    is_cut: bool
    splits: int


def encode_documents(
    documents: Sequence[Document],
    tokenizer: AnyTokenizer,
    classes: Sequence[str],
    recipe: ClassificationRecipe,
) -> Encoded:
    """The token ids of documents, at most as much of each as the recipe says.

    Raises:
        BadData: pairs of texts are to be read in windows.
    """
    if recipe.data.long_texts == "windows":
        return _encode_windows(documents, tokenizer, classes, recipe.batch.max_length)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers.get(document.label, -1) for document in documents]
    model = recipe.model if isinstance(recipe.model, HierarchicalConfig) else None
    columns = [
        _encode_texts(
            [document.texts[i] for document in documents], tokenizer, recipe.batch.max_length, model
        )
        for i in range(len(documents[0].texts) if documents else 1)
    ]
    cut = {number for texts in columns for number, text in enumerate(texts, start=1) if text.is_cut}
    return Encoded(
        [[text.ids for text in texts] for texts in columns],
        labels,
        sorted(cut),
        None if model is None else [[text.sentences for text in texts] for texts in columns],
        sum(text.splits for texts in columns for text in texts),
    )


def _encode_windows(
    documents: Sequence[Document], tokenizer: AnyTokenizer, classes: Sequence[str], length: int
) -> Encoded:
    """The pieces of `length` tokens of every document; a document without a token is one empty piece."""
    if documents and len(documents[0].texts) > 1:
        raise BadData(
            "data.long_texts=windows reads single texts, and these are pairs: which windows belong together "
            "is not known. Write data.long_texts=cut"
        )
    rows = tokenizer.encode([document.texts[0] for document in documents])
    windows = [[row[start : start + length] for start in range(0, max(1, len(row)), length)] for row in rows]
    counts = [len(pieces) for pieces in windows]
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers.get(document.label, -1) for document in documents]
    return Encoded(
        [[piece for pieces in windows for piece in pieces]],
        np.repeat(labels, counts).astype(int).tolist(),
        [],
        documents=np.repeat(np.arange(len(documents)), counts),
    )


def make_dataset(encoded: Encoded) -> Dataset[LabelledBatch]:
    """The rows of training and evaluation batches."""
    columns, labels = [Ragged(column) for column in encoded.texts], np.asarray(encoded.labels)
    if encoded.sentences is None:
        positions = np.maximum.reduce([column.lengths for column in columns]) + 1
        return Dataset([*columns, labels], _collate_texts, positions=positions, row_name="document")
    sentences = [Ragged(column) for column in encoded.sentences]
    longest = max((int(column.flat.max()) for column in sentences if len(column.flat)), default=1)
    # every sentence counts as the longest one: an upper bound of what any batch is padded to
    positions = np.maximum(np.maximum.reduce([column.lengths for column in sentences]), 1) * longest
    return Dataset(
        [*columns, *sentences, labels], _collate_sentences, positions=positions, row_name="document"
    )


def describe_limits(recipe: ClassificationRecipe) -> str:
    """How much of a document is read, in words."""
    tokens = plural(recipe.batch.max_length, "token")
    if isinstance(recipe.model, HierarchicalConfig):
        return f"{tokens} or {plural(recipe.model.max_sentences, 'sentence')}"
    return tokens


def _encode_texts(
    texts: Sequence[str], tokenizer: AnyTokenizer, max_length: int, model: HierarchicalConfig | None
) -> list[_Text]:
    # as much of a text as max_length tokens can need, and a little more
    limit = max(10_000, 100 * max_length)
    beginnings = [text[:limit] for text in texts]
    if model is not None:
        encoded = [
            _bound_sentences(tokenizer.encode(split_sentences(text)), max_length, model)
            for text in beginnings
        ]
    else:
        rows = tokenizer.encode(beginnings)
        encoded = [_Text(row[:max_length], [], len(row) > max_length, 0) for row in rows]
    return [
        each._replace(is_cut=each.is_cut or len(text) > limit)
        for each, text in zip(encoded, texts, strict=True)
    ]


def _bound_sentences(rows: list[list[int]], max_length: int, model: HierarchicalConfig) -> _Text:
    """The ids and the lengths of sentences: long ones become several, and what exceeds a bound is cut."""
    ids, lengths, splits, longest = [], [], 0, model.max_sentence_length
    for row in rows:
        remaining = min(len(row), max_length - len(ids))
        pieces = [row[start : min(start + longest, remaining)] for start in range(0, remaining, longest)]
        pieces = pieces[: model.max_sentences - len(lengths)]
        splits += len(pieces) > 1
        lengths += map(len, pieces)
        ids += (token for piece in pieces for token in piece)
    return _Text(ids, lengths, len(ids) < sum(map(len, rows)), splits)


def _collate_texts(*columns: Sequence[Any]) -> LabelledBatch:
    *texts, labels = columns
    return _make_batch([_pad_texts(rows) for rows in texts], labels)


def _collate_sentences(*columns: Sequence[Any]) -> LabelledBatch:
    *parts, labels = columns
    texts, sentences = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    return _make_batch([_pad_sentences(*pair) for pair in zip(texts, sentences, strict=True)], labels)


def _make_batch(padded: list[tuple[Tensor, Tensor]], labels: Sequence[Any]) -> LabelledBatch:
    numbers = torch.tensor([int(label) for label in labels])
    return LabelledBatch([tokens for tokens, _ in padded], [keep for _, keep in padded], numbers)


def _pad_texts(rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows) + 1
    tokens = np.full((len(rows), longest), PAD, np.int64)
    tokens[:, 0] = BOS
    for number, row in enumerate(rows):
        tokens[number, 1 : 1 + len(row)] = row
    lengths = np.array([len(row) + 1 for row in rows])
    return torch.from_numpy(tokens), torch.from_numpy(np.arange(longest) < lengths[:, None])


def _pad_sentences(rows: Sequence[Any], sentences: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B,S,N]; a document without a token has one empty sentence."""
    most = max([1, *map(len, sentences)])
    table = np.zeros((len(rows), most), np.int64)
    for number, lengths in enumerate(sentences):
        table[number, : len(lengths)] = lengths
    keep = np.arange(max(1, table.max())) < table[..., None]
    tokens = np.full(keep.shape, PAD, np.int64)
    tokens[keep] = np.concatenate(rows)
    return torch.from_numpy(tokens), torch.from_numpy(keep)
