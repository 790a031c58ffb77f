"""Counting the parameters of a Transformer by hand, and checking the sum against the model.

With M the model width and F the width of the feed-forward network, and with biases:

    attention      4 (M² + M)              queries, keys, values and output
    feed-forward   2 M F + M + F
    norm           2 M
"""

import sys

import matplotlib.pyplot as plt
from torch import nn

import qkv


# %% The closed formulas, per layer.
def count_layer(width: int, inner: int, attentions: int) -> dict[str, int]:
    """The parameters of a layer with one attention (an encoder's) or two (a decoder's)."""
    return {
        "attention": attentions * 4 * (width**2 + width),
        "feed-forward": 2 * width * inner + width + inner,
        "norms": (attentions + 1) * 2 * width,
    }


def count_transformer(layers: int, width: int, inner: int) -> dict[str, int]:
    """The parameters of as many encoder as decoder layers."""
    encoder, decoder = count_layer(width, inner, 1), count_layer(width, inner, 2)
    return {name: layers * (encoder[name] + decoder[name]) for name in encoder}


base = count_transformer(6, 512, 2048)
print("Transformer-Base, without embeddings:", f"{sum(base.values()):,}", base)
assert sum(base.values()) == 44_138_496  # post-norm, without a norm behind the last layer


# %% The same from modules: one layer of each kind, counted.
def count(module: nn.Module) -> int:
    """How many numbers the module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


attention, norm = qkv.Attention(512, heads=8), nn.LayerNorm(512)
feed_forward = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512))
assert count(attention) == count(qkv.Attention(512, heads=1))  # heads split the width: they cost nothing
encoder_layer = count(attention) + count(feed_forward) + 2 * count(norm)
decoder_layer = 2 * count(attention) + count(feed_forward) + 3 * count(norm)
assert 6 * (encoder_layer + decoder_layer) == sum(base.values())

# %% Embeddings: one matrix V × M, shared by both sides and the output in the paper (37 000 word pieces).
embeddings = 37_000 * 512
total = sum(base.values()) + embeddings
print(f"with a shared embedding matrix: {total:,} (the paper says 65 million)")

# %% Bigger ones: the share of each component.
sizes = {"Tiny\n128 wide": (4, 128, 256, 10_000), "Base\n512 wide": (6, 512, 2048, 37_000)}
sizes["Big\n1024 wide"] = (6, 1024, 4096, 37_000)
shares = {}
for name, (layers, width, inner, vocab) in sizes.items():
    parts = {**count_transformer(layers, width, inner), "embeddings": vocab * width}
    shares[name] = {part: number / sum(parts.values()) for part, number in parts.items()}

# %% The picture.
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
left = [0.0] * len(sizes)
for part in ("embeddings", "attention", "feed-forward", "norms"):
    row = [shares[name][part] for name in sizes]
    axis.barh(list(sizes), row, left=left, label=part)
    left = [a + b for a, b in zip(left, row, strict=True)]
axis.set(xlabel="share of the parameters", xlim=(0, 1))
axis.invert_yaxis()
axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.17), fontsize="small")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "count_parameters.png", dpi=150)
