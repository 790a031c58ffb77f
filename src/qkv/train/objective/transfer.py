"""The objective of attention transfer: a new attention learns what a trained one does, layer by layer.

Every layer of the new attention reads what the same layer of the trained model reads, so that all layers
learn at once and none of them reads the errors of another.  Two measures of the mismatch:

    outputs   Σ_t |o'_t - o_t|² / |o_t|²           relative squared error
    weights   Σ_t Σ_s a_ts log(a_ts / a'_ts)       cross-entropy less its smallest value

with o and a the outputs and weights of the trained attention, o' and a' those of the new one.  Both are sums
over queries, so that an update has the same gradient however its rows are split.  The outputs are matched by
Zhang et al. 2024 (LoLCATs, arXiv:2410.10254), the weights by Zhang et al. 2024 (Hedgehog, arXiv:2402.04347).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.layer import Attention
from qkv.train.objective.base import Loss, Objective

SMALLEST_SQUARE = 1e-12
SMALLEST_WEIGHT = 1e-6  # features of sine and cosine can give negative weights, which have no logarithm

Match = Literal["outputs", "weights"]


class Reading(NamedTuple):
    """What a model reads of a batch.

    Args:
        inputs: the arguments of the model.
        queries: name of every attention -> [B,T], True at its real queries.
        count: what the losses of the batch are divided by: the number of its tokens.
    """

    inputs: tuple[Tensor, ...]
    queries: Mapping[str, Bool[Tensor, "B T"]]
    count: int


class Call(NamedTuple):
    """One call of an attention layer: its arguments and its output [B,T,M]."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    out: Tensor


def read_language_batch(model: Any, batch: Any) -> Reading:
    """What a language model reads of a batch of segments; see `LanguageModeling`.

    Args:
        model: the language model.
        batch: inputs, keep and scored [B,N].
    """
    keep: Tensor = batch.keep
    queries = dict.fromkeys(_get_attentions(model), keep)
    return Reading((batch.inputs,), queries, int(batch.scored.sum()))


def read_translation_batch(model: Any, batch: Any) -> Reading:
    """What a translation model reads of a batch of pairs; see `Translation`.

    Args:
        model: the translation model.
        batch: source, source_keep, target and target_keep.
    """
    target_keep = batch.target_keep[:, 1:]
    masks = {"encoder": batch.source_keep, "decoder": target_keep, "cross": target_keep}
    queries = {name: masks[place] for name, place in model.attention_places().items()}
    inputs = (batch.source, batch.source_keep, batch.target[:, :-1])
    return Reading(inputs, queries, int(target_keep.sum()))


