"""The two levels of Yang et al. 2016 as loops over documents, sentences and words, in float64."""

from typing import Any

import torch
from torch import Tensor


def score_documents(model: Any, documents: list[list[list[int]]]) -> Tensor:
    """What a `HierarchicalClassifier` with a GRU should return for documents of sentences of token ids."""
    return torch.stack([_score(model, document) for document in documents])


@torch.no_grad()
def _score(model: Any, document: list[list[int]]) -> Tensor:
    table, width = model.embedding.weight, model.config.width
    sentences = []
    for sentence in document:
        words = [table[token] * width**0.5 for token in sentence]
        sentences.append(_pool(model.words.pool, _encode(model.words.encoder.gru, words)))
    vector = torch.zeros(width, dtype=table.dtype)
    if sentences:
        vector = _pool(model.sentences.pool, _encode(model.sentences.encoder.gru, sentences))
    return model.output.weight @ vector + model.output.bias


def _encode(gru: Any, vectors: list[Tensor]) -> list[Tensor]:
    """h_t = [h_fwd_t; h_bwd_t]."""
    forward = _run(vectors, *(getattr(gru, f"{name}_l0") for name in NAMES))
    backward = _run(vectors[::-1], *(getattr(gru, f"{name}_l0_reverse") for name in NAMES))[::-1]
    return [torch.cat(both) for both in zip(forward, backward, strict=True)]


NAMES = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")


def _run(vectors: list[Tensor], w: Tensor, b: Tensor, u: Tensor, c: Tensor) -> list[Tensor]:
    """h_t = (1 - z) ∘ tanh(W x + b + r ∘ (U h + c)) + z ∘ h, as in torch.nn.GRU."""
    h, states = torch.zeros(u.shape[1], dtype=u.dtype), []
    for x in vectors:
        inputs, recurrent = (w @ x + b).chunk(3), (u @ h + c).chunk(3)
        r, z = (torch.sigmoid(inputs[i] + recurrent[i]) for i in (0, 1))
        h = (1 - z) * torch.tanh(inputs[2] + r * recurrent[2]) + z * h
        states.append(h)
    return states


def _pool(pool: Any, states: list[Tensor]) -> Tensor:
    """u_t = tanh(W h_t + b');  a_t = exp(u_t · v) / Σ_s exp(u_s · v);  Σ_t a_t h_t  (eq. 5 to 7 and 8 to 10).

    The constant b' of the paper is what the learned query adds: W' query + b.
    """
    score = pool.attention.core.score
    constant = score.w[0].T @ pool.query[0, 0] + score.b[0, 0]
    logits = [float(torch.tanh(score.u[0].T @ h + constant) @ score.v[0]) for h in states]
    exponentials = [torch.tensor(logit - max(logits), dtype=torch.float64).exp() for logit in logits]
    total = sum(exponentials)
    return sum((e / total * h for e, h in zip(exponentials, states, strict=True)), torch.zeros(()).double())
