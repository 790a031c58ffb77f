"""Builds the examples of a trace from decoded captions: words over the cells of the picture."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.decode import Hypothesis
from qkv.task.grid_axes import make_grid
from qkv.task.texts import AnyTokenizer
from qkv.trace import Axis, Example, WeightAxes, stack_steps

BEGIN, END = "<s>", "</s>"
CAPTION, SO_FAR = "caption", "caption so far"


def build_example(
    model: Any,
    tokenizer: AnyTokenizer,
    inputs: Tensor,
    hypothesis: Hypothesis,
    picture: str | None,
    number: int,
) -> Example:
    """The example of one captioned picture.

    The weights of the decoder come from the hypothesis; those of the encoder are computed again.

    Args:
        model: the captioner.
        tokenizer: its tokenizer.
        inputs: the picture [1,3,S,S].
        hypothesis: the caption, with captured weights.
        picture: the path of the picture; None if it has none.
        number: the number of the picture.
    """
    with torch.inference_mode():
        annotations, attended, grids = model.encoder.forward_with_weights(
            inputs.to(next(model.parameters()).device)
        )
    words = (*tokenizer.pieces(hypothesis.tokens), *((END,) if hypothesis.finished else ()))
    axes: dict[str, Axis] = {CAPTION: words, SO_FAR: (BEGIN, *words)[: len(words)]}
    weights, weight_axes = {}, {}
    for name, returned in attended.items():
        if returned.weights is not None:
            rows, columns = (_add_grid(axes, model, inputs, cells, picture) for cells in grids[name])
            weights[f"encoder.{name}"] = returned.weights[0].float().cpu().numpy()
            weight_axes[f"encoder.{name}"] = WeightAxes(rows, columns)
    places = model.attention_places()
    for name, steps in hypothesis.weights.items():
        is_cross = places[name] == "cross"
        cells = (annotations.height, annotations.width)
        columns = _add_grid(axes, model, inputs, cells, picture) if is_cross else SO_FAR
        weights[name] = stack_steps([step.numpy() for step in steps])
        weight_axes[name] = WeightAxes(CAPTION, columns, causal=not is_cross)
    return Example(
        named_axes=_select_axes(axes, weight_axes.values()),
        weights=weights,
        weight_axes=weight_axes,
        log_probs=np.array(hypothesis.log_probs, dtype=np.float32),
        log_probs_axis=CAPTION,
        meta={"line": number, "score": hypothesis.score, "text": tokenizer.decode(hypothesis.tokens)},
    )


def _add_grid(
    axes: dict[str, Axis], model: Any, inputs: Tensor, cells: tuple[int, int], picture: str | None
) -> str:
    """The name of the axis of a grid of the picture."""
    name = f"picture {cells[0]}×{cells[1]}"
    axes[name] = make_grid(model.encoder.config, inputs.shape[-1], cells, picture)
    return name


def _select_axes(axes: dict[str, Axis], used: Any) -> dict[str, Axis]:
    names = {CAPTION, *(name for pair in used for name in (pair.rows, pair.columns))}
    return {name: axis for name, axis in axes.items() if name in names}
