"""The cross-entropy of an output layer: of a linear one, or of one with clusters of rare words."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.model.adaptive_output import AdaptiveOutput
from qkv.train.objective.cross_entropy import (
    CrossEntropySums,
    compute_linear_cross_entropy,
    sum_linear_cross_entropy,
)


def sum_output_cross_entropy(
    output: nn.Linear | AdaptiveOutput,
    hidden: Float[Tensor, "N M"],
    target: Int[Tensor, "N"],
    *,
    smoothing: float,
) -> CrossEntropySums:
    """The cross-entropy of the targets, summed over the N rows; see `sum_linear_cross_entropy`.

    Args:
        output: the layer that scores the words.
        hidden: its inputs.
        target: the word of every row.
        smoothing: from 0 to 1; this much of the probability is spread over all words.  With clusters: 0.

    Returns:
        The sums.  The total alone has a gradient, of first order.  With clusters a row is correct where no
        entry of the head and no word of the cluster is above the target.
    """
    if isinstance(output, AdaptiveOutput):
        return _sum_adaptive_cross_entropy(output, hidden, target)
    return sum_linear_cross_entropy(hidden, output.weight, output.bias, target, smoothing=smoothing)


def _sum_adaptive_cross_entropy(output: AdaptiveOutput, hidden: Tensor, target: Tensor) -> CrossEntropySums:
    """-log p(target): that of the head, and for rare words that of their cluster too."""
    first, clusters = output.starts[0], len(output.starts)
    frequent, *weights = output.weight.split(output.sizes)
    starts = torch.tensor(output.starts, device=target.device)
    number = torch.bucketize(target, starts, right=True)  # 0: a frequent word; c: in cluster c - 1
    total, nll, is_correct = compute_linear_cross_entropy(
        hidden,
        torch.cat([frequent, output.cluster_weight]),
        None,
        torch.where(number == 0, target, first + number - 1),
        smoothing=0.0,
    )
    for cluster in range(clusters):
        rows = (number == cluster + 1).nonzero()[:, 0]
        cluster_total, cluster_nll, is_cluster_correct = compute_linear_cross_entropy(
            hidden[rows], weights[cluster], None, target[rows] - output.starts[cluster], smoothing=0.0
        )
        total = total + cluster_total
        nll = nll.index_add(0, rows, cluster_nll)
        is_correct = is_correct.index_put((rows,), is_correct[rows] & is_cluster_correct)
    return CrossEntropySums(total, nll, is_correct.sum().to(nll.dtype))
