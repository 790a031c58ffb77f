"""The gate of random feature attention: how long each head remembers.

Without a gate the state is S_t = S_{t-1} + φ(k_t)⊗v_t, and the first token counts as much as the last.  With
a gate g_t between 0 and 1, S_t = g_t S_{t-1} + (1 - g_t) φ(k_t)⊗v_t: a token's share halves every log ½ / log
g tokens, and g is computed from the tokens, so that a model can keep what matters and forget the rest.
"""

import math
import sys

import matplotlib.pyplot as plt
import torch

import qkv

# %% Fixed gates: after 64 equal keys, the weight of a token is a power of the gate.
N, FEATURES = 64, 64
half_lives = {gate: math.log(0.5) / math.log(gate) for gate in (0.5, 0.9, 0.97, 0.99)}
weights, ages = {}, torch.arange(N - 1, -1, -1.0)
for gate in half_lives:
    weights[gate] = gate**ages * (1 - gate)
    print(f"gate {gate}: the share of a token halves every {half_lives[gate]:.1f} tokens")

# %% A layer computes the gate of every head from each token; its bias decides where training begins.
torch.manual_seed(0)
layer = qkv.Attention(32, heads=4, causal=True, kernel=qkv.RFA(FEATURES, gate=True)).eval()
x = torch.randn(1, N, 32)
gate_bias = next(p for name, p in layer.named_parameters() if "gate" in name and name.endswith("bias"))
rows = {}
with torch.no_grad():
    for bias in (0.0, 2.0, 4.0):
        gate_bias.fill_(bias)
        attended = layer.attend(x)
        assert attended.weights is not None
        rows[bias] = attended.weights[0, :, -1].mean(0)  # the last query, a mean over heads
shares = {bias: float(row[N // 2 :].sum() / row.sum()) for bias, row in rows.items()}
print("share of the later half of the tokens:", {bias: f"{share:.0%}" for bias, share in shares.items()})
assert shares[0.0] > shares[4.0]

# %% The picture.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
for gate, row in weights.items():
    left.plot(row / row[-1], label=f"g = {gate}: half-life {half_lives[gate]:.0f}")
left.set(xlabel="token", ylabel="share, relative to the last token", title="fixed gates")
left.legend(frameon=False, fontsize="small")
for bias, row in rows.items():
    right.plot(row, label=f"bias {bias:.0f}")
right.set(xlabel="token", ylabel="weight of the last query", title="gates computed from random tokens")
right.legend(frameon=False, fontsize="small")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "gate_half_life.png", dpi=150)
