"""The task `classify`: from labelled texts to a classifier."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qkv.data.batching import BatchPlan
from qkv.errors import BadData, BadRun
from qkv.model.classifier import Classifier
from qkv.model.hierarchical import HierarchicalClassifier, HierarchicalConfig
from qkv.progress import Progress, show_progress
from qkv.task.base import Task, Training
from qkv.task.checksums import digest_lines, name_split
from qkv.task.classify.classifier import TextClassifier, make_validator
from qkv.task.classify.documents import (
    Document,
    Documents,
    check_text_count,
    list_classes,
    read_splits,
    read_test_documents,
)
from qkv.task.classify.encoding import Encoded, describe_limits, encode_documents, make_dataset
from qkv.task.classify.recipe import ClassificationRecipe
from qkv.task.evaluation import Answers, AnswersTestData, EvaluateOptions, Evaluation
from qkv.task.initial_run import InitialRun
from qkv.task.texts import (
    AnyTokenizer,
    learn_tokenizer,
    measure_unknown_share,
    tokenizer_from_json,
    tokenizer_to_json,
)
from qkv.train.objective.classification import Classification
from qkv.wording import plural

TOKENIZER, LABELS = "tokenizer.json", "labels.json"


class Parsed(NamedTuple):
    """The vocabulary, the names of the classes, and how many texts a document has: 1, or 2 for pairs."""

    tokenizer: AnyTokenizer
    classes: list[str]
    texts: int


class Classify(Task, AnswersTestData):
    """Classifiers of texts and of pairs of texts."""

    name = "classify"
    recipe = ClassificationRecipe
    files = (TOKENIZER, LABELS)
    vocabulary_files = (TOKENIZER,)
    initial_tasks = ("fill",)
    evaluate_options = ("data",)
    label_sections = ("model", "tokens", "objective", "train")
    resume_keys = (
        "data.holdout",
        "data.labels",
        "data.long_texts",
        "data.listops",
        "tokens",
        "batch",
        "model",
        "objective",
        "validation.monitor",
    )

    def read_data(self, recipe: ClassificationRecipe, report: Progress) -> Documents:
        """The training and the held-out documents."""
        return read_splits(recipe.data, recipe.train.seed)

    def compute_fingerprint(self, data: Documents) -> dict[str, dict[str, Any]]:
        """The number and a digest of the documents of both splits."""
        return {
            f"{split}.documents": {
                "lines": len(documents),
                "digest": digest_lines(map(_format_document, documents)),
            }
            for split, documents in data._asdict().items()
        }

    def name_data_part(self, part: str, recipe: ClassificationRecipe) -> str:
        """What a user calls the documents of a split."""
        if recipe.data.listops is not None:
            return "data.listops"
        return name_split(part, has_valid=recipe.data.valid is not None)

    def learn_files(
        self, recipe: ClassificationRecipe, data: Documents, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The tokenizer and the classes, from the training documents."""
        labels = {"classes": _list_classes(recipe, data.train), "texts": len(data.train[0].texts)}
        files = {LABELS: json.dumps(labels).encode(), **vocabulary}
        if not vocabulary:
            lines = [line for document in data.train for text in document.texts for line in text.split("\n")]
            files[TOKENIZER] = tokenizer_to_json(learn_tokenizer(lines, recipe.tokens)).encode()
        return {name: files[name] for name in self.files}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> Parsed:
        """The vocabulary and the classes."""
        try:
            labels = json.loads(contents[LABELS])
            classes, texts = [str(name) for name in labels["classes"]], int(labels["texts"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadRun(f"{run / LABELS} is damaged ({error}): restore it from a copy") from None
        return Parsed(tokenizer_from_json(contents[TOKENIZER], run / TOKENIZER), classes, texts)

    def measure_unknown_share(self, data: Documents, parsed: Parsed) -> float:
        """The share of unknown tokens in the training documents."""
        texts = [text for document in data.train for text in document.texts]
        return measure_unknown_share(texts, parsed.tokenizer)

    def build_training(
        self, recipe: ClassificationRecipe, data: Documents, parsed: Parsed, report: Progress
    ) -> Training:
        """Wire the training; reports sizes, classes and cut documents."""
        check_text_count(data.valid, parsed.texts, "held-out document")
        train, valid = (
            encode_documents(documents, parsed.tokenizer, parsed.classes, recipe) for documents in data
        )
        if unknown := sorted({document.label for document in data.valid} - set(parsed.classes)):
            raise BadData(f"no training text has the label {unknown[0]!r} of a held-out text")
        batches = BatchPlan(make_dataset(train), recipe.batch, recipe.train.seed)
        torch.manual_seed(recipe.train.seed)
        model = self.build_model(recipe, parsed)
        size = sum(parameter.numel() for parameter in model.parameters())
        report.print_line(
            f"{len(data.train):,} documents to train on, {len(data.valid):,} held out; "
            f"{len(parsed.classes):,} classes; vocabulary {parsed.tokenizer.size:,}; {size:,} parameters; "
            f"{plural(batches.steps(0), 'update')} an epoch"
        )
        for name, encoded in (("training", train), ("held-out", valid)):
            for line in _describe_bounded(name, encoded, recipe):
                report.print_line(line)
        runner = TextClassifier(recipe, parsed.tokenizer, parsed.classes, model)
        validate = make_validator(
            runner.evaluate, data.valid, lambda: runner.trace_short(valid, recipe.validation.attention)
        )
        return Training(
            Classification(model, recipe.objective.smoothing), batches, validate, recipe.validation.monitor
        )

    def list_usable_prefixes(self, parsed: Parsed, initial: InitialRun) -> tuple[str, ...]:
        """The encoder; of a classifier everything, but its output layer only for the same classes."""
        if initial.recipe.task != self.name:
            return ("encoder.",)
        has_same_output = (parsed.classes, parsed.texts) == (initial.parsed.classes, initial.parsed.texts)
        return ("",) if has_same_output else ("encoder.", "pool.", "embedding.", "words.", "sentences.")

    def build_model(self, recipe: ClassificationRecipe, parsed: Parsed) -> nn.Module:
        """The model for the vocabulary and the classes of this run."""
        sizes = parsed.tokenizer.size, len(parsed.classes), parsed.texts
        if isinstance(recipe.model, HierarchicalConfig):
            return HierarchicalClassifier(recipe.model, *sizes)
        return Classifier(recipe.model, *sizes)

    def build_runner(self, recipe: ClassificationRecipe, parsed: Parsed, model: nn.Module) -> TextClassifier:
        """A classifier of texts."""
        return TextClassifier(recipe, parsed.tokenizer, parsed.classes, model)

    def read_test_data(self, recipe: ClassificationRecipe, options: EvaluateOptions) -> list[Document]:
        """The labelled documents to score."""
        return read_test_documents(recipe, options.data)

    def evaluate(
        self, runner: TextClassifier, data: list[Document], options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """Accuracy, nats per label, F1, the fraction of the commonest class, and how many texts were cut."""
        with show_progress("evaluate", len(data), quiet=quiet) as bar:
            scores = runner.evaluate(data, on_progress=bar.update)
        cut = int(scores.pop("cut"))
        number = plural(cut, "document was", "documents were")
        notes = (f"{number} cut after {describe_limits(runner.recipe)}",) if cut else ()
        return Evaluation(scores, len(data), "documents", notes=notes, digits=4)

    def answer_test_data(self, runner: TextClassifier, data: list[Document]) -> Answers:
        """The labels of the test data."""
        texts = [each.texts[0] if len(each.texts) == 1 else tuple(each.texts) for each in data]
        labels: Any = runner.classify(iter(texts))
        return Answers(texts, [each.label for each in data], [each.label for each in labels])

    def suggest_commands(self, run: Path) -> str:
        """Classify a text, or score the run."""
        return f"echo '...' | qkv classify {run}    or: qkv evaluate {run}"


CLASSIFY = Classify()


def _describe_bounded(name: str, encoded: Encoded, recipe: ClassificationRecipe) -> Iterator[str]:
    """How many documents are cut, and how many sentences are split, where there are any."""
    if encoded.cut:
        fraction = len(encoded.cut) / len(encoded.labels)
        yield (
            f"{plural(len(encoded.cut), f'{name} document')} ({fraction:.0%}) cut after "
            f"{describe_limits(recipe)}"
        )
    if encoded.documents is not None:
        long = int((np.bincount(encoded.documents) > 1).sum())
        yield (
            f"{plural(long, f'{name} document is', f'{name} documents are')} longer than "
            f"{describe_limits(recipe)}: {len(encoded.labels):,} windows in all"
        )
    if encoded.splits and isinstance(recipe.model, HierarchicalConfig):
        yield (
            f"{plural(encoded.splits, 'sentence')} of {name} documents with more than "
            f"{recipe.model.max_sentence_length:,} tokens split into several"
        )


def _format_document(document: Document) -> str:
    return json.dumps([document.label, *document.texts])


def _list_classes(recipe: ClassificationRecipe, documents: list[Document]) -> list[str]:
    """The classes of the documents; generated expressions have all digits, whichever were drawn."""
    return list(map(str, range(10))) if recipe.data.listops is not None else list_classes(documents)
