"""Self-attention does not know where a token is; positions tell it.

Without positions, self-attention is permutation equivariant: permuting the tokens permutes the outputs in the
same way, so "dog bites man" and "man bites dog" give every word the same output.
"""

import sys

import matplotlib.pyplot as plt
import torch

import qkv
from qkv.model.positions import Sinusoids

# %% A layer, a sentence of random word vectors, and the same words in another order.
torch.manual_seed(0)
WIDTH = 64
words = ["the", "dog", "bites", "the", "man"]
vectors = {word: torch.randn(WIDTH) for word in dict.fromkeys(words)}
x = torch.stack([vectors[word] for word in words])[None]
order = [0, 4, 2, 3, 1]  # the man bites the dog
layer = qkv.Attention(WIDTH, heads=4).eval()

# %% The outputs are permuted as the inputs are; the two "the" cannot be told apart.
with torch.no_grad():
    plain, permuted = layer.attend(x), layer.attend(x[:, order])
torch.testing.assert_close(permuted.out, plain.out[:, order])
torch.testing.assert_close(plain.out[0, 0], plain.out[0, 3])

# %% With positions added, order matters and the two "the" differ.
positions = Sinusoids(WIDTH)
with torch.no_grad():
    ordered, reordered = layer.attend(positions(x)), layer.attend(positions(x[:, order]))
difference = (reordered.out - ordered.out[:, order]).norm() / ordered.out.norm()
print(f"without positions: equivariant; with positions the outputs differ by {difference:.0%}")
assert difference > 0.1

# %% A causal mask is a position of its own: the first word sees one key, the last one five.
causal = qkv.Attention(WIDTH, heads=4, causal=True).eval()
with torch.no_grad():
    masked, remasked = causal(x), causal(x[:, order])
print(
    f"a causal mask alone: the outputs differ by {(remasked - masked[:, order]).norm() / masked.norm():.0%}"
)

# %% The picture: weights of the first head in both orders, without and with positions.
figure, axes = plt.subplots(2, 2, figsize=(6.5, 6), layout="constrained")
new_words = [words[i] for i in order]
panels = [(plain, words), (permuted, new_words), (ordered, words), (reordered, new_words)]
for axis, (attended, labels) in zip(axes.flat, panels, strict=True):
    assert attended.weights is not None
    axis.imshow(attended.weights[0, 0].numpy(), cmap="Blues", vmin=0, vmax=0.6)
    axis.set_xticks(range(5), labels, rotation=45)
    axis.set_yticks(range(5), labels)
for axis, title in zip(axes[:, 0], ("no positions", "sinusoidal positions"), strict=True):
    axis.set_ylabel(title)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "permutation.png", dpi=150)
