"""A trace: examples with the attention weights of one model, which saves to and loads from a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkv.errors import BadData
from qkv.trace.archive import read_archive, write_archive
from qkv.trace.example import Example, check_distributions, json_values
from qkv.trace.schema import Content, decode, encode


@dataclass(frozen=True, eq=False)
class Trace:
    """One or more examples of one model.

    Args:
        examples: at least one.
        kind: the task of the model, as "translation": any text.
        unnormalised: names of weights whose rows need not be distributions: the weights that a feature map
            implies, which may be negative, and those of mechanisms that do not normalise by definition.
        meta: the model's name, the digest of its recipe, the search settings: plain JSON values.

    Raises:
        BadData: where the values do not fit each other.
    """

    examples: tuple[Example, ...]
    kind: str
    unnormalised: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {"examples": tuple(self.examples), "unnormalised": tuple(self.unnormalised)}
        for name, value in (values | {"meta": json_values(self.meta)}).items():
            object.__setattr__(self, name, value)
        if not self.examples:
            raise BadData("a trace holds at least one example")
        for number, example in enumerate(self.examples):
            for name in sorted(set(example.weights) - set(self.unnormalised)):
                check_distributions(f"example {number}, {name}", example.weights[name])

    def save(self, path: str | Path) -> None:
        """Write the file atomically, in version 2 of the schema.

        Weights are stored as float16, unnormalised ones as float32.

        Raises:
            BadData: if it cannot be written to the path.
        """
        content = Content(self.examples, self.kind, self.unnormalised, self.meta)
        write_archive(path, *encode(content))

    @staticmethod
    def load(path: str | Path) -> "Trace":
        """Read a file of version 1 or 2 that `save` or another program wrote; weights become float32.

        Raises:
            BadData: naming the file, if it is missing, damaged, no trace, too new, or contradicts itself.
        """
        path = Path(path)
        try:
            return Trace(*decode(*read_archive(path)))
        except BadData as error:
            raise BadData(f"{path}: {error}") from None
