"""Attention as a soft lookup: one query, many queries, and why keys and values are two things.

A dictionary returns the value of the one key that equals the query.  Attention returns the average of all
values, weighted by how alike each key is to the query: softmax(q·k / sqrt(D)).
"""

import sys

import matplotlib.pyplot as plt
import torch

import qkv

# %% A memory of five entries: what an entry is found by (its key), and what it holds (its value).
torch.manual_seed(0)
names = ["red", "orange", "yellow", "green", "blue"]
angles = torch.tensor([0.0, 30.0, 60.0, 120.0, 240.0]).deg2rad()  # hues on the colour wheel
keys = torch.stack([angles.cos(), angles.sin()], dim=1)
values = torch.tensor([[1.0, 0, 0], [1, 0.5, 0], [1, 1, 0], [0, 0.6, 0], [0, 0, 1]])  # red, green, blue

# %% One query: the scores, the weights and the average, written out.
query = torch.tensor([45.0]).deg2rad()
query = torch.cat([query.cos(), query.sin()])
sharpness = 6.0  # a larger one comes closer to a dictionary
scores = sharpness * keys @ query / 2**0.5
weights = scores.softmax(0)
average = weights @ values
print("query at 45 degrees:", {name: round(float(w), 2) for name, w in zip(names, weights, strict=True)})

# %% Many queries at once are a matrix; `qkv.attend` does the same for batches [B] and heads [H].
hues = torch.arange(0, 360, 5.0).deg2rad()
queries = sharpness * torch.stack([hues.cos(), hues.sin()], dim=1)
out, all_weights, _ = qkv.attend(queries[None, None], keys[None, None], values[None, None])
torch.testing.assert_close(out[0, 0, 9], average)  # the query at 45 degrees is the tenth
assert all_weights is not None

# %% The keys decide where to look, the values what is seen: other values, the same weights.
grey = values.mean(1, keepdim=True).expand(-1, 3)
_, same_weights, _ = qkv.attend(queries[None, None], keys[None, None], grey[None, None])
torch.testing.assert_close(same_weights, all_weights)

# %% The picture: the weights of every query, and the colour that comes out.
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(7, 4), sharex=True, layout="constrained", height_ratios=[4, 1]
)
degrees = torch.arange(0, 360, 5)
for name, row, colour in zip(names, all_weights[0, 0].T, values, strict=True):
    top.plot(degrees, row, color=colour.tolist(), label=name)
top.set_ylabel("weight")
top.legend(frameon=False, ncols=5, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.15))
bottom.imshow(out[0, 0][None].clamp(0, 1).numpy(), aspect="auto", extent=(0, 355, 0, 1))
bottom.set(xlabel="query: hue in degrees", ylabel="output", yticks=[])
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "soft_lookup.png", dpi=150)
