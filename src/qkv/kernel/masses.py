"""How much every key counts in the sums of a feature map, as a logarithm.

Feature maps that keep their values in range hand back a factor m of every key, and a gate g makes the past
fade.  At position t, key s has the mass

    m_s (1 - g_s) Π_{s<l<=t} g_l                                     Peng et al. 2021, eq. 7, written out

Only the ratios of the masses that one query sees count.  So they are divided by the largest of these, never
by anything later: nothing overflows, and nothing leaks.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qkv import masks

Logs = Float[Tensor, "B H S"]
LogMasses = Float[Tensor, "B H T S"]
NOTHING = float("-inf")


class Masses(NamedTuple):
    """written: [B,H,S] = log m_s (1 - g_s), -inf for a padded key.

    decay: [B,H,S] = log g_s, 0 for a padded key, which leaves everything as it is; None without a gate.
    """

    written: Tensor
    decay: Tensor | None


def weigh(log_mass: Logs | None, gate: Logs | None, keep: Bool[Tensor, "B S"] | None) -> Masses | None:
    """The masses of keys with factors m, gate logits and padding; None where every real key has mass 1."""
    factors = [log_mass] if log_mass is not None else []
    decay = None if gate is None else F.logsigmoid(gate)
    if gate is not None:
        factors.append(F.logsigmoid(-gate))
    if not factors:
        return None
    written = torch.stack(factors).sum(0)
    if keep is not None:
        padded = ~keep[:, None]
        written = written.masked_fill(padded, NOTHING)
        decay = None if decay is None else decay.masked_fill(padded, 0)
    return Masses(written, decay)


def joined(before: Masses, after: Masses) -> Masses:
    """The masses of keys and of those that follow them."""
    return _logwise(lambda *parts: torch.cat(parts, 2), before, after)


def split(masses: Masses, size: int) -> Masses:
    """The masses of keys, every `size` of them those of a head of its own: [B,H,N] -> [B,H·N/size,size]."""
    return _logwise(lambda x: x.unflatten(2, (-1, size)).flatten(1, 2), masses)


def at_end(masses: Masses) -> LogMasses:
    """Log masses [B,H,1,S] after the last key."""
    left = masses.written if masses.decay is None else masses.written + _faded(masses.decay)
    return left[:, :, None]


def at_queries(masses: Masses, queries: int) -> LogMasses:
    """Log masses [B,H,T,S] at the last T positions; -inf for the keys that are still to come.

    Every Σ log g runs over just the gates between key and query: differences of one long sum would lose
    what is small beside it.
    """
    keys = masses.written.shape[2]
    left, rows = masses.written[:, :, None], min(queries, keys)
    if masses.decay is not None and rows > 0:
        first = keys - rows
        at_first = F.pad(_faded(masses.decay[:, :, : first + 1]), (0, rows - 1))[..., None]
        further = masses.decay[:, :, None, first + 1 :].expand(-1, -1, keys, -1).triu(-first)
        faded = torch.cat([at_first, further], 3).cumsum(3)  # along the last dimension, where it is fast
        left = left + F.pad(faded, (queries - rows, 0)).mT
    return left.masked_fill(~masks.causal(queries, keys, left.device), NOTHING)


def highest(logs: Float[Tensor, "B H T S"]) -> Float[Tensor, "B H T 1"]:
    """The largest log mass of every row, -inf where there is none; no gradient, for it cancels."""
    if logs.shape[-1] == 0:
        return logs.new_full((*logs.shape[:-1], 1), NOTHING)
    return logs.detach().amax(-1, keepdim=True)


def relative(logs: Float[Tensor, "B H #T S"], top: Float[Tensor, "B H T 1"]) -> Float[Tensor, "B H T S"]:
    """exp(logs - top), and 0 where there is nothing: also where the top is -inf."""
    return (logs - top.masked_fill(top == NOTHING, 0)).exp()


def _faded(decay: Logs) -> Logs:
    """Σ_{l>s} log g_l of every key s, up to the last."""
    return F.pad(decay, (0, 1))[:, :, 1:].flip(-1).cumsum(-1).flip(-1)


def _logwise(change: Callable[..., Tensor], *several: Masses) -> Masses:
    decays = [masses.decay for masses in several]
    decay = None if any(decay is None for decay in decays) else change(*decays)
    return Masses(change(*(masses.written for masses in several)), decay)
