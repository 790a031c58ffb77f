"""The protocols between models and search: start from any source, then read one token at a time."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Step(NamedTuple):
    """The result of reading a token.

    Args:
        logits: [B,V] scores of the next token, in float32.
        state: what the next step needs; a nested tuple of tensors, batch first (see `qkv.state`).
        weights: name -> [B,H,S], the attention weights of this step; empty unless captured.
    """

    logits: Float[Tensor, "B V"]
    state: Any
    weights: dict[str, Tensor]


@runtime_checkable
class Stepper(Protocol):
    """A model that can be searched.  Its state is a value: it is returned, never changed in place."""

    def start(self, *source: Any, **options: Any) -> Any:
        """The state before the first token.

        Args:
            source: what the model is conditioned on, batch first: token ids and their mask, pictures, or
                nothing.
            options: `capture`, whether weights will be asked for; `batch`, the number of rows, only where
                there is no source.
        """
        ...

    def step(self, tokens: Int[Tensor, "B"], state: Any, *, capture: bool = False) -> Step:
        """Read one token of every row and score the next one.

        Args:
            tokens: [B] the last token of every row, the begin symbol first.
            state: of the step before, or of `start`.
            capture: return attention weights.
        """
        ...


@runtime_checkable
class PromptReader(Protocol):
    """A `Stepper` that reads several tokens at once."""

    def read(self, tokens: Int[Tensor, "B P"], state: Any, *, capture: bool = False) -> Step:
        """Read P tokens of every row and score the next one, as P calls of `step` would.

        Args:
            tokens: [B,P] the next tokens of every row.
            state: of the step before, or of `start`.
            capture: return the attention weights of the last token.
        """
        ...


@runtime_checkable
class AttentiveEncoder(Protocol):
    """A model whose encoder's attention to a source can be shown."""

    def encoder_weights(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> dict[str, Tensor]:
        """Name -> [B,H,S,S], the attention weights of the encoder; empty where it has no attention.

        Args:
            source: [B,S] token ids.
            keep: [B,S], True at real tokens.
        """
        ...
