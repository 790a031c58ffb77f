"""What more heads buy and lose: two keys can be read apart, and every head becomes narrower.

One head returns one average.  A query that needs two tokens at once gets their mean, in which they cannot be
told apart; two heads fetch one each.  In exchange a head of width M/H tells fewer keys apart by its scores.
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import qkv

WIDTH, N, UPDATES = 32, 8, 300


# %% A task: the first token asks for the tokens at two places, and wants them in order.
def draw(batch: int) -> tuple[Tensor, Tensor]:
    """Inputs [B,N,WIDTH] and targets [B,16]: the contents at the two places that the first token names."""
    content = torch.randn(batch, N, 8)
    places = torch.rand(batch, N - 1).topk(2).indices + 1  # two different ones, in random order
    one_hot = torch.eye(N)
    x = torch.zeros(batch, N, WIDTH)
    x[:, :, :8], x[:, :, 8:16] = content, one_hot
    x[:, 0, 16:24], x[:, 0, 24:32] = one_hot[places[:, 0]], one_hot[places[:, 1]]
    target = torch.cat([content[torch.arange(batch), places[:, i]] for i in range(2)], 1)
    return x, target


# %% One layer with 1, 2, 4 … heads of equal total width, and so of equally many parameters, learns it.
def train(heads: int) -> list[float]:
    """The squared error after every update; 1 is that of answering nothing."""
    torch.manual_seed(0)
    layer, read = qkv.Attention(WIDTH, heads=heads), nn.Linear(WIDTH, 16)
    optimizer = torch.optim.Adam([*layer.parameters(), *read.parameters()], lr=0.01)
    losses = []
    for _ in range(UPDATES):
        x, target = draw(64)
        loss = (read(layer(x)[:, 0]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


curves = {heads: train(heads) for heads in (1, 2, 4, 16)}
final = {heads: sum(losses[-30:]) / 30 for heads, losses in curves.items()}
for heads, error in final.items():
    print(f"H = {heads:2}, each {WIDTH // heads:2} wide: squared error {error:.3f}")
assert final[2] < final[1]

# %% The picture.
figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
for heads, losses in curves.items():
    smooth = torch.tensor(losses).unfold(0, 15, 1).mean(1)
    axis.plot(smooth, label=f"H = {heads}, each {WIDTH // heads} wide")
axis.set(xlabel="update", ylabel="squared error", ylim=(0, None), title="fetch two tokens at once")
axis.legend(frameon=False)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "heads.png", dpi=150)
