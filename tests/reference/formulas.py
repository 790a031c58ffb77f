"""One formula for every registered part, on one query and one key, in float64, written from the papers.

`score` and `core` below are the built objects whose learned parameters a formula reads.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# (q [D], k [D2], score, head, position of the key) -> a number
Score = Callable[[Tensor, Tensor, Any, int, int], Tensor]
# (numbers of the keys that may be seen, [n]) -> their weights [n]
Select = Callable[[Tensor, Any], Tensor]
# (q [D], position of the query, of the key, number of real keys, scope part, built scope, head)
# -> what the weight of the key is multiplied with; None if the query may not see it
Scope = Callable[[Tensor, int, int, int, Any, Any, int], float | None]


class Seen(NamedTuple):
    """The keys a query may see, n of them, in the order of their positions.

    keys: [n,D].  bias: [n], added to their scores.  places: their positions.  gate: [n] logits, or None.
    """

    keys: Tensor
    bias: Tensor
    places: list[int]
    gate: Tensor | None


# (spec, core, head, q [D], the keys it may see) -> their weights [n]
Kernel = Callable[[Any, Any, int, Tensor, Seen], Tensor]


def dot(q: Tensor, k: Tensor, score: Any, head: int, place: int) -> Tensor:
    """Luong et al. 2015, section 3.1."""
    return torch.dot(q, k)


def scaled_dot(q: Tensor, k: Tensor, score: Any, head: int, place: int) -> Tensor:
    """Vaswani et al. 2017, eq. 1."""
    return torch.dot(q, k) / len(q) ** 0.5


def general(q: Tensor, k: Tensor, score: Any, head: int, place: int) -> Tensor:
    """Luong et al. 2015, section 3.1."""
    return torch.dot(q, score.w[head].double() @ k)


def cosine(q: Tensor, k: Tensor, score: Any, head: int, place: int) -> Tensor:
    """Graves et al. 2014, eq. 5 and 6."""
    return score.strength * torch.dot(q, k) / (torch.dot(q, q) * torch.dot(k, k)).sqrt()


def location(q: Tensor, k: Tensor, score: Any, head: int, place: int) -> Tensor:
    """Luong et al. 2015, section 3.1: one row of weights for every position."""
    return torch.dot(score.w[head, :, place].double(), q)


def additive(q: Tensor, k: Tensor, score: Any, head: int, place: int) -> Tensor:
    """Bahdanau et al. 2015, section 3.1, as written there: W s + U h."""
    w, u, v, b = (matrix[head].double() for matrix in (score.w, score.u, score.v, score.b))
    return torch.dot(v, torch.tanh(w.T @ q + u.T @ k + b[0]))


def soft(logits: Tensor, select: Any) -> Tensor:
    """Bahdanau et al. 2015, eq. 6."""
    highest = float(logits.max())
    shares = [math.exp(logit - highest) for logit in logits.tolist()]
    return torch.tensor([share / sum(shares) for share in shares], dtype=torch.float64)


def hard(logits: Tensor, select: Any) -> Tensor:
    """Xu et al. 2015, section 4.1, in evaluation: the best key, or the expectation."""
    if select.evaluate == "expectation":
        return soft(logits, select)
    best = max(range(len(logits)), key=lambda s: float(logits[s]))
    return torch.tensor([float(s == best) for s in range(len(logits))], dtype=torch.float64)


def sparsemax(logits: Tensor, select: Any) -> Tensor:
    """Martins & Astudillo 2016, eq. 1: of the projections onto every face of the simplex, the nearest."""
    z, nearest, distance = logits.tolist(), [0.0], math.inf
    for chosen in itertools.product((False, True), repeat=len(z)):
        if any(chosen):
            threshold = (sum(itertools.compress(z, chosen)) - 1) / sum(chosen)
            point = [(x - threshold) * inside for x, inside in zip(z, chosen, strict=True)]
            gap = sum((p - x) ** 2 for p, x in zip(point, z, strict=True))
            if min(point) >= 0 and gap < distance:
                nearest, distance = point, gap
    return torch.tensor(nearest, dtype=torch.float64)


def entmax(logits: Tensor, select: Any) -> Tensor:
    """Peters et al. 2019: [(α-1) z - τ]₊ ^ 1/(α-1), with τ bisected until the weights sum to 1."""
    z, power = [(select.alpha - 1) * logit for logit in logits.tolist()], 1 / (select.alpha - 1)
    low, high = max(z) - 1, max(z)
    for _ in range(100):
        middle = (low + high) / 2
        enough = sum(max(x - middle, 0.0) ** power for x in z) >= 1
        low, high = (middle, high) if enough else (low, middle)
    return torch.tensor([max(x - low, 0.0) ** power for x in z], dtype=torch.float64)


def topk(logits: Tensor, select: Any) -> Tensor:
    """Zhao et al. 2019: the softmax of the k highest; of equal ones the first."""
    best = sorted(range(len(logits)), key=lambda s: -float(logits[s]))[: select.k]
    weights = torch.zeros(len(logits), dtype=torch.float64)
    weights[best] = soft(logits[best], select)
    return weights


def everywhere(q: Tensor, p_query: int, p_key: int, count: int, part: Any, scope: Any, head: int) -> float:
    """Luong et al. 2015, section 3.1."""
    return 1.0


def window(q: Tensor, p_query: int, p_key: int, count: int, part: Any, scope: Any, head: int) -> float | None:
    """Luong et al. 2015, section 3.2, local-m."""
    left = part.half_width if part.left is None else part.left
    right = part.half_width if part.right is None else part.right
    return 1.0 if p_query - left <= p_key <= p_query + right else None


def predictive(
    q: Tensor, p_query: int, p_key: int, count: int, part: Any, scope: Any, head: int
) -> float | None:
    """Luong et al. 2015, section 3.2, local-p, with positions from 0."""
    inner = torch.tanh(scope.w[head].double().T @ q)
    p = count / (1 + math.exp(-torch.dot(scope.v[head].double(), inner).item()))
    if abs(p_key - math.floor(p)) > part.half_width:
        return None
    return math.exp(-((p_key - p) ** 2) / (2 * (part.half_width / 2) ** 2))


def neighbourhood(
    q: Tensor, p_query: int, p_key: int, count: int, part: Any, scope: Any, head: int
) -> float | None:
    """Hassani et al. 2023, cut off at the border: the Chebyshev distance of cells."""
    (y_query, x_query), (y_key, x_key) = divmod(p_query, part.width), divmod(p_key, part.width)
    return 1.0 if max(abs(y_query - y_key), abs(x_query - x_key)) <= part.radius else None


def positions_count_padding(part: Any) -> bool:
    """Whether positions are the cells of a grid, in which a hidden cell keeps its place."""
    return part.name == "neighbourhood"


def renormalised(part: Any) -> bool:
    """Whether the weights, multiplied with what the scope says, are divided by their sum."""
    return part.name == "predictive" and part.renormalise


def softmax(spec: Any, core: Any, head: int, q: Tensor, seen: Seen) -> Tensor:
    """Exact attention: the selection of the scores."""
    score = SCORES[spec.score.name]
    logits = [
        score(q, key, core.score, head, place) + extra
        for key, extra, place in zip(seen.keys, seen.bias, seen.places, strict=True)
    ]
    return SELECTS[spec.select.name](torch.stack(logits), spec.select)


def rfa(spec: Any, core: Any, head: int, q: Tensor, seen: Seen) -> Tensor:
    """Peng et al. 2021, eq. 4, 5 and 7 and the appendix, as mean_r cos(w_r·(q - k)) or mean_r of the product
    of two ReLUs; where the sum is below what noise makes it, the gap is filled.
    """
    part = spec.kernel
    bandwidth = core.features.bandwidth[head, 0].double()
    directions = core.features.fixed[head].double()
    unit = q / q.norm()
    if part.kernel == "arccos":
        read = (directions @ (bandwidth * unit)).relu()
        alike = [(read * (directions @ (bandwidth * k / k.norm())).relu()).mean() for k in seen.keys]
        own = [1.0 if part.normalise else float(k.norm()) for k in seen.keys]
        return filled(torch.stack(alike), masses(own, seen.gate), 1e-6)
    w = directions * bandwidth / part.temperature
    if part.normalise:
        alike, own = [torch.cos(w @ (unit - k / k.norm())).mean() for k in seen.keys], [1.0] * len(seen.keys)
    else:
        alike = [torch.cos(w @ (q - k)).mean() for k in seen.keys]
        own = [math.exp(float((bandwidth * k).square().sum()) / part.temperature**2 / 2) for k in seen.keys]
    return filled(torch.stack(alike), masses(own, seen.gate), 0.5 / len(directions) ** 0.5)


def favor(spec: Any, core: Any, head: int, q: Tensor, seen: Seen) -> Tensor:
    """Choromanski et al. 2021, lemma 1: mean_r exp(w_r·(q + k)) exp(-|k|²/2) of vectors times D^-1/4."""
    directions, scale = core.features.fixed[head].double(), len(q) ** -0.25
    alike = [
        (directions @ (scale * (q + k)) - (scale * k).square().sum() / 2).exp().mean() for k in seen.keys
    ]
    return torch.stack(alike) / sum(alike)


def elu(spec: Any, core: Any, head: int, q: Tensor, seen: Seen) -> Tensor:
    """Katharopoulos et al. 2020, eq. 7."""
    phi_q, *phi_keys = ([_elu(x) + 1 for x in vector] for vector in (q.tolist(), *seen.keys.tolist()))
    alike = [sum(a * b for a, b in zip(phi_q, phi_k, strict=True)) for phi_k in phi_keys]
    return torch.tensor([share / sum(alike) for share in alike], dtype=torch.float64)


def _elu(x: float) -> float:
    return x if x > 0 else math.exp(x) - 1


def masses(own: list[float], gate: Tensor | None) -> list[float]:
    """A key's own mass, times (1 - g) of itself and g of every later key.  Peng et al. 2021, eq. 7."""
    if gate is None:
        return own
    g = [1 / (1 + math.exp(-logit)) for logit in gate.tolist()]
    return [mass * (1 - g[j]) * math.prod(g[j + 1 :]) for j, mass in enumerate(own)]


