"""Examples of a trace from decoded translations: tokens, probabilities, and the weights of every layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qkv.data import TokenizerPair, collate_source
from qkv.decode import Hypothesis
from qkv.model.attention_names import Place, parse_place
from qkv.trace import Example, WeightAxes, stack

BEGIN, END = "<s>", "</s>"
# A decoding step attends to the tokens before the one that it emits.
AXES: dict[Place, WeightAxes] = {
    "encoder": WeightAxes("source", "source"),
    "cross": WeightAxes("target", "source"),
    "decoder": WeightAxes("target", "target so far", causal=True),
}


def example_of(
    model: Any, tokens: TokenizerPair, ids: Sequence[int], hypothesis: Hypothesis, line: int
) -> Example:
    """The example of one translated line, for a trace.

    Decoder weights come from the hypothesis; encoder weights are computed again from the source.

    Args:
        model: the translation model.
        tokens: its tokenizers.
        ids: token ids of the source, without the end symbol.
        hypothesis: the translation, with captured weights.
        line: the number of the line.
    """
    source, keep = collate_source([ids])
    device = next(model.parameters()).device
    with torch.inference_mode():
        encoder_weights = model.encoder_weights(source.to(device), keep.to(device))
    weights = {name: weight[0].float().cpu().numpy() for name, weight in encoder_weights.items()}
    for name, steps in hypothesis.weights.items():
        stacked = stack([step.numpy() for step in steps])
        weights[name] = stacked[:, :, : source.shape[1]] if axes_of(name).columns == "source" else stacked
    end = (END,) if hypothesis.finished else ()
    return translation_example(
        source=(*tokens.source.pieces(ids), END),
        target=(*tokens.target.pieces(hypothesis.tokens), *end),
        weights=weights,
        log_probs=np.array(hypothesis.log_probs, dtype=np.float32),
        meta={"line": line, "score": hypothesis.score, "text": tokens.target.decode(hypothesis.tokens)},
    )


def translation_example(
    source: Sequence[str],
    target: Sequence[str],
    weights: Mapping[str, np.ndarray],
    log_probs: np.ndarray | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Example:
    """The example of a translation, with the axes "source", "target" and "target so far".

    Args:
        source: tokens of the source, special ones included.
        target: emitted tokens: those of the target without the begin symbol.
        weights: name -> [H, rows, columns]; "encoder.N", "cross.N" and "decoder.N" name layer N.
        log_probs: [T], log-probability of every target token; None where unknown.
        meta: further facts, as plain JSON values.

    Raises:
        BadData: where they do not fit each other.
    """
    previous = (BEGIN, *target)[: len(target)]
    return Example(
        named_axes={"source": tuple(source), "target": tuple(target), "target so far": previous},
        weights=weights,
        weight_axes={name: axes_of(name) for name in weights},
        log_probs=log_probs,
        log_probs_axis=None if log_probs is None else "target",
        meta=meta or {},
    )


def unnormalised(model: Any) -> tuple[str, ...]:
    """Names of weights that are no distributions: those of a feature map may be negative, and some scopes do
    not normalise.
    """
    specs = {name: layer.spec for name, layer in model.attention_layers().items()}
    return tuple(
        name for name, spec in specs.items() if not (spec.kernel.forms_weights and spec.scope.normalised)
    )


def axes_of(name: str) -> WeightAxes:
    """The axes of a translator's weights with this name; BadData for a name that no layer has."""
    return AXES[parse_place(name)]
