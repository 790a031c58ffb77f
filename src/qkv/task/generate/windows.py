"""How a language model reads a text that it scores."""

from typing import Literal, NamedTuple

Mode = Literal["segments", "sliding", "carry"]


class Windows(NamedTuple):
    """What a mode reads: segments of the text, and how many of their last tokens count.

    Args:
        mode: "segments", "sliding" or "carry".
        segment: tokens that are read at once.
        stride: tokens that a sliding window moves by.
    """

    mode: Mode
    segment: int
    stride: int

    def __str__(self) -> str:
        if self.mode == "carry":
            return f"state carried over the whole text, read {self.segment} tokens at a time"
        if self.mode == "sliding":
            return f"sliding window of {self.segment} tokens, stride {self.stride}"
        return f"separate segments of {self.segment} tokens"
