"""An output layer with clusters: probabilities, their loss and its gradients, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qkv
from qkv.errors import QKVError
from qkv.model.adaptive_output import AdaptiveOutput
from qkv.train.objective.output_layer import sum_output_cross_entropy
from tiny_text import language_recipe, sentences

WIDTH, VOCAB, STARTS = 6, 23, (5, 11)
BORDERS = ((0, 5), (5, 11), (11, 23))


def build() -> AdaptiveOutput:
    torch.manual_seed(0)
    output = AdaptiveOutput(WIDTH, VOCAB, STARTS).double()
    with torch.no_grad():
        for weight in output.parameters():
            weight.normal_()
    return output


def compute_log_prob_by_definition(output: AdaptiveOutput, hidden: Tensor, word: int) -> Tensor:
    """log p(word) of one hidden state, as the class's docstring defines it."""
    scores, cluster_scores = output.weight @ hidden, output.cluster_weight @ hidden
    head = torch.cat([scores[:5], cluster_scores]).log_softmax(0)
    if word < 5:
        return head[word]
    cluster = 0 if word < 11 else 1
    first, end = BORDERS[cluster + 1]
    return head[5 + cluster] + scores[first:end].log_softmax(0)[word - first]


def test_probabilities_are_those_of_the_definition_and_sum_to_one() -> None:
    output, hidden = build(), torch.randn(2, 3, WIDTH, dtype=torch.float64)
    log_probs = output(hidden)
    assert log_probs.shape == (2, 3, VOCAB)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    expected = torch.stack([compute_log_prob_by_definition(output, hidden[1, 2], w) for w in range(VOCAB)])
    torch.testing.assert_close(log_probs[1, 2], expected)


@pytest.mark.parametrize("words", [range(VOCAB), range(5), range(11, 23), [4, 5, 10, 11], []])
def test_the_loss_and_its_gradients_are_those_of_the_probabilities(words: Any) -> None:
    output, target = build(), torch.tensor([*words, *words], dtype=torch.int64)
    hidden = torch.randn(len(target), WIDTH, dtype=torch.float64, requires_grad=True)
    total, nll, correct = sum_output_cross_entropy(output, hidden, target, smoothing=0.0)
    log_probs = output(hidden)
    expected = -log_probs.gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(nll, expected.detach())
    torch.testing.assert_close(total, expected.sum())
    inputs = [hidden, output.weight, output.cluster_weight]
    gradients = torch.autograd.grad(total * 3, inputs)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected.sum() * 3, inputs), strict=True):
        torch.testing.assert_close(gradient, wanted)
    assert float(correct) == sum(is_best(output, hidden[i].detach(), int(w)) for i, w in enumerate(target))


def is_best(output: AdaptiveOutput, hidden: Tensor, word: int) -> bool:
    head = torch.cat([output.weight[:5], output.cluster_weight]) @ hidden
    cluster = next(i for i, (first, end) in enumerate(BORDERS) if first <= word < end)
    in_head = word if cluster == 0 else 5 + cluster - 1
    first, end = BORDERS[cluster]
    in_cluster = int((output.weight @ hidden)[first:end].argmax()) == word - first
    return int(head.argmax()) == in_head and (cluster == 0 or in_cluster)


CLUSTERED = {"tokens": {"kind": "word", "vocab": 50}, "model": {"mixer": "gru", "clusters": [6, 9]}}


def test_a_model_with_clusters_learns_and_continues(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, **CLUSTERED, train={"steps": 60, "lr": 0.02})
    scores = qkv.fit(recipe, tmp_path / "run", quiet=True).scores
    assert scores["nll"] < 1.2  # a table of word frequencies has 2.2
    assert scores["word_perplexity"] == scores["perplexity"]
    run = qkv.load(tmp_path / "run")
    assert run.model.output.weight is run.model.embedding.weight
    assert run.evaluate()["nll"] == pytest.approx(scores["nll"])
    assert set(run.generate("", length=30).split()) <= set(" ".join(sentences(200)).split())


def test_a_model_with_clusters_resumes_with_the_same_weights(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, **CLUSTERED)
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 11})})
    qkv.fit(recipe, tmp_path / "whole", quiet=True)
    qkv.fit(stopped, tmp_path / "parts", quiet=True)
    qkv.fit(recipe, tmp_path / "parts", resume=True, quiet=True)
    whole, parts = (
        torch.load(tmp_path / name / "training/state.pt", weights_only=True)["weights"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tokens": {"kind": "bpe"}}, r"needs ids in order of frequency.*set tokens.kind to word"),
        ({"objective": {"smoothing": 0.1}}, "objective.smoothing needs the scores of all words"),
        ({"model": {"clusters": [9, 6]}}, r"ascending ids, got \[9, 6\]: sort them"),
        ({"model": {"clusters": [6, 6]}}, r"ascending ids, got \[6, 6\]"),
        ({"model": {"clusters": [0, 6]}}, "model.clusters"),
    ],
)
def test_a_recipe_whose_clusters_cannot_work(tmp_path: Path, sections: Any, message: str) -> None:
    with pytest.raises(QKVError, match=message):
        language_recipe(
            tmp_path,
            **{
                "tokens": {"kind": "word"},
                **sections,
                "model": {"clusters": [6], **sections.get("model", {})},
            },
        )


def test_a_cluster_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, tokens={"kind": "word"}, model={"clusters": [6, 9000]})
    with pytest.raises(QKVError, match="begins at 9,000, but the vocabulary has only 12 tokens"):
        qkv.fit(recipe, tmp_path / "run", quiet=True)
