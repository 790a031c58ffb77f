"""Three ways of processing a sequence: recurrence, convolution and self-attention.

What differs is how many steps in sequence a layer needs, how far apart two positions are that reach each
other in one layer, and how the work grows with the length N (Vaswani et al. 2017, table 1).
"""

import sys
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import qkv

WIDTH, N = 64, 96

# %% Four layers that turn [B,N,WIDTH] into [B,N,WIDTH], none of which sees the future.
torch.manual_seed(0)
recurrence = nn.LSTM(WIDTH, WIDTH, batch_first=True)
convolution = nn.Conv1d(WIDTH, WIDTH, kernel_size=5)
softmax = qkv.Attention(WIDTH, heads=4, causal=True)
linear = qkv.Attention(WIDTH, heads=4, causal=True, kernel=qkv.RFA(32))


def convolve(x: Tensor) -> Tensor:
    """Each output reads the five inputs up to its own position."""
    return convolution(nn.functional.pad(x.mT, (4, 0))).mT


layers: dict[str, Callable[[Tensor], Tensor]] = {
    "recurrence (LSTM)": lambda x: recurrence(x)[0],
    "convolution (5 wide)": convolve,
    "attention (softmax)": softmax,
    "attention (RFA)": linear,
}

# %% How much the last output depends on each input: the size of the gradient.
reach = {}
for name, layer in layers.items():
    x = torch.randn(32, N, WIDTH, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[:, -1].square().sum(), x)
    size = gradient.norm(dim=-1).mean(0)
    reach[name] = size / size.sum()
    far = float(reach[name][: N // 2].sum())
    print(f"{name:20} {far:6.1%} of what the last output reads is in the first half")

# %% The CPU time of a forward pass over the length.
lengths, times = [128, 256, 512, 1024, 2048], {}
for name, layer in layers.items():
    times[name] = []
    for length in lengths:
        x, row = torch.randn(1, length, WIDTH), []
        with torch.inference_mode():
            layer(x)
            for _ in range(3):
                start = time.process_time()
                layer(x)
                row.append(1000 * (time.process_time() - start))
        times[name].append(min(row))
    print(f"{name:20} " + ", ".join(f"{n:,}: {t:.2f} ms" for n, t in zip(lengths, times[name], strict=True)))

# %% The picture.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for name in layers:
    left.semilogy(range(1 - N, 1), reach[name].clamp_min(1e-8), label=name)
    right.loglog(lengths, times[name], "o-", label=name)
left.set(xlabel="input, counted from the last", ylabel="share of the gradient", ylim=(1e-6, 1))
right.set(xlabel="tokens", ylabel="CPU ms, forward")
right.set_xticks(lengths, [f"{n:,}" for n in lengths])
right.minorticks_off()
right.legend(frameon=False, fontsize="small")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "three_ways.png", dpi=150)
