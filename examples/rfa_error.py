"""Random feature attention: its error against the number of features R, and the time that it saves.

softmax(q·k) is replaced by φ(q)·φ(k) with R random sines and cosines.  The error falls with 1 / sqrt(R), and
the time grows with N instead of N², since Σ φ(k)⊗v is summed once for all queries.
"""

import sys
import time

import matplotlib.pyplot as plt
import torch

import qkv

# %% The error of the output, for R from 16 to 1 024, averaged over draws of the features.
torch.manual_seed(0)
D = 16
q, k, v = (scale * torch.randn(1, 4, 128, D) for scale in (0.5, 0.5, 1.0))
exact = qkv.attention(q, k, v)


def measure_error(features: int) -> float:
    """The relative error of RFA as an estimate of softmax attention of the same q and k."""
    kernel = qkv.RFA(features, normalise=False, temperature=D**0.25)
    draws = [
        qkv.attention(q, k, v, kernel=kernel, generator=torch.Generator().manual_seed(s)) for s in range(8)
    ]
    return sum(float((out - exact).norm() / exact.norm()) for out in draws) / len(draws)


counts = [16, 32, 64, 128, 256, 512, 1024]
errors = [measure_error(features) for features in counts]
for features, error in zip(counts, errors, strict=True):
    print(f"R = {features:4}: relative error {error:.3f}")
assert errors[-1] < errors[0] / 3

# %% The CPU time of a causal layer with softmax and with 32 features, over the length.
lengths = [256, 512, 1024, 2048, 4096]


def measure_time(layer: qkv.Attention, length: int) -> float:
    """The shortest of three times of one forward pass, in milliseconds of CPU time."""
    x, times = torch.randn(1, length, 64), []
    with torch.inference_mode():
        layer(x)
        for _ in range(3):
            start = time.process_time()
            layer(x)
            times.append(1000 * (time.process_time() - start))
    return min(times)


softmax = qkv.Attention(64, heads=4, causal=True).eval()
rfa = qkv.Attention(64, heads=4, causal=True, kernel=qkv.RFA(32)).eval()
times = {
    name: [measure_time(layer, n) for n in lengths]
    for name, layer in (("softmax", softmax), ("RFA(32)", rfa))
}
for name, row in times.items():
    print(f"{name}: " + ", ".join(f"{n:,} tokens {t:.1f} ms" for n, t in zip(lengths, row, strict=True)))

# %% The picture.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
left.loglog(counts, errors, "o-", label="RFA")
left.loglog(counts, [errors[0] * (counts[0] / n) ** 0.5 for n in counts], "k:", label="1 / sqrt(R)")
left.set(xlabel="features R", ylabel="relative error", title="error")
left.set_xticks(counts, counts)
left.set_yticks([0.03, 0.1, 0.3], ["0.03", "0.1", "0.3"])
left.minorticks_off()
left.legend(frameon=False)
for name, row in times.items():
    right.loglog(lengths, row, "o-", label=name)
right.set(xlabel="tokens", ylabel="CPU ms, forward", title="time")
right.set_xticks(lengths, [f"{n:,}" for n in lengths])
right.minorticks_off()
right.legend(frameon=False)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "rfa_error.png", dpi=150)
