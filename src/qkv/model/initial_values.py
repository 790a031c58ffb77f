"""Initial values of language models."""

from collections.abc import Collection, Iterable

from torch import nn

from qkv.layer import Attention

INITIAL_STD = 0.02


def initialise_like_gpt2(
    model: nn.Module, attentions: Iterable[Attention], residual_outputs: Collection[nn.Linear], layers: int
) -> None:
    """Initialise embeddings and matrices in place from N(0, 0.02²), as in GPT-2.

    Matrices that write into the residual stream have 1/sqrt(2·layers) of that standard deviation, so that the
    variance of the stream does not grow with depth (Radford et al. 2019, section 2.3).  Attention keeps its
    own values for everything but the output, for with queries and keys of 0.02 it attends to all positions
    alike for hundreds of updates.  Cells of a recurrence keep torch's values.

    Args:
        model: the model.
        attentions: its attention layers.
        residual_outputs: the layers whose output is added to the residual stream.
        layers: the number of blocks of two sublayers.
    """
    kept = {module for attention in attentions for module in attention.modules()} - {*residual_outputs}
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.Linear)) and module not in kept:
            writes = module in residual_outputs
            nn.init.normal_(module.weight, std=INITIAL_STD / (2 * layers) ** 0.5 if writes else INITIAL_STD)
