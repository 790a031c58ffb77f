"""Terms that an objective adds for its attentions: coverage, entropy, and REINFORCE.

They read what an attention returns: weights [B,H,T,S], and log_prob [B,H,T] of what it sampled.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from qkv.shapes import Attended
from qkv.strict import Strict


class EntropySums(NamedTuple):
    """The entropy of an attention's weights, summed over the batch and averaged over heads.

    Args:
        surrogate: a scalar to differentiate, which has the gradient of the entropy.
        value: the entropy, detached.
    """

    surrogate: Float[Tensor, ""]
    value: Float[Tensor, ""]


class AttentionTerms(Strict):
    """The factor of each term beside the cross-entropy.

    Args:
        coverage: factor of (1 - Σ_t weight)² per source position, so that each is attended to once.
        entropy: factor of the entropy of the weights, which is rewarded.
        reinforce: factor of the REINFORCE gradient, if an attention samples.
        baseline_decay: decay of the moving average of the reward, which is the baseline.
    """

    coverage: float = Field(default=0.0, ge=0)
    entropy: float = Field(default=0.0, ge=0)
    reinforce: float = Field(default=0.1, ge=0)
    baseline_decay: float = Field(default=0.9, ge=0, lt=1)


def sum_coverage_penalty(
    weights: Float[Tensor, "B H T S"], queries: Bool[Tensor, "B T"], keys: Bool[Tensor, "B S"]
) -> Float[Tensor, ""]:
    """Σ_s (1 - Σ_t w_ts)² summed over the batch, averaged over heads.  Xu et al. 2015, eq. 14.

    The sum runs over real positions.  Xu's code averages over locations instead; T steps can cover at most T
    of them.

    Args:
        weights: the weights of an attention.
        queries: True at real queries.
        keys: True at real keys.
    """
    weight_per_key = (weights * queries[:, None, :, None]).sum(2)
    return ((1 - weight_per_key).square() * keys[:, None]).sum() / weights.shape[1]


def sum_supervision_loss(
    weights: Float[Tensor, "B H T S"], attention_targets: Float[Tensor, "B T S"], queries: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """-Σ_ts a_ts log w_ts summed over the batch, w being the mean over heads.  Liu et al. 2017, section 3.2.

    Args:
        weights: the weights of an attention.
        attention_targets: the distributions that the weights should equal; zeros for a query without one.
        queries: True at real queries.
    """
    mean = weights.mean(1)
    smallest = torch.finfo(mean.dtype).tiny  # sparse weights may be 0
    log_weights = mean.clamp_min(smallest).log()
    return -(attention_targets * queries[..., None] * log_weights).sum()


def sum_entropy_surrogate_and_value(attended: Attended, queries: Bool[Tensor, "B T"]) -> EntropySums:
    """Σ_t H[w_t] summed over the batch, averaged over heads, and a surrogate that has its gradient.

    Of soft weights the entropy is exact.  Of a sample it is -log p(s), whose expectation it is, and
    ∇H = -E[log p(s) ∇ log p(s)].

    Args:
        attended: what an attention returned, with weights.
        queries: True at real queries.

    Returns:
        Both sums.
    """
    real = queries[:, None]
    assert attended.weights is not None
    positive = torch.where(
        attended.weights > 0, attended.weights, 1
    )  # the slope of -w log w at 0 is infinite
    value = surrogate = (torch.special.entr(positive).sum(-1) * real).sum()
    if attended.log_prob is not None:
        log_prob = attended.log_prob * real
        value = value - log_prob.sum()
        surrogate = surrogate - (log_prob.detach() * log_prob).sum()
    heads = attended.weights.shape[1]
    return EntropySums(surrogate / heads, value.detach() / heads)


def compute_reward_to_go(
    log_likelihood: Float[Tensor, "B T"], real: Bool[Tensor, "B T"], baseline: Float[Tensor, ""]
) -> Float[Tensor, "B T"]:
    """Σ_{u>=t} (log p(y_u) - b) over real positions: what a choice at t can still change.

    Xu et al. 2015, section 4.1, reward every choice with the sum over the complete sentence instead; the
    words before it only add variance.

    Args:
        log_likelihood: log p(y_t) of every output.
        real: True at real outputs.
        baseline: b, the mean reward per output so far.
    """
    advantage = (log_likelihood - baseline) * real
    return advantage.flip(1).cumsum(1).flip(1)


def sum_reinforce_loss(
    log_prob: Float[Tensor, "B H N"], reward: Float[Tensor, "B N"], real: Bool[Tensor, "B N"]
) -> Float[Tensor, ""]:
    """-Σ reward · log p(s), whose gradient estimates that of the expected reward.  Williams 1992; Xu et al.
    2015, eq. 12.

    Args:
        log_prob: log p(s) of the sampled keys.
        reward: the reward of each choice, without a gradient.
        real: True at real queries.
    """
    return -(log_prob * (reward * real)[:, None]).sum()
