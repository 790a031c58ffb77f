"""The one protocol between models and search: start from a source, then one token at a time."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Step(NamedTuple):
    """One decoding step.

    logits: [B,V] float32 scores of the next token.
    state: what the next step needs; a nested tuple of tensors, batch first (see `qkv.state`).
    weights: name -> [B,H,S], where this step looked; empty unless asked for.
    """

    logits: Float[Tensor, "B V"]
    state: Any
    weights: dict[str, Tensor]


@runtime_checkable
class Stepper(Protocol):
    """A model that can be searched.  The state is a value: it is returned, never changed in place."""

    def start(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"], *, capture: bool = False) -> Any:
        """Encode the source; `keep` is True at real tokens; `capture` if weights will be asked for."""
        ...

    def step(self, tokens: Int[Tensor, "B"], state: Any, *, capture: bool = False) -> Step:
        """Read the last emitted token of every row (BOS first) and score the next one."""
        ...

    def encoder_weights(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> dict[str, Tensor]:
        """name -> [B,H,S,S], where the encoder looked; empty where it has no attention."""
        ...
