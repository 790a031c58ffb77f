"""Masked self-attention seen as a matrix: a lower triangle of weights, whose row t never sees the future.

All rows are computed at once in training, and one row at a time in generation; both give the same numbers.
"""

import sys

import matplotlib.pyplot as plt
import torch

import qkv

# %% Weights of causal self-attention are A = softmax(Q Kᵀ / sqrt(D) + mask), with -inf above the diagonal.
torch.manual_seed(0)
N, WIDTH = 12, 32
layer = qkv.Attention(WIDTH, heads=1, causal=True).eval()
x = torch.randn(1, N, WIDTH)
with torch.no_grad():
    out, weights, _ = layer.attend(x)
assert weights is not None
matrix = weights[0, 0]
assert not matrix.triu(1).any()
torch.testing.assert_close(matrix.sum(1), torch.ones(N))

# %% A changed token changes the outputs from its own position on, and none before.
changed = x.clone()
changed[0, 7] += 1
with torch.no_grad():
    effect = (layer(changed) - layer(x))[0].norm(dim=-1)
assert not effect[:7].any()
assert effect[7:].all()

# %% Step by step, as when a text is written: the same outputs.
steps, state = [], layer.start(batch=1)
with torch.no_grad():
    for t in range(N):
        step, state = layer.step(x[:, t], state)
        steps.append(step)
torch.testing.assert_close(torch.stack(steps, 1), out)

# %% Other masks are other shapes of the matrix, and masks intersect: a window, and padding.
window = qkv.Attention(WIDTH, causal=True, scope=qkv.Window(3)).eval()
window.load_state_dict(layer.state_dict())
keep = torch.ones(1, N, dtype=torch.bool)
keep[0, 4:6] = False
with torch.no_grad():
    banded, padded = window.attend(x).weights, layer.attend(x, keep=keep).weights
assert banded is not None
assert padded is not None

# %% The picture.
figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
titles = ["causal", "causal, window of 3", "causal, 4 and 5 padded"]
for axis, values, title in zip(axes, (matrix, banded[0, 0], padded[0, 0]), titles, strict=False):
    axis.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=0.6)
    axis.set(title=title, xlabel="key", ylabel="query", xticks=range(0, N, 4), yticks=range(0, N, 4))
axes[3].bar(range(N), effect.numpy())
axes[3].set(title="effect of changing token 7", xlabel="position", xticks=range(0, N, 4))
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "masked_matrix.png", dpi=150)
