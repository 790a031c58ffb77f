"""The options of beam search."""

from pydantic import Field, model_validator

from qkv.strict import Strict


class SearchConfig(Strict):
    """How to search: the section `decode` of a recipe and the options of the command line.

    Args:
        beam: hypotheses kept alive per batch entry; 1 is greedy search.
        n_best: hypotheses returned per batch entry, at most `beam`.
        length_penalty: alpha of the score, from 0 to 10; 0 sums log-probabilities, 1 nearly averages them.
        max_length: most symbols emitted, end symbol included; None: the limit of the task, which for
            translation is 2 × (source tokens) + 10. A model that holds fewer positions stops there.
        min_length: fewest symbols emitted before the end symbol.
        forbid_unknown: never emit the unknown symbol.
    """

    beam: int = Field(default=5, ge=1)
    n_best: int = Field(default=1, ge=1)
    length_penalty: float = Field(default=1.0, ge=0.0, le=10.0)
    max_length: int | None = Field(default=None, ge=1)
    min_length: int = Field(default=0, ge=0)
    forbid_unknown: bool = True

    @model_validator(mode="after")
    def _check_combination(self) -> "SearchConfig":
        if self.n_best > self.beam:
            raise ValueError(
                f"n_best={self.n_best} needs a beam at least as wide, but beam={self.beam}; raise beam or "
                "lower n_best"
            )
        if self.max_length is not None and self.min_length >= self.max_length:
            raise ValueError(
                f"min_length={self.min_length} leaves no room for the end symbol within max_length="
                f"{self.max_length}; lower min_length or raise max_length"
            )
        return self
