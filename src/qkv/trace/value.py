"""A trace: examples with the attention weights of one model, which can be saved to a file and loaded."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkv import page_builder
from qkv.errors import BadData
from qkv.trace.archive import read_archive, write_archive
from qkv.trace.example import Example, check_distributions, copy_json
from qkv.trace.schema import Content, decode, encode

HEIGHT = 720  # pixels of the frame in a notebook


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
        BadData: if the values contradict each other.
    """

    examples: tuple[Example, ...]
    kind: str
    unnormalised: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {"examples": tuple(self.examples), "unnormalised": tuple(self.unnormalised)}
        for name, value in (values | {"meta": copy_json(self.meta)}).items():
            object.__setattr__(self, name, value)
        if not self.examples:
            raise BadData("a trace holds at least one example: pass one or more")
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

    def _repr_html_(self) -> str:
        """The page of `qkv view` in a frame, which Jupyter shows."""
        page = html.escape(page_builder.build_page(self))
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" width="100%" height="{HEIGHT}" '
            'frameborder="0" title="attention weights"></iframe>'
        )

    @staticmethod
    def load(path: str | Path) -> "Trace":
        """Read a file of version 1 or 2, from `save` or from another program.

        Args:
            path: the file.

        Returns:
            The trace, with weights as float32.

        Raises:
            BadData: if the file is missing, damaged, too new, not a trace, or contradicts itself. The message
                names the file.
        """
        path = Path(path)
        try:
            return Trace(*decode(*read_archive(path)))
        except BadData as error:
            raise BadData(f"{path}: {error}") from None
