"""One formula for every registered part, on one query and one key, in float64, written from the papers.

`score` and `core` below are the built objects whose learned parameters a formula reads.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# (q [D], k [D], score, head) -> a number
Score = Callable[[Tensor, Tensor, Any, int], Tensor]
# (numbers of the keys that may be seen, [n]) -> their weights [n]
Select = Callable[[Tensor, Any], Tensor]
# (t, s, T, S, scope) -> may query t see key s
Scope = Callable[[int, int, int, int, Any], bool]
# (spec, core, head, q [D], keys [n,D], bias [n]) -> the weights of these n keys
Kernel = Callable[[Any, Any, int, Tensor, Tensor, Tensor], Tensor]


def scaled_dot(q: Tensor, k: Tensor, score: Any, head: int) -> Tensor:
    """Vaswani et al. 2017, eq. 1."""
    return torch.dot(q, k) / len(q) ** 0.5


def additive(q: Tensor, k: Tensor, score: Any, head: int) -> Tensor:
    """Bahdanau et al. 2015, section 3.1, as written there: W s + U h."""
    w, u, v, b = (matrix[head].double() for matrix in (score.w, score.u, score.v, score.b))
    return torch.dot(v, torch.tanh(w.T @ q + u.T @ k + b[0]))


def soft(logits: Tensor, select: Any) -> Tensor:
    """Bahdanau et al. 2015, eq. 6."""
    highest = float(logits.max())
    shares = [math.exp(logit - highest) for logit in logits.tolist()]
    return torch.tensor([share / sum(shares) for share in shares], dtype=torch.float64)


def everywhere(t: int, s: int, queries: int, keys: int, scope: Any) -> bool:
    """Luong et al. 2015, section 3.1."""
    return True


def softmax(spec: Any, core: Any, head: int, q: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """Exact attention: the selection of the scores."""
    score = SCORES[spec.score.name]
    logits = [score(q, key, core.score, head) + extra for key, extra in zip(keys, bias, strict=True)]
    return SELECTS[spec.select.name](torch.stack(logits), spec.select)


def rfa(spec: Any, core: Any, head: int, q: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """Peng et al. 2021, eq. 4 and 5, as mean_r cos(w_r·(q - k)); below a mean of 0.01 the gap is filled."""
    bandwidth = core.features.bandwidth[head, 0].double()
    directions = core.features.fixed[head].double() * bandwidth / spec.kernel.temperature
    unit = q / q.norm()
    alike = torch.stack([torch.cos(directions @ (unit - key / key.norm())).mean() for key in keys])
    gap = max(0.01 * len(keys) - float(alike.sum()), 0.0)
    return (alike + gap / len(keys)) / (alike.sum() + gap)


SCORES: dict[str, Score] = {"scaled_dot": scaled_dot, "additive": additive}
SCOPES: dict[str, Scope] = {"global": everywhere}
SELECTS: dict[str, Select] = {"soft": soft}
KERNELS: dict[str, Kernel] = {"softmax": softmax, "rfa": rfa}
AXES: dict[str, dict[str, Any]] = {"score": SCORES, "scope": SCOPES, "select": SELECTS, "kernel": KERNELS}
