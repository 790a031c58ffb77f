"""Why scores are divided by sqrt(D): without it, wide queries and keys saturate the softmax.

The components of queries and keys are independent with variance 1, so q·k has variance D.  Its softmax over
many keys puts nearly all weight on one of them when D is large, and the gradient of a saturated softmax is 0.
"""

import sys

import matplotlib.pyplot as plt
import torch

import qkv

# %% For widths from 1 to 1 024: the largest weight of a query, and the gradient that reaches the scores.
torch.manual_seed(0)
KEYS, QUERIES = 64, 400
widths = [2**power for power in range(11)]


def measure(score: object, width: int) -> tuple[float, float]:
    """The mean largest weight, and the mean size of the gradient of a weight with respect to the scores."""
    q, k = torch.randn(1, 1, QUERIES, width), torch.randn(1, 1, KEYS, width)
    weights = qkv.attend(q, k, k, score=score).weights
    assert weights is not None
    gradient = weights * (1 - weights)  # d softmax_s / d e_s
    return float(weights.amax(-1).mean()), float(gradient.sum(-1).mean())


dot = [measure(qkv.Dot(), width) for width in widths]
scaled = [measure(qkv.ScaledDot(), width) for width in widths]

# %% The same numbers as a table.
print(f"{'D':>5}  largest weight: dot  scaled    gradient: dot  scaled")
for width, (peak, slope), (scaled_peak, scaled_slope) in zip(widths, dot, scaled, strict=True):
    print(f"{width:5}  {peak:19.3f}  {scaled_peak:6.3f}  {slope:14.3f}  {scaled_slope:6.3f}")
assert dot[-1][0] > 0.9
assert scaled[-1][0] < 0.3

# %% The picture.
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for axis, column, title in zip(
    axes, (0, 1), ("largest weight of a query", "gradient of the weights"), strict=True
):
    axis.plot(widths, [row[column] for row in dot], "o-", label="q·k")
    axis.plot(widths, [row[column] for row in scaled], "s-", label="q·k / sqrt(D)")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="width D of queries and keys", title=title, ylim=(0, 1.02))
axes[0].legend(frameon=False)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "why_sqrt_d.png", dpi=150)
