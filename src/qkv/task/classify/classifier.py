"""A trained classifier: texts in, labels and probabilities out, with scores and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from qkv.data.batching import iterate_by_length
from qkv.errors import BadData
from qkv.task.attention_measures import measure_examples
from qkv.task.classify.documents import Document, Text, check_text_count, parse_texts, read_test_documents
from qkv.task.classify.encoding import Encoded, describe_limits, encode_documents, make_dataset
from qkv.task.classify.occlusion import OCCLUSION, measure_occlusion
from qkv.task.classify.recipe import ClassificationRecipe, LabelledData
from qkv.task.classify.traces import LABEL, QUERY, TracedWeights, list_weights, make_axes, refuse_long_trace
from qkv.task.texts import AnyTokenizer
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Example, Trace

LONGEST_MEASURED = 1024  # tokens of a text whose weights are measured while training


class Label(NamedTuple):
    """The answer for one text.

    Args:
        label: the most likely class.
        probability: its probability.
        probabilities: class -> probability.
        is_cut: whether the text is longer than the recipe says, so that its end was not read.
        pieces: in how many pieces it was read (data.long_texts: windows).
        is_unknown: whether the text is empty or the vocabulary knows none of its tokens, so that the label
            says nothing about it.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    is_cut: bool = False
    pieces: int = 1
    is_unknown: bool = False


