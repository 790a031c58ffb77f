"""Labelled texts: read from files, with their classes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qkv.data.generated.listops import Expression, ListOpsData, generate_listops
from qkv.data.lines import LONGEST_DOCUMENT, read_whole_lines
from qkv.data.text import detect_row_format, parse_json_row, refuse_half_surrogates
from qkv.errors import BadData
from qkv.task.classify.recipe import ClassificationRecipe, LabelledConfig, LabelledData
from qkv.task.data_source import select_balanced

MOST_CLASSES = 1000
MAX_SHOWN = 60
Text = str | tuple[str, ...]


class Document(NamedTuple):
    """A text, or a pair of texts, with its label.

    Args:
        texts: one text or two.
        label: the name of the class.
    """

    texts: tuple[str, ...]
    label: str


class Documents(NamedTuple):
    """The training and the held-out documents."""

    train: list[Document]
    valid: list[Document]


def read_documents(data: LabelledData) -> list[Document]:
    """The documents of a file, in its order.

    Raises:
        BadData: the file cannot be read, a line is no labelled text, or there is none.
    """
    documents = list(_iterate_rows(data))
    if not documents:
        raise BadData(f"{data.file} is empty: at least one labelled text is needed")
    return documents


def read_splits(config: LabelledConfig, seed: int) -> Documents:
    """The training and the held-out documents that a recipe names."""
    if config.listops is not None:
        return _generate_splits(config, config.listops)
    assert config.train is not None
    train = read_documents(config.train)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    if config.valid is not None:
        valid = read_documents(config.valid)
    else:
        count = min(config.holdout, len(train) // 10)
        if count == 0:
            raise BadData(f"{len(train)} texts are too few to hold any out: name a file as data.valid")
        valid, order = [train[i] for i in sorted(order[:count])], order[count:]
    chosen = (
        order
        if config.labels is None
        else select_balanced([each.label for each in train], order, config.labels)
    )
    return Documents([train[i] for i in sorted(chosen)], valid)


def read_test_documents(recipe: ClassificationRecipe, file: Path | None = None) -> list[Document]:
    """The documents of a file, of the recipe's test data, or the held-out ones where there is no test."""
    data = recipe.data
    if file is not None:
        keys = {} if data.train is None else data.train.model_dump(exclude={"file", "format"})
        return read_documents(LabelledData(file=str(file), **keys))
    if data.listops is not None:
        return _make_documents(generate_listops(data.listops).test)
    return read_documents(data.test) if data.test is not None else read_splits(data, recipe.train.seed).valid


def _generate_splits(config: LabelledConfig, listops: ListOpsData) -> Documents:
    splits = generate_listops(listops)
    train, valid = _make_documents(splits.train), _make_documents(splits.valid)
    if config.labels is not None:
        train = [
            train[i]
            for i in sorted(select_balanced([each.label for each in train], range(len(train)), config.labels))
        ]
    return Documents(train, valid)


def _make_documents(expressions: Iterable[Expression]) -> list[Document]:
    return [Document((each.text,), str(each.value)) for each in expressions]


def parse_texts(lines: Iterable[str], name: str, data: LabelledData, count: int) -> Iterator[Text]:
    """The texts of lines without labels.

    Lines of a file named .jsonl are JSON objects with the keys of `data`.  Other lines are texts, or, for a
    classifier of pairs, two texts with a tab between them.

    Args:
        lines: the lines.
        name: the path of the file, or what error messages call it.
        data: the keys.
        count: how many texts the classifier compares: 1, or 2 for pairs.

    Raises:
        BadData: a line has another form.
    """
    is_json = detect_row_format(name, "") == "jsonl"
    for number, line in enumerate(lines, start=1):
        location = f"{name}, line {number}"
        if is_json:
            texts = _read_json_texts(location, parse_json_row(location, line), data)
        else:
            texts = tuple(line.split("\t")) if count > 1 else (line,)
        if len(texts) != count:
            form = "text<tab>second text" if not is_json else f"an object with {count} texts"
            raise BadData(
                f"{location}: this run compares {count} texts, and the line has {len(texts)}: write {form}"
            )
        yield texts if count > 1 else texts[0]


def check_text_count(documents: Sequence[Document], expected: int, name: str) -> None:
    """Check that every document has as many texts as the classifier compares.

    Args:
        documents: the documents.
        expected: 1, or 2 for pairs.
        name: what the message calls them.

    Raises:
        BadData: a document has another number.
    """
    for number, document in enumerate(documents, start=1):
        if len(document.texts) != expected:
            raise BadData(
                f"this classifier reads {expected} text(s) at a time, but {name} {number} has "
                f"{len(document.texts)}: {'pass pairs' if expected > 1 else 'pass single texts'}"
            )


def list_classes(documents: Sequence[Document]) -> list[str]:
    """The names of the classes, sorted.

    Raises:
        BadData: there is a single class, or more than MOST_CLASSES.
    """
    counts = Counter(document.label for document in documents)
    if len(counts) < 2:
        raise BadData(f"every training text has the label {next(iter(counts))!r}: at least two are needed")
    if len(counts) > MOST_CLASSES:
        raise BadData(
            f"the training texts have {len(counts):,} different labels, more than {MOST_CLASSES:,}: is the "
            "label key right?"
        )
    return sorted(counts)


def _iterate_rows(data: LabelledData) -> Iterator[Document]:
    row_format, width = None if data.format == "auto" else data.format, None
    lines = read_whole_lines(data.file, "shorten the text", LONGEST_DOCUMENT)
    for number, line in enumerate(lines, start=1):
        row_format = row_format or detect_row_format(data.file, line)
        location = f"{data.file}, line {number}"
        parsed = (
            _parse_json(location, line, data) if row_format == "jsonl" else _parse_columns(location, line)
        )
        if not parsed.label.strip():
            raise BadData(f"{location}: the label is empty, expected the name of a class: label the text")
        width = width or len(parsed.texts)
        if len(parsed.texts) != width:
            raise BadData(f"{location}: {len(parsed.texts)} texts, but the lines before have {width}")
        yield parsed


def _parse_columns(location: str, line: str) -> Document:
    label, *texts = line.split("\t")
    if len(texts) not in (1, 2):
        raise BadData(
            f"{location}: a line is label<tab>text or label<tab>text<tab>second text, got "
            f"{line[:MAX_SHOWN]!r}"
        )
    return Document(tuple(texts), label.strip())


def _parse_json(location: str, line: str, data: LabelledData) -> Document:
    row = parse_json_row(location, line)
    texts = _read_json_texts(location, row, data)
    label = row.get(data.label_key)
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise BadData(
            f"{location}: '{data.label_key}' is {str(label)[:MAX_SHOWN]!r}, expected a string or a "
            "whole number"
        )
    return Document(texts, str(label).strip())


def _read_json_texts(location: str, row: Mapping[str, Any], data: LabelledData) -> tuple[str, ...]:
    texts: list[str] = []
    for key in [data.text_key, *([data.second_key] if data.second_key else [])]:
        text = row.get(key)
        if not isinstance(text, str):
            raise BadData(
                f"{location}: '{key}' is {str(text)[:MAX_SHOWN]!r}, expected text; keys are {sorted(row)}"
            )
        refuse_half_surrogates(location, key, text)
        texts.append(text)
    return tuple(texts)
