"""From a decoded hypothesis to an example of a trace: tokens, probabilities, and where every layer looked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qkv.data import TokenizerPair, collate_source
from qkv.decode.search import Hypothesis
from qkv.trace import Example, stack

END = "</s>"


def example_of(
    model: Any, tokens: TokenizerPair, ids: Sequence[int], hypothesis: Hypothesis, line: int
) -> Example:
    """The example of the translated line of that number: decoder weights as captured, encoder weights
    recomputed from the source's ids.
    """
    source, keep = collate_source([ids])
    device = next(model.parameters()).device
    with torch.inference_mode():
        encoder = model.encoder_weights(source.to(device), keep.to(device))
    weights = {name: seen[0].float().cpu().numpy() for name, seen in encoder.items()}
    for name, steps in hypothesis.weights.items():
        looked = stack([step.numpy() for step in steps])
        weights[name] = looked[:, :, : source.shape[1]] if name.startswith("cross") else looked
    end = (END,) if hypothesis.finished else ()
    return Example(
        source=(*tokens.source.pieces(ids), END),
        target=(*tokens.target.pieces(hypothesis.tokens), *end),
        weights=weights,
        log_probs=np.array(hypothesis.log_probs, dtype=np.float32),
        meta={"line": line, "score": hypothesis.score, "text": tokens.target.decode(hypothesis.tokens)},
    )


def unnormalised(model: Any) -> tuple[str, ...]:
    """Names of weights that are no distributions: those of a feature map may be negative, and some scopes do
    not normalise.
    """
    specs = {name: layer.spec for name, layer in model.attentions().items()}
    return tuple(
        name for name, spec in specs.items() if not (spec.kernel.forms_weights and spec.scope.normalised)
    )
