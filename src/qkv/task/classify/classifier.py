"""A trained classifier: texts in, labels and probabilities out, with scores and traces."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from qkv.data.batching import iterate_by_length
from qkv.errors import BadData
from qkv.task.classify.documents import (
    Document,
    Encoded,
    encode_documents,
    make_dataset,
    read_test_documents,
)
from qkv.task.classify.recipe import ClassificationRecipe
from qkv.task.texts import AnyTokenizer
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Example, Trace, WeightAxes

START = "<s>"
Text = str | tuple[str, str]


class Label(NamedTuple):
    """The answer for one text.

    Args:
        label: the most likely class.
        probability: its probability.
        probabilities: class -> probability.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


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
    def reads_pairs(self) -> bool:
        """Whether it compares two texts at a time."""
        return self.model.output.in_features == 4 * self.model.config.width

    def classify(self, texts: str | Iterable[Text]) -> Label | list[Label]:
        """The label of a text, or of every text; a pair of texts is a tuple.

        Args:
            texts: a string is one text.  Texts longer than the recipe's batch.max_length are cut.

        Returns:
            A Label for a string, otherwise a list of them.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        scores = self._compute_log_probs(self._encode(several))
        labels = [self._make_label(row) for row in scores]
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
            on_progress: called with the number of documents that are scored.

        Raises:
            BadData: a label is not one of the classes.
        """
        documents = read_test_documents(self.recipe) if documents is None else documents
        encoded = encode_documents(documents, self.tokenizer, self.classes, self.recipe.batch.max_length)
        unknown = sorted({d.label for d, number in zip(documents, encoded.labels, strict=True) if number < 0})
        if unknown:
            raise BadData(f"no text of the training has the label {unknown[0]!r}; known: {self.classes}")
        return compute_scores(self._compute_log_probs(encoded, on_progress), np.asarray(encoded.labels)) | {
            "cut": float(len(encoded.cut))
        }

    def trace(self, texts: str | Iterable[Text]) -> Trace:
        """Where the attention of every layer, and of the pooling, goes in each text."""
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several:
            raise BadData("there is no text to trace")
        encoded = self._encode(several)
        examples = tuple(self._make_example(encoded, number) for number in range(len(several)))
        unnormalised = find_unnormalised(self.model)
        return Trace(examples, "classification", unnormalised=unnormalised)

    @torch.inference_mode()
    def _compute_log_probs(
        self, encoded: Encoded, on_progress: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """log-probabilities [N,C] in the order of the documents."""
        device = next(self.model.parameters()).device
        dataset, finished = make_dataset(encoded), 0
        scores = np.zeros((len(dataset), len(self.classes)), np.float64)
        for rows, batch in iterate_by_length(dataset, self.recipe.batch.batch_tokens):
            scores[rows] = self.model(*batch.to(device).texts).double().log_softmax(-1).cpu().numpy()
            finished += len(rows)
            on_progress(finished)
        return scores

    def _encode(self, texts: Sequence[Text]) -> Encoded:
        documents = [Document((text,) if isinstance(text, str) else tuple(text), "") for text in texts]
        widths = {len(document.texts) for document in documents}
        expected = 2 if self.reads_pairs else 1
        if widths - {expected}:
            raise BadData(f"this classifier reads {expected} text(s) at a time, got {sorted(widths)}")
        return encode_documents(documents, self.tokenizer, self.classes, self.recipe.batch.max_length)

    def _make_label(self, log_probs: np.ndarray) -> Label:
        probabilities = dict(zip(self.classes, np.exp(log_probs).tolist(), strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        return Label(best, probabilities[best], probabilities)

    @torch.inference_mode()
    def _make_example(self, encoded: Encoded, number: int) -> Example:
        one = Encoded([[column[number]] for column in encoded.texts], [-1], [])
        batch = make_dataset(one).make_batch([0]).to(next(self.model.parameters()).device)
        classified = self.model.forward_with_weights(*batch.texts)
        label = self._make_label(classified.scores[0].double().log_softmax(-1).cpu().numpy())
        tokens = (START, *self.tokenizer.pieces(one.texts[0][0]))
        weights = {
            name: each.weights[0].float().cpu().numpy()
            for name, each in classified.attended.items()
            if each.weights is not None
        }
        axes = {name: WeightAxes("label" if name == "pool" else "text", "text") for name in weights}
        return Example(
            named_axes={"text": tokens, "label": (label.label,)},
            weights=weights,
            weight_axes=axes,
            meta={"line": number + 1, "label": label.label, "probability": label.probability},
        )


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
