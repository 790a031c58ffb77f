"""The fixed-context bottleneck: what one vector can hold, against attention to every source state.

Both models read a source with a GRU and write it again with another one.  The first passes on the last state
alone, 32 numbers however long the source is; the second also attends to all states (Bahdanau et al. 2015),
here with scaled dot products as scores.
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import qkv

SYMBOLS, WIDTH, LONGEST, UPDATES = 16, 32, 12, 300


# %% The model; with attention, the decoder's state is the query and the encoder's states are keys and values.
class Copier(nn.Module):
    """GRU encoder and decoder, with or without attention; the decoder reads the right symbols before."""

    def __init__(self, *, attends: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS + 1, WIDTH)  # and a start symbol
        self.encoder, self.decoder = (nn.GRU(WIDTH, WIDTH, batch_first=True) for _ in range(2))
        self.attention = qkv.Attention(WIDTH) if attends else None
        self.output = nn.Linear(2 * WIDTH, SYMBOLS)

    def forward(self, source: Tensor) -> Tensor:
        """Scores [B,N,SYMBOLS] of the symbols to write."""
        memory, last = self.encoder(self.embed(source))
        before = torch.cat([torch.full_like(source[:, :1], SYMBOLS), source[:, :-1]], 1)
        state, _ = self.decoder(self.embed(before), last)
        read = last[0][:, None].expand_as(state) if self.attention is None else self.attention(state, memory)
        return self.output(torch.cat([state, read], -1))


# %% Training on random sources of every length up to 12.
def train(*, attends: bool) -> list[float]:
    """The share of symbols that the trained model writes correctly, for every length."""
    torch.manual_seed(0)
    model = Copier(attends=attends)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(UPDATES):
        source = torch.randint(SYMBOLS, (32, int(torch.randint(1, LONGEST + 1, ()))))
        loss = nn.functional.cross_entropy(model(source).flatten(0, 1), source.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        tests = [torch.randint(SYMBOLS, (300, length)) for length in range(1, LONGEST + 1)]
        return [float((model(source).argmax(-1) == source).float().mean()) for source in tests]


accuracy = {"one vector": train(attends=False), "attention": train(attends=True)}
for name, row in accuracy.items():
    print(f"{name:10}: " + " ".join(f"{share:.2f}" for share in row))
assert accuracy["attention"][-1] > accuracy["one vector"][-1] + 0.2

# %% The picture.
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, row in accuracy.items():
    axis.plot(range(1, LONGEST + 1), row, "o-", label=name)
axis.axhline(1 / SYMBOLS, color="grey", linestyle=":", label="guessing")
axis.set(xlabel="length of the source", ylabel="symbols written correctly", ylim=(0, 1.03))
axis.legend(frameon=False)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "bottleneck.png", dpi=150)