class TextClassifier:
    """A classifier with its tokenizer, its classes and its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        tokenizer: the vocabulary of the run.
        classes: the names of the classes.
        model: the trained model, in evaluation mode.
    """

    def __init__(
        self, recipe: ClassificationRecipe, tokenizer: AnyTokenizer, classes: Sequence[str], model: Any
    ) -> None:
        self.recipe, self.tokenizer, self.classes, self.model = recipe, tokenizer, list(classes), model

    @property
    def commands(self) -> tuple[str, ...]:
        """The command for a classifier."""
        return ("classify",)

    @property
    def reads_pictures(self) -> bool:
        """Whether its inputs are pictures."""
        return False

    @property
    def text_count(self) -> int:
        """How many texts it reads at a time: 1, or 2 where it compares pairs."""
        return 2 if self.model.output.in_features == 4 * self.model.config.width else 1

    def describe_limits(self) -> str:
        """How much of a text is read, in words."""
        return describe_limits(self.recipe)

    def parse_lines(self, lines: Iterable[str], name: str) -> list[Text]:
        """The texts of lines; see `parse_texts`.

        Args:
            lines: the lines.
            name: the path of their file, or what error messages call it.
        """
        data = self.recipe.data.train or LabelledData(file=name)
        return list(parse_texts(lines, name, data, self.text_count))

    def classify(self, texts: str | Iterable[Text]) -> Label | list[Label]:
        """The label of a text, or of every text; a pair of texts is a tuple.

        Args:
            texts: a string is one text.  What happens to texts longer than batch.max_length, the recipe says.

        Returns:
            A Label for a string, otherwise a list of them.

        Raises:
            BadData: a text is a pair where the classifier reads single texts, or the other way round.
        """
        encoded = self._encode([texts] if isinstance(texts, str) else list(texts))
        cut, unknown = set(encoded.cut), encoded.find_unknown(self.tokenizer)
        pieces = None if encoded.documents is None else np.bincount(encoded.documents).tolist()
        labels = [
            make_label(row, self.classes)._replace(
                is_cut=number in cut,
                pieces=1 if pieces is None else pieces[number - 1],
                is_unknown=number in unknown,
            )
            for number, row in enumerate(self._compute_log_probs(encoded), start=1)
        ]
        return labels[0] if isinstance(texts, str) else labels

    def evaluate(
        self,
        documents: Sequence[Document] | None = None,
        *,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> dict[str, float]:
        """Accuracy, nll and macro-averaged F1 on labelled documents, and the accuracy of the commonest class.

        Args:
            documents: labelled texts; None takes the recipe's test data, or its held-out data.
            on_progress: called with the number of documents, or windows of documents, that are scored.

        Raises:
            BadData: a label is not one of the classes.
        """
        documents = read_test_documents(self.recipe) if documents is None else documents
        check_text_count(documents, self.text_count, "document")
        unknown = sorted({document.label for document in documents} - set(self.classes))
        if unknown:
            raise BadData(f"no text of the training has the label {unknown[0]!r}; known: {self.classes}")
        encoded = encode_documents(documents, self.tokenizer, self.classes, self.recipe)
        labels = np.array([self.classes.index(document.label) for document in documents])
        scores = compute_scores(self._compute_log_probs(encoded, on_progress), labels)
        return scores | {"cut": float(len(encoded.cut))}

    def trace(self, texts: str | Iterable[Text], *, occlude: bool = False) -> Trace:
        """Where the attention of every layer, and of every pooling, goes in each text.

        The names of weights on the second text of a pair begin with "second.".  A model that reads sentences
        has weights "words.N.NAME" within sentence N, and "sentences.NAME" between sentences.
        Every window of a long text that is read in windows is an example.

        Args:
            texts: a string is one text; a pair of texts is a tuple.
            occlude: add how far the log-probability of the label falls without a word, for each word in turn.

        Raises:
            BadData: there is no text, or one is too long for a trace.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several:
            raise BadData("there is no text to trace")
        encoded = self._encode(several)
        traced = [self._trace_document(encoded, row, occlude) for row in range(len(encoded.labels))]
        layers = {OCCLUSION, *find_unnormalised(self.model)}
        unnormalised = {each.name for _, weights in traced for each in weights if each.layer in layers}
        examples = tuple(example for example, _ in traced)
        return Trace(examples, "classification", unnormalised=tuple(sorted(unnormalised)))

    def trace_short(self, encoded: Encoded, count: int) -> Iterator[Example]:
        """The attention on the first texts that have at most 1,024 tokens, or windows of them.

        Args:
            encoded: encoded texts.
            count: on so many.

        Yields:
            Their examples; none for a model without attention.
        """
        lengths = [max(len(column[row]) for column in encoded.texts) for row in range(len(encoded.labels))]
        short = [row for row, length in enumerate(lengths) if length <= LONGEST_MEASURED]
        if self.model.attention_layers():
            yield from (self._trace_document(encoded, row)[0] for row in short[:count])

    @torch.inference_mode()
    def _compute_log_probs(
        self, encoded: Encoded, on_progress: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """log-probabilities [N,C] in the order of the documents, averaged over the windows of each."""
        device = next(self.model.parameters()).device
        dataset, finished = make_dataset(encoded), 0
        scores = np.zeros((len(dataset), len(self.classes)), np.float64)
        for rows, batch in iterate_by_length(dataset, self.recipe.batch.batch_tokens):
            scores[rows] = self.model(*batch.to(device).inputs).double().log_softmax(-1).cpu().numpy()
            finished += len(rows)
            on_progress(finished)
        return encoded.average(scores)

    def _encode(self, texts: Sequence[Text]) -> Encoded:
        documents = [Document((text,) if isinstance(text, str) else tuple(text), "") for text in texts]
        check_text_count(documents, self.text_count, "text")
        return encode_documents(documents, self.tokenizer, self.classes, self.recipe)

    @torch.inference_mode()
    def _trace_document(
        self, encoded: Encoded, row: int, occlude: bool = False
    ) -> tuple[Example, list[TracedWeights]]:
        refuse_long_trace(encoded, row)
        one, number = encoded.select(row), row if encoded.documents is None else int(encoded.documents[row])
        batch = make_dataset(one).make_batch([0]).to(next(self.model.parameters()).device)
        classified = self.model.forward_with_weights(*batch.inputs)
        label = make_label(classified.scores[0].double().log_softmax(-1).cpu().numpy(), self.classes)
        traced = list(list_weights(one, classified.attended))
        if occlude:
            number_of_label = self.classes.index(label.label)
            traced += measure_occlusion(
                one, self.tokenizer, lambda rows: self._compute_log_probs(rows)[:, number_of_label]
            )
        axes = {**make_axes(one, self.tokenizer), LABEL: (label.label,), QUERY: (QUERY,)}
        names = {name for each in traced for name in each.axes[:2]}
        example = Example(
            named_axes={name: axis for name, axis in axes.items() if name in names or name == LABEL},
            weights={each.name: each.values for each in traced},
            weight_axes={each.name: each.axes for each in traced},
            meta={"line": number + 1, "label": label.label, "probability": label.probability},
        )
        return example, traced


def make_label(log_probs: np.ndarray, classes: Sequence[str]) -> Label:
    """The most probable class, with the probabilities of all.

    Args:
        log_probs: [C].
        classes: the names of the C classes.
    """
    probabilities = dict(zip(classes, np.exp(log_probs).tolist(), strict=True))
    best = max(probabilities, key=probabilities.__getitem__)
    return Label(best, probabilities[best], probabilities)


def make_validator(
    evaluate: Callable[[Any], dict[str, float]], held_out: Any, trace: Callable[[], Iterable[Example]]
) -> Callable[[], dict[str, float]]:
    """The validation of a classifier in training: its accuracy and nll on held-out examples.

    Args:
        evaluate: computes the scores of labelled examples.
        held_out: the examples.
        trace: the attention on some of them, which is measured.
    """

    def validate() -> dict[str, float]:
        scores = evaluate(held_out)
        return {name: scores[name] for name in ("accuracy", "nll")} | measure_examples(trace())

    return validate


def compute_scores(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, nll, macro-averaged F1, and the accuracy of always guessing the commonest class.

    Args:
        log_probs: [N,C].
        labels: [N], numbers of the classes.
    """
    guesses = log_probs.argmax(1)
    counts = np.bincount(labels, minlength=log_probs.shape[1])
    f1 = []
    for number in np.flatnonzero(counts):
        hits = ((guesses == number) & (labels == number)).sum()
        f1.append(2 * hits / (counts[number] + (guesses == number).sum()))
    return {
        "accuracy": float((guesses == labels).mean()),
        "nll": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "f1": float(np.mean(f1)),
        "majority": float(counts.max() / len(labels)),
    }
