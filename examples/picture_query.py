"""Self-attention inside a CNN: what one cell of the picture attends to.

A convolution sees 3×3 cells.  `SelfAttention2d` behind it lets every cell attend to all cells: with queries
and keys that compare colours, a cell of one disc finds the other disc of its colour, however far it is.
"""

import sys

import matplotlib.pyplot as plt
import torch

import qkv

# %% A picture of four discs on a grid of 24 × 32 cells: two red, one blue, one green.
HEIGHT, WIDTH = 24, 32
rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
picture = torch.full((3, HEIGHT, WIDTH), 0.95)
discs = [
    (6, 6, (0.85, 0.2, 0.2)),
    (17, 26, (0.85, 0.2, 0.2)),
    (6, 24, (0.2, 0.35, 0.8)),
    (18, 8, (0.2, 0.6, 0.3)),
]
for y, x, colour in discs:
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= 16
    picture[:, inside] = torch.tensor(colour)[:, None]

# %% A module whose queries and keys are the colours themselves, made comparable by the cosine.
features = (picture - picture.mean((1, 2), keepdim=True))[None]
module = qkv.SelfAttention2d(3, score=qkv.Cosine(strength=12.0)).eval()
with torch.no_grad():
    for name, parameter in module.named_parameters():
        if name.endswith("weight") and parameter.shape[:2] == (3, 3):
            parameter.copy_(torch.eye(3).reshape(parameter.shape))
        elif name.endswith("bias"):
            parameter.zero_()
    attended = module.attend(features)
assert attended.weights is not None  # [batch, heads, cells, cells]

# %% The weights of three query cells, back on the grid.
queries = [(6, 6), (6, 24), (12, 16)]
maps = [attended.weights[0, 0, y * WIDTH + x].reshape(HEIGHT, WIDTH) for y, x in queries]
red = float(maps[0][(rows - 17) ** 2 + (columns - 26) ** 2 <= 16].sum())
print(f"the first query gives {red:.0%} of its weight to the other red disc, 20 columns away")
assert red > 0.3

# %% A neighbourhood keeps the weights near the query, in less memory: 7 × 7 cells here.
near = qkv.SelfAttention2d(
    3, score=qkv.Cosine(strength=12.0), scope=qkv.Neighbourhood(HEIGHT, WIDTH, 3)
).eval()
near.load_state_dict(module.state_dict())
with torch.no_grad():
    close = near.attend(features).weights
assert close is not None
print(
    "keys of a query:",
    int((maps[0] > 0).sum()),
    "or, in the neighbourhood,",
    int((close[0, 0, 6 * WIDTH + 6] > 0).sum()),
)

# %% The picture.
figure, axes = plt.subplots(1, 4, figsize=(11, 2.4), layout="constrained")
axes[0].imshow(picture.permute(1, 2, 0).numpy())
axes[0].set_title("picture")
for axis, (y, x), weights in zip(axes[1:], queries, maps, strict=True):
    axis.imshow(weights.numpy(), cmap="magma")
    axis.plot(x, y, "c+", markersize=10, markeredgewidth=2)
    axis.set_title(f"query at row {y}, column {x}")
for axis in axes:
    axis.set(xticks=[], yticks=[])
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "picture_query.png", dpi=150)
