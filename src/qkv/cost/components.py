"""The components of a model: which of them runs, and which parameters each has."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from torch import nn

from qkv.kernel.core import Core
from qkv.layer import Attention
from qkv.model.adaptive_output import AdaptiveOutput
from qkv.model.blocks import FeedForward
from qkv.model.feedforward import FeedForwardNet
from qkv.model.mixers import ConvolutionMixer
from qkv.model.pooling import AttentionPool
from qkv.model.positions import LearnedPositions
from qkv.model.recurrent_cell import RecurrentCell
from qkv.model.self_attention_2d import SelfAttention2d

OUTPUT = "output layer"  # objectives multiply by its weight themselves
OTHERS = "other parts"
RECOMPUTED = "recomputed for gradients"
PROJECTIONS = " projections"

# What a component is called, by the class of its outermost module.
KINDS: dict[type[nn.Module], str] = {
    FeedForward: "feed-forward",
    FeedForwardNet: "feed-forward",
    nn.LayerNorm: "normalisation",
    nn.RMSNorm: "normalisation",
    nn.GroupNorm: "normalisation",
    nn.BatchNorm2d: "normalisation",
    nn.GRU: "recurrent network",
    nn.LSTM: "recurrent network",
    RecurrentCell: "recurrent cell",
    ConvolutionMixer: "convolution",
    nn.Conv2d: "convolutions",
    AttentionPool: "pooling",
    LearnedPositions: "positions",
    AdaptiveOutput: OUTPUT,
}
ATTENTIONS = (Attention, SelfAttention2d)
ENTRY_POINTS = ("forward", "attend", "start", "step", "extend", "attend_step", "attend_to_state")
STACKS = {"blocks": "layers", "layers": "layers", "stages": "stages"}
EMBEDDINGS = {"embedding": "embedding", "words": "word vectors", "target_words": "target word vectors"}


class ComponentStack:
    """Knows which component of a model runs, by wrapping the methods of its modules.

    Args:
        model: the model, which is not used otherwise.
    """

    def __init__(self, model: nn.Module) -> None:
        self._running: list[str] = []
        for name, module, component in iterate_modules(model):
            if component or not name:
                self._wrap_entry_points(module, component or OTHERS)

    def get(self) -> str:
        """The name of the component that runs; the output layer outside of the model."""
        return self._running[-1] if self._running else OUTPUT

    def _wrap_entry_points(self, module: nn.Module, component: str) -> None:
        for name in ENTRY_POINTS:
            if callable(method := getattr(type(module), name, None)):
                setattr(module, name, self._wrap(method.__get__(module), component))

    def _wrap(self, method: Callable[..., Any], component: str) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._running.append(component)
            try:
                return method(*args, **kwargs)
            finally:
                self._running.pop()

        return call


def iterate_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every module of a model once, with its name and the name of its component.

    Args:
        model: the model.

    Yields:
        Name, module and component; "" where a module belongs to none.
    """
    components: dict[str, str] = {}
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0]
        components[name] = _name_component(name, module, components.get(parent, ""))
        yield name, module, components[name]


def _name_component(name: str, module: nn.Module, of_parent: str) -> str:
    if isinstance(module, Core):
        return of_parent.removesuffix(PROJECTIONS)
    if of_parent:
        return of_parent
    words = [part for part in name.split(".") if not part.isdigit()]
    stack = _name_stack(words)
    if isinstance(module, ATTENTIONS):
        kind = "cross-attention" if words[-1] == "cross" else "attention"
        return f"{stack}{kind}{PROJECTIONS}"
    return _name_single_component(stack, words, module)


def _name_single_component(stack: str, words: list[str], module: nn.Module) -> str:
    """The component of a module that is one by itself, with all that is in it; "" for others."""
    if isinstance(module, nn.Embedding):
        return EMBEDDINGS.get(words[-1], f"{words[-1].replace('_', ' ')} embedding")
    if isinstance(module, nn.Linear):
        return f"{stack}{OUTPUT if words[-1] == 'output' else words[-1].replace('_', ' ')}"
    # a layer with a spectral norm has a class of its own, derived from that of the layer
    kind = next((KINDS[each] for each in type(module).__mro__ if each in KINDS), "")
    return f"{stack}{kind}" if kind else ""


def _name_stack(words: list[str]) -> str:
    """The name of the part of the model that holds a module, with a colon; empty for its top level."""
    first = words[0] if len(words) > 1 else ""
    return f"{STACKS.get(first, first.replace('_', ' '))}: " if first else ""
