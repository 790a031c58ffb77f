"""Where a model looked, as a picture for print: keys above, queries at the left, zero is white."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from qkv.errors import BadData, BadShape, UnknownName, did_you_mean
from qkv.view.figure import draw_grid
from qkv.view.layout import Panel
from qkv.view.words import merge_words, side

WRAP = 4  # panels side by side where they are not layers x heads
# What the rows and the columns of each place are: rows attend, columns are attended to.
SIDES = {
    "encoder": ("source (queries)", "source (keys)"),
    "cross": ("target (queries)", "source (keys)"),
    "decoder": ("target (queries)", "target so far (keys)"),
}


@runtime_checkable
class ExampleLike(Protocol):
    """What a picture needs of a `qkv.trace.Example`."""

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """name -> [H, rows, columns]."""
        ...

    def axes(self, name: str) -> tuple[Sequence[str], Sequence[str]]:
        """The tokens of the rows and of the columns."""
        ...


@runtime_checkable
class TraceLike(Protocol):
    """What a picture needs of a `qkv.trace.Trace`."""

    @property
    def examples(self) -> Sequence[ExampleLike]:
        """The decoded examples."""
        ...


def heatmap(
    trace: TraceLike,
    *,
    path: str | Path,
    example: int = 0,
    layers: str | Sequence[str] | None = None,
    heads: int | Literal["mean", "all"] = "mean",
    merge: bool = False,
    title: str = "",
    dark: bool = False,
) -> Path:
    """Draw where one example's tokens looked, to a .png, .svg or .pdf; return the path.

    layers: names ("cross.1") or places ("cross": all its layers).  None is the last layer of "cross", or of
        what there is; with heads="all", every one of them.
    heads: the mean over heads, one head by its number from 0, or all: a panel for every layer and head.
    merge: put word pieces together: the sum over those looked at, the mean over those that look.  In scripts
        without spaces pieces stay separate, but for syllables, numbers and Katakana.
    title: above everything; dark: for dark backgrounds.

    The picture says which layer it shows, which head or the mean of how many, and what rows and columns are.
    Without `merge`, "▁" and darker lines mark where words begin if some have several pieces.
    Colours run from 0 to the largest weight of the picture, in all panels alike; the bar beside it names it.
    Beyond some hundred tokens not every one is labelled.  Words in right-to-left scripts are shaped and
    ordered by matplotlib >= 3.11; an older one leaves their letters unjoined and from left to right.
    Raises UnknownName for a layer, head or example that the trace does not have, BadData for another suffix
    or a path that cannot be written, QKVError without matplotlib; warns with MissingGlyphs about fonts.
    """
    if example not in range(len(trace.examples)):
        raise UnknownName(f"no example {example}: the trace has {len(trace.examples)}, counted from 0")
    chosen = trace.examples[example]
    names = _layers(chosen, layers, every=heads == "all")
    panels = [_panels(chosen, name, heads, merge) for name in names]
    if heads == "all" and len(names) > 1:
        return draw_grid(_headed(panels), path, sides=names, title=title, dark=dark)
    flat = [panel for row in panels for panel in row]
    return draw_grid(_wrapped(flat), path, title=title, dark=dark)


def draw(
    weights: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    path: str | Path,
    title: str = "",
    row_name: str = "",
    column_name: str = "",
    dark: bool = False,
) -> Path:
    """Draw one matrix of weights [rows, columns] between any tokens, as `heatmap` does; return the path.

    row_name, column_name: what the tokens are, as "target (queries)".
    Raises BadShape where weights and tokens do not fit.
    """
    weights = np.asarray(weights, dtype=np.float32)
    if weights.shape != (len(rows), len(columns)) or not weights.size:
        raise BadShape(
            f"weights of shape {weights.shape} for {len(rows)} row and {len(columns)} column tokens"
        )
    panel = Panel(weights, side(rows, row_name), side(columns, column_name))
    return draw_grid([[panel]], path, title=title, dark=dark)


def _layers(example: ExampleLike, layers: str | Sequence[str] | None, *, every: bool) -> list[str]:
    known = sorted(example.weights, key=lambda name: (name.split(".")[0], int(name.split(".")[1])))
    if not known:
        raise BadData("this example has no weights to draw")
    if layers is None:
        names = [name for name in known if name.startswith("cross.")] or known
        return names if every else names[-1:]
    found = []
    for wanted in [layers] if isinstance(layers, str) else layers:
        matches = [name for name in known if wanted in (name, name.split(".")[0])]
        if not matches:
            raise UnknownName(f"no layer {wanted!r} in this trace. {did_you_mean(wanted, known)}")
        found += matches
    return found


def _panels(example: ExampleLike, name: str, heads: int | str, merge: bool) -> list[Panel]:
    weights = example.weights[name]
    rows, columns = example.axes(name)
    if not weights.size:
        raise BadData(f"{name} has no weights to draw: its shape is {weights.shape}")
    if isinstance(heads, int) and heads not in range(len(weights)):
        raise UnknownName(f"no head {heads} in {name}: it has {len(weights)}, counted from 0")
    if merge:
        weights, rows, columns = merge_words(weights, rows, columns)
    row_name, column_name = SIDES.get(name.split(".")[0], ("queries", "keys"))
    ends = side(rows, row_name), side(columns, column_name)
    if heads == "mean" and len(weights) > 1:
        return [Panel(weights.mean(0), *ends, f"{name}, mean of {len(weights)} heads")]
    chosen = [int(heads)] if isinstance(heads, int) else range(len(weights))
    return [Panel(weights[h], *ends, f"{name}, head {h}") for h in chosen]


def _wrapped(panels: list[Panel]) -> list[list[Panel]]:
    """Rows of a few panels between the same tokens."""
    same = [
        list(group) for _, group in itertools.groupby(panels, key=lambda panel: (panel.rows, panel.columns))
    ]
    return [group[start : start + WRAP] for group in same for start in range(0, len(group), WRAP)]


def _headed(panels: list[list[Panel]]) -> list[list[Panel]]:
    """The grid of layers x heads: heads are named above the first layer only."""
    first = [panel._replace(title=f"head {h}") for h, panel in enumerate(panels[0])]
    return [first, *([panel._replace(title="") for panel in row] for row in panels[1:])]
