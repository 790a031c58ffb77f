"""An output layer for large vocabularies: clusters of rare words are scored only where they are needed."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import BadRecipe

INITIAL_STD = 0.02


class AdaptiveOutput(nn.Module):
    """An output layer whose rare words are reached in two steps: a cluster, then a word in it.

        p(w | h) = p(w | h) of the head                      for frequent words, the ids below starts[0]
        p(w | h) = p(cluster | h) · p(w | h, cluster)        for the others

    The head is a softmax over the frequent words and the clusters; every cluster has a softmax of its own.
    Training computes a cluster's scores only for the positions whose next word is in it, so ids must be in
    order of frequency.  Grave et al. 2017 (arXiv:1609.04309), section 4.3; here every word has a vector of
    the full width, so that the layer can share the weight of the embedding.

    Args:
        width: M, the width of the input.
        vocab: V, the number of words.
        starts: the first id of every cluster, in ascending order.

    Raises:
        BadRecipe: a cluster begins beyond the vocabulary.

    Example:
        >>> import torch
        >>> output = AdaptiveOutput(8, 100, (10, 40))
        >>> output(torch.randn(2, 8)).exp().sum(-1).allclose(torch.ones(2))
        True
    """

    def __init__(self, width: int, vocab: int, starts: tuple[int, ...]) -> None:
        super().__init__()
        if starts[-1] >= vocab:
            raise BadRecipe(
                f"model.clusters: a cluster begins at {starts[-1]:,}, but the vocabulary has only {vocab:,} "
                "tokens: lower it or leave it out"
            )
        self.starts, self.sizes = starts, measure_clusters(starts, vocab)
        self.weight = nn.Parameter(torch.empty(vocab, width))
        self.cluster_weight = nn.Parameter(torch.empty(len(starts), width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all weights anew, from N(0, 0.02²)."""
        for weight in (self.weight, self.cluster_weight):
            nn.init.normal_(weight, std=INITIAL_STD)

    def forward(self, hidden: Float[Tensor, "*B M"]) -> Float[Tensor, "*B V"]:
        """The logarithms of the probabilities of all words."""
        frequent, *clusters = nn.functional.linear(hidden, self.weight).split(self.sizes, -1)
        log_head = torch.cat([frequent, nn.functional.linear(hidden, self.cluster_weight)], -1).log_softmax(
            -1
        )
        log_frequent, log_clusters = log_head.split([self.starts[0], len(clusters)], -1)
        parts = [log_frequent]
        for scores, log_cluster in zip(clusters, log_clusters.split(1, -1), strict=True):
            parts.append(scores.log_softmax(-1) + log_cluster)
        return torch.cat(parts, -1)


def make_output(width: int, vocab: int, starts: tuple[int, ...]) -> nn.Linear | AdaptiveOutput:
    """An output layer without bias: linear, or with clusters where `starts` names some."""
    return AdaptiveOutput(width, vocab, starts) if starts else nn.Linear(width, vocab, bias=False)


def measure_clusters(starts: tuple[int, ...], vocab: int) -> list[int]:
    """The number of frequent words, and of the words in every cluster."""
    borders = (0, *starts, vocab)
    return [end - start for start, end in pairwise(borders)]
