"""Models of texts with every mixer, kernel and pooling, as functions of token ids and a mask."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkv.model.classifier import Classifier, ClassifierConfig
from qkv.model.encoder import Encoder, EncoderConfig, MaskedLanguageModel
from qkv.model.hierarchical import HierarchicalClassifier, HierarchicalConfig
from qkv.model.language import LanguageModel, LanguageModelConfig

V = 30
SIZES: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "feedforward": 24, "max_length": 32}
KERNELS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "rfa": {"kernel": {"name": "rfa", "features": 16}},
    "rfa gate": {"kernel": {"name": "rfa", "features": 16, "gate": True}},
    "favor": {"kernel": {"name": "favor", "features": 16}},
    "elu": {"kernel": "elu"},
    "window": {"scope": {"name": "window", "half_width": 3}},
    "entmax": {"select": "entmax"},
}
MIXERS: dict[str, dict[str, Any]] = {
    **{name: {"attention": parts} for name, parts in KERNELS.items()},
    "softmax sinusoidal": {"positions": "sinusoidal"},
    "gru": {"mixer": "gru"},
    "lstm": {"mixer": "lstm", "feedforward": 0},
    "separable convolution": {"mixer": "convolution", "kernel_size": 3},
    "plain convolution": {"mixer": "convolution", "kernel_size": 3, "separable": False},
}
# positions that two layers reach back, where that is bounded
REACH = {"window": 6, "separable convolution": 6, "plain convolution": 6}
BIDIRECTIONAL = {name: parts for name, parts in KERNELS.items() if name != "rfa gate"}  # a gate is causal


class Case(NamedTuple):
    """A model that reads whole texts.

    Args:
        build: makes it.
        read: outputs with the batch first, of ids [B,N] and a mask [B,N].
        gives_states: whether there is an output for every token, or one for every text.
    """

    build: Callable[[], Any]
    read: Callable[[Any, Tensor, Tensor], Tensor]
    gives_states: bool = True


def build_language_model(mixer: str) -> LanguageModel:
    return _finish(LanguageModel(LanguageModelConfig(**{**SIZES, **MIXERS[mixer]}), V))


def _finish(model: Any) -> Any:
    """The model in float64 and in evaluation, with every parameter away from its initial value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


def _encoder(kind: Callable[..., nn.Module], parts: Any) -> Case:
    config = EncoderConfig(**SIZES, attention=parts)
    return Case(lambda: _finish(kind(config, V)), lambda model, ids, keep: model(ids, keep))


def _classifier(pool: Any, parts: Any) -> Case:
    config = ClassifierConfig(**SIZES, attention=parts, pool=pool)
    return Case(
        lambda: _finish(Classifier(config, V, 3)), lambda model, *text: model(*([x] for x in text)), False
    )


def _hierarchical(encoder: Any, parts: Any) -> Case:
    """Sentences of three tokens."""
    config = HierarchicalConfig(**SIZES, attention=parts, encoder=encoder)

    def read(model: Any, ids: Tensor, keep: Tensor) -> Tensor:
        return model([ids.unflatten(1, (-1, 3))], [keep.unflatten(1, (-1, 3))])

    return Case(lambda: _finish(HierarchicalClassifier(config, V, 3)), read, False)


CASES: dict[str, Case] = {
    **{f"encoder {name}": _encoder(Encoder, parts) for name, parts in BIDIRECTIONAL.items()},
    **{f"masked {name}": _encoder(MaskedLanguageModel, BIDIRECTIONAL[name]) for name in ("softmax", "rfa")},
    **{
        f"classifier {pool} {name}": _classifier(pool, parts)
        for name, parts in BIDIRECTIONAL.items()
        for pool in (("mean", "first", "attention") if name in ("softmax", "rfa") else ("mean",))
    },
    **{f"hierarchical {name}": _hierarchical("attention", parts) for name, parts in BIDIRECTIONAL.items()},
    "hierarchical gru": _hierarchical("gru", {}),
}
