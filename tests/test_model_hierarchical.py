"""Hierarchical classifiers: equal to loops over words and sentences, and blind to padding at both levels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.errors import QKVError
from qkv.model.hierarchical import HierarchicalClassifier, HierarchicalConfig
from reference.hierarchy import score_documents

V = 30
MODELS: dict[str, dict[str, Any]] = {
    "gru": {},
    "two gru layers": {"layers": 2},
    "softmax": {"encoder": "attention"},
    "learned positions": {"encoder": "attention", "positions": "learned", "layers": 2},
    "rfa": {"encoder": "attention", "attention": {"kernel": {"name": "rfa", "features": 8}}},
    "elu over words": {
        "encoder": "attention",
        "attention": {"kernel": "elu"},
        "sentence_attention": {"select": "entmax"},
    },
    "window": {"encoder": "attention", "attention": {"scope": {"name": "window", "half_width": 2}}},
}
DOCUMENTS = [[[4, 9, 5], [7], [8, 8, 21, 6, 5]], [[11, 12]], [], [[5, 6], [29, 4, 17]]]
every_model = pytest.mark.parametrize("name", MODELS)


def build(name: str, **options: Any) -> HierarchicalClassifier:
    torch.manual_seed(0)
    config = {"width": 8, "heads": 2, "feedforward": 12, "max_length": 64, **MODELS[name], **options}
    model = HierarchicalClassifier(HierarchicalConfig(**config), V, 3).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def pad(documents: list[list[list[int]]], sentences: int = 0, words: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B,S,N], with so many more sentences and words of padding than needed."""
    most = max([1, *map(len, documents)]) + sentences
    longest = max([1, *(len(sentence) for document in documents for sentence in document)]) + words
    tokens = torch.full((len(documents), most, longest), 3)
    keep = torch.zeros(tokens.shape, dtype=torch.bool)
    for b, document in enumerate(documents):
        for s, sentence in enumerate(document):
            tokens[b, s, : len(sentence)] = torch.tensor(sentence)
            keep[b, s, : len(sentence)] = True
    return tokens, keep


def score(model: HierarchicalClassifier, *padded: Tensor) -> Tensor:
    tokens, keep = padded
    return model([tokens], [keep])


def test_two_levels_equal_loops_over_words_and_sentences() -> None:
    model = build("gru")
    expected = score_documents(model, DOCUMENTS)
    torch.testing.assert_close(score(model, *pad(DOCUMENTS)), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected[2], model.output.bias.data)


@every_model
def test_padding_is_invisible_at_both_levels(name: str) -> None:
    model = build(name)
    expected = score(model, *pad(DOCUMENTS))
    tokens, keep = pad(DOCUMENTS, sentences=2, words=3)
    tokens[~keep] = torch.randint(0, V, (int((~keep).sum()),))
    torch.testing.assert_close(score(model, tokens, keep), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        model.embedding.weight[0] = torch.nan  # that of padding
    total = score(model, tokens, keep)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    total.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_model
def test_a_batch_equals_its_documents_one_by_one_in_any_order(name: str) -> None:
    model = build(name)
    expected = score(model, *pad(DOCUMENTS))
    alone = torch.cat([score(model, *pad([document, []]))[:1] for document in DOCUMENTS])
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-12)
    order = [3, 2, 0, 1]
    permuted = score(model, *pad([DOCUMENTS[i] for i in order]))
    torch.testing.assert_close(permuted, expected[order], rtol=0, atol=1e-12)


@every_model
def test_weights_of_both_levels_sum_to_one_over_what_is_real(name: str) -> None:
    model, (tokens, keep) = build(name).requires_grad_(False), pad(DOCUMENTS)
    classified = model.forward_with_weights([tokens], [keep])
    torch.testing.assert_close(classified.scores, score(model, tokens, keep), rtol=0, atol=1e-10)
    (attended,) = classified.attended
    assert set(attended) == set(model.attention_layers())
    words, sentences = attended["words.pool"].weights, attended["sentences.pool"].weights
    assert words is not None
    assert sentences is not None
    lengths = [len(sentence) for document in DOCUMENTS for sentence in document or [[]]]
    for row, length in zip(words, lengths, strict=True):
        assert row[..., length:].abs().sum() == 0
        assert float(row.sum()) == pytest.approx(float(length > 0))
    assert sentences.sum((1, 2, 3)).tolist() == pytest.approx([1, 1, 0, 1])
    assert sentences[1, 0, 0].tolist() == [1, 0, 0]


def test_words_and_sentences_in_another_order_score_otherwise() -> None:
    model = build("gru")
    expected = score(model, *pad(DOCUMENTS))
    other_words = [[[5, 9, 4], *DOCUMENTS[0][1:]], *DOCUMENTS[1:]]
    other_sentences = [DOCUMENTS[0][::-1], *DOCUMENTS[1:]]
    for documents in (other_words, other_sentences):
        difference = (score(model, *pad(documents)) - expected).abs().amax(1)
        assert difference[0] > 1e-4
        assert difference[1:].max() < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 15}, "width=15 must be even"),
        ({"encoder": "attention", "attention": {"causal": True}}, "attention: causal must be False"),
        ({"encoder": "attention", "sentence_attention": {"d_model": 8}}, "sentence_attention: d_model"),
        ({"encoder": "attention", "positions": "learned", "max_length": 20}, "max_sentence_length=50"),
        (
            {
                "encoder": "attention",
                "sentence_attention": {"score": {"name": "location", "length": 9}},
            },
            "max_sentences=50 is more than model.sentence_attention",
        ),
        ({"max_sentences": 0}, "max_sentences"),
    ],
)
def test_a_config_that_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises((QKVError, ValueError), match=message):
        HierarchicalConfig(**options)


def test_padding_before_a_word_is_refused() -> None:
    tokens = torch.randint(4, V, (1, 1, 3))
    with pytest.raises(QKVError, match="needs all padding on the right"):
        score(build("gru"), tokens, torch.tensor([[[False, True, True]]]))


def test_pairs_of_documents_of_different_sizes() -> None:
    model = HierarchicalClassifier(HierarchicalConfig(width=8, heads=2), V, 3, texts=2).double().eval()
    first, second = pad(DOCUMENTS), pad([[[5, 6], [7]], [], [[8]], [[9] * 7]])
    for _ in range(4):
        scores = model([first[0], second[0]], [first[1], second[1]])
        assert scores.shape == (4, 3)
        assert len(model.forward_with_weights([first[0], second[0]], [first[1], second[1]]).attended) == 2
