"""Builds the examples of a trace from decoded translations: tokens, probabilities, weights of every layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qkv.data import TokenizerPair, collate_source
from qkv.decode import Hypothesis
from qkv.task.translate.forced_decoding import measure_occlusion
from qkv.trace import Example, WeightAxes, stack_steps

OCCLUSION = "occlusion.source"
BEGIN, END = "<s>", "</s>"
# By the place of an attention. A decoding step attends to the tokens before the one that it emits.
AXES = {
    "encoder": WeightAxes("source", "source"),
    "cross": WeightAxes("target", "source"),
    "decoder": WeightAxes("target", "target so far", causal=True),
}


def build_example(
    model: Any,
    tokens: TokenizerPair,
    ids: Sequence[int],
    hypothesis: Hypothesis,
    line: int,
    *,
    occlude: bool = False,
) -> Example:
    """The example of one translated line.

    Decoder weights come from the hypothesis; encoder weights are computed again from the source.

    Args:
        model: the translation model.
        tokens: its tokenizers.
        ids: token ids of the source, without the end symbol.
        hypothesis: the translation, with captured weights.
        line: the number of the line.
        occlude: add "occlusion.source": the fall of every log-probability when a source word is left out.
    """
    source, keep = collate_source([ids])
    device = next(model.parameters()).device
    with torch.inference_mode():
        encoder_weights = model.encoder_weights(source.to(device), keep.to(device))
    axes = {name: AXES[place] for name, place in model.attention_places().items()}
    weights = {name: weight[0].float().cpu().numpy() for name, weight in encoder_weights.items()}
    for name, steps in hypothesis.weights.items():
        stacked = stack_steps([step.numpy() for step in steps])
        is_padded = axes[name].columns == "source"  # to the longest source of the batch
        weights[name] = stacked[:, :, : source.shape[1]] if is_padded else stacked
    end = (END,) if hypothesis.finished else ()
    if occlude:
        axes[OCCLUSION] = AXES["cross"]
        count = len(hypothesis.tokens) + len(end)
        weights[OCCLUSION] = measure_occlusion(
            model, ids, tokens.source.pieces(ids), hypothesis.tokens, count
        )
    return translation_example(
        source=(*tokens.source.pieces(ids), END),
        target=(*tokens.target.pieces(hypothesis.tokens), *end),
        weights=weights,
        weight_axes={name: axes[name] for name in weights},
        log_probs=np.array(hypothesis.log_probs, dtype=np.float32),
        meta={"line": line, "score": hypothesis.score, "text": tokens.target.decode(hypothesis.tokens)},
    )


def translation_example(
    source: Sequence[str],
    target: Sequence[str],
    weights: Mapping[str, np.ndarray],
    weight_axes: Mapping[str, WeightAxes],
    log_probs: np.ndarray | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Example:
    """The example of a translation, with the axes "source", "target" and "target so far".

    Args:
        source: tokens of the source, special ones included.
        target: emitted tokens: those of the target without the begin symbol.
        weights: name -> [H, rows, columns].
        weight_axes: name -> the axes of these weights, such as `AXES["cross"]`.
        log_probs: [T], log-probability of every target token; None if unknown.
        meta: further facts, as plain JSON values.

    Raises:
        BadData: the sizes of tokens, weights and log_probs do not fit each other.
    """
    previous = (BEGIN, *target)[: len(target)]
    return Example(
        named_axes={"source": tuple(source), "target": tuple(target), "target so far": previous},
        weights=weights,
        weight_axes=weight_axes,
        log_probs=log_probs,
        log_probs_axis=None if log_probs is None else "target",
        meta=meta or {},
    )
