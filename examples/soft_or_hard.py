"""Soft and hard attention: an average that has a gradient, against one sampled key that needs REINFORCE.

Soft attention returns Σ a_s v_s.  Hard attention draws one s with probability a_s and returns v_s: the mean
is the same, but a sample has no gradient with respect to a.  REINFORCE estimates it from rewards.
"""

import sys

import matplotlib.pyplot as plt
import torch

import qkv

# %% One query over eight keys; the loss is the squared distance of the output from a target.
torch.manual_seed(0)
KEYS, WIDTH, SAMPLES = 8, 4, 2000
keys, values = torch.randn(1, 1, KEYS, WIDTH), torch.randn(1, 1, KEYS, WIDTH)
query, target = torch.randn(1, 1, 1, WIDTH), torch.randn(WIDTH)

soft = qkv.attend(query, keys, values)
sampler = qkv.Attention(WIDTH, project=False, select=qkv.Hard())  # in training mode it draws
hard = sampler.attend(query[0].expand(SAMPLES, -1, -1), keys[0].expand(SAMPLES, -1, -1))
assert soft.weights is not None
assert hard.weights is not None
frequencies = hard.weights.mean((0, 1, 2))
print("soft weights      ", [round(float(w), 2) for w in soft.weights.flatten()])
print("sampled frequencies", [round(float(w), 2) for w in frequencies])
torch.testing.assert_close(frequencies, soft.weights.flatten(), atol=0.05, rtol=0)


# %% The exact gradient of the expected loss with respect to the query, by summing over all eight choices.
def loss_of(out: torch.Tensor) -> torch.Tensor:
    """The squared distance of outputs [..., WIDTH] from the target."""
    return (out - target).square().sum(-1)


q = query.clone().requires_grad_()
probabilities = (q @ keys.mT / WIDTH**0.5).softmax(-1).flatten()
(exact,) = torch.autograd.grad((probabilities * loss_of(values).flatten()).sum(), q)


# %% REINFORCE: (loss - baseline) ∇ log a_s at sampled s, averaged over n samples; the baseline tames it.
def estimate(samples: int, baseline: float) -> torch.Tensor:
    """The gradient with respect to the query from `samples` draws."""
    q = query.clone().requires_grad_()
    log_a = (q @ keys.mT / WIDTH**0.5).log_softmax(-1).flatten()
    drawn = torch.multinomial(log_a.exp().detach(), samples, replacement=True)
    reward = loss_of(values).flatten()[drawn] - baseline
    return torch.autograd.grad((reward * log_a[drawn]).mean(), q)[0]


mean_loss = float((probabilities.detach() * loss_of(values).flatten()).sum())
counts = [2**power for power in range(11)]
errors = {
    name: [
        sum(float((estimate(n, baseline) - exact).norm()) for _ in range(40)) / 40 / float(exact.norm())
        for n in counts
    ]
    for name, baseline in (("without baseline", 0.0), ("with the mean loss as baseline", mean_loss))
}
print("relative error with 1 024 samples:", {name: round(row[-1], 3) for name, row in errors.items()})
assert errors["without baseline"][-1] < errors["without baseline"][0] / 10

# %% The picture.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
left.bar(range(KEYS), soft.weights.flatten().numpy(), alpha=0.4, label="soft weights")
left.plot(range(KEYS), frequencies, "k_", markersize=14, label="hard: frequency")
left.set(xlabel="key", title=f"{SAMPLES:,} samples")
left.legend(frameon=False)
for name, row in errors.items():
    right.loglog(counts, row, "o-", label=name)
right.set(xlabel="samples", title="relative error of the gradient")
right.legend(frameon=False)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "soft_or_hard.png", dpi=150)