class AttentionTransfer(Objective):
    """The mismatch between the attentions of a model and those of a trained one.

    Only attentions of another spec than the trained one's learn; everything else of the model is fixed, and
    so is the trained model, which is part of the objective's state.

    Args:
        model: the model that learns; `model.attention_layers()` names its attentions.
        trained: the trained model, with attentions of the same names.
        read: what the trained model reads of a batch.
        match: "outputs" or "weights".  With weights, only queries, keys and the parameters of the kernel
            learn, and every layer needs memory for all pairs of positions.

    Raises:
        BadRecipe: the models do not have the same number of attentions, they are all of the same spec, or
            weights are to be matched and the numbers of heads differ.
    """

    progress_metrics = ("mismatch",)

    def __init__(
        self, model: nn.Module, trained: nn.Module, read: Callable[[Any, Any], Reading], match: Match
    ) -> None:
        super().__init__()
        self.model, self.trained, self.read, self.match = model, trained, read, match
        self.names = _list_differing_attentions(_get_attentions(model), _get_attentions(trained), match)
        trained.requires_grad_(False).eval()
        model.requires_grad_(False)
        for name in self.names:
            layer = _get_attentions(model)[name].requires_grad_(True)
            if match == "weights" and layer.spec.project:
                layer.to_out.requires_grad_(False)

    def forward(self, batch: Any) -> Loss:
        """The mismatch of all queries, its mean over the layers.

        Args:
            batch: whatever `read` takes.

        Returns:
            The loss, with the metric mismatch.
        """
        reading = self.read(self.model, batch)
        with torch.no_grad(), record_calls(self.trained, self.names) as calls:
            self.trained(*reading.inputs)
        mismatches = [self._measure(name, calls[name], reading.queries[name]) for name in self.names]
        total = torch.stack(mismatches).mean()
        return Loss(total, reading.count, {"mismatch": total.detach()})

    def train(self, mode: bool = True) -> "AttentionTransfer":
        """Set the mode of the model that learns; the trained one stays in evaluation mode."""
        super().train(mode)
        self.trained.eval()
        return self

    def saved_module(self) -> nn.Module:
        """The model that learns."""
        return self.model

    def _measure(self, name: str, call: Call, queries: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
        layer = _get_attentions(self.model)[name]
        if self.match == "outputs":
            return sum_relative_errors(layer(*call.arguments, **call.options), call.out, queries)
        trained = _get_attentions(self.trained)[name]
        with torch.no_grad():
            expected = trained.attend(*call.arguments, **call.options).weights
        weights = layer.attend(*call.arguments, **call.options).weights
        assert expected is not None
        assert weights is not None
        return sum_divergences(weights, expected, queries)


def sum_relative_errors(
    out: Float[Tensor, "B T M"], expected: Float[Tensor, "B T M"], queries: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Σ_t |out_t - expected_t|² / |expected_t|² over the real queries.

    Args:
        out: the outputs of the new attention.
        expected: those of the trained one.
        queries: True at real queries.
    """
    out, expected = out.float()[queries], expected.float()[queries]
    return ((out - expected).square().sum(-1) / expected.square().sum(-1).clamp_min(SMALLEST_SQUARE)).sum()


def sum_divergences(
    weights: Float[Tensor, "B H T S"], expected: Float[Tensor, "B H T S"], queries: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Σ_t Σ_s a_ts log(a_ts / a'_ts) over the real queries, its mean over the heads.

    Args:
        weights: a', the weights of the new attention.
        expected: a, those of the trained one.
        queries: True at real queries.
    """
    weights, expected = (each.float().clamp_min(SMALLEST_WEIGHT) for each in (weights, expected))
    terms = (expected * (expected.log() - weights.log())).sum(-1).mean(1)
    return terms[queries].sum()


@contextmanager
def record_calls(model: nn.Module, names: list[str]) -> Iterator[dict[str, Call]]:
    """Record the calls of some attentions of a model within the block.

    Args:
        model: the model.
        names: names of its attentions; each is called once.

    Yields:
        Name -> the call, filled within the block.
    """
    calls: dict[str, Call] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def record(_: Any, arguments: tuple[Any, ...], options: dict[str, Any], out: Tensor) -> None:
            calls[name] = Call(arguments, options, out)

        return record

    layers = _get_attentions(model)
    hooks = [layers[name].register_forward_hook(make_hook(name), with_kwargs=True) for name in names]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _get_attentions(model: Any) -> dict[str, Attention]:
    return dict(model.attention_layers())


def _list_differing_attentions(
    layers: Mapping[str, Attention], trained: Mapping[str, Attention], match: Match
) -> list[str]:
    if layers.keys() != trained.keys() or not layers:
        raise BadRecipe(
            f"transfer needs the same attention layers in both models, but this one has {_join(layers)}, and "
            f"the trained one {_join(trained)}: give both the same kind and number of layers"
        )
    names = [name for name, layer in layers.items() if layer.spec != trained[name].spec]
    if not names:
        raise BadRecipe(
            "transfer has nothing to match: every attention is of the same kind as in the trained model: "
            "change the section of the attention, or leave out transfer"
        )
    if match == "weights" and any(layers[name].dims.heads != trained[name].dims.heads for name in names):
        raise BadRecipe(
            "transfer.match: weights needs as many heads as the trained model has: set them, or set "
            "match: outputs"
        )
    return names


def _join(names: Mapping[str, Attention]) -> str:
    return ", ".join(names) or "none"