def filled(alike: Tensor, mass: list[float], floor: float) -> Tensor:
    """mass · alike / Σ mass · alike; what the sum lacks of floor · sqrt(Σ mass²) is added in proportion to
    mass.
    """
    share = torch.tensor([m / max(mass) for m in mass], dtype=torch.float64)
    gap = max(floor * float(share.norm()) - float((share * alike).sum()), 0.0)
    raised = share * alike + gap * share / share.sum()
    return raised / raised.sum()


SCORES: dict[str, Score] = {
    "scaled_dot": scaled_dot,
    "dot": dot,
    "general": general,
    "additive": additive,
    "cosine": cosine,
    "location": location,
}
SCOPES: dict[str, Scope] = {
    "global": everywhere,
    "window": window,
    "predictive": predictive,
    "neighbourhood": neighbourhood,
}
SELECTS: dict[str, Select] = {
    "soft": soft,
    "hard": hard,
    "sparsemax": sparsemax,
    "entmax": entmax,
    "topk": topk,
}
KERNELS: dict[str, Kernel] = {"softmax": softmax, "rfa": rfa, "favor": favor, "elu": elu}
AXES: dict[str, dict[str, Any]] = {"score": SCORES, "scope": SCOPES, "select": SELECTS, "kernel": KERNELS}
