"""Writes docs/mechanisms.md and its pictures; with --check, only reports which of them are stale."""

import argparse
import ast
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mechanism_pictures import (
    Picture,
    draw,
    draw_examples,
    kernels,
    scopes,
    scores,
    selections,
    summarise,
)
from PIL import Image

from qkv.catalogue import QUESTIONS, describe, format_label, format_options
from qkv.compatibility import LEGEND, build_matrix
from qkv.part import Part
from qkv.rules import AXES, RULES

HERE = Path(__file__).parent
PAGE = HERE / "mechanisms.md"
TRANSPORT = HERE.parent / "tests/contracts/test_contract_transport.py"
TOLERANCE = 2e-3  # of means of blocks of weights, which differ between machines

INTRO = """\
# Mechanisms

<!-- Written by `python docs/make_mechanisms.py`; change the parts or that script, not this page. -->

An attention is one choice on each of four axes: score, scope, select and kernel. This page shows every choice
with its formula, its paper, its options and a picture of its weights, and then
[which parts can be combined](#combinations). `qkv parts NAME` prints the same for one part.

In formulas, q and k are a query and a key of width D, v is a value, e are the scores, and s is the position
of a key. An option without a value has no default and must be passed.

All pictures show weights on the same toy input, with 24 queries from top to bottom and 24 keys from left to
right. The input moves around a circle, 16 steps per round, so a query equals the key on the diagonal and the
key one round away; the lengths of the keys grow and shrink. Colours follow the square root of a weight, so
small weights are visible too; white is 0. Learned parameters are set by hand to typical values.
"""


class Figure(NamedTuple):
    """The picture of an axis: the function that makes its panels, the panels per row, and the text below.

    A registered part without a panel is added with its example.
    """

    make: Callable[[], list[Picture]]
    across: int
    text: str


FIGURES = {
    "score": Figure(
        scores,
        3,
        "The softmax of each score. The dot product favours longer keys, and is much sharper without the "
        "scale. The cosine ignores length. The learned scores show examples: General attends three steps "
        "ahead, Additive detects small differences, and Location reads from last to first "
        "without reading a key.",
    ),
    "scope": Figure(
        scopes,
        3,
        "The softmax of the scaled dot product in each scope. Predictive's window follows a position that "
        "the query predicts, and the Gaussian around it makes the weights sum to less than 1. Neighbourhood "
        "takes the 24 positions as a grid of 4 rows of 6 cells: a query sees its own row, the row above and "
        "the row below.",
    ),
    "select": Figure(
        selections,
        3,
        "The weights of each selection from the same scores. Hard takes the best key in evaluation and "
        "samples a key in training (the last panel is one sample).",
    ),
    "kernel": Figure(
        kernels,
        4,
        "The first two rows show exact attention, then the weights that 16, 64 and 256 random features "
        "imply. The weights of RFA scatter around the exact ones and may be negative (orange); those of "
        "Favor are positive. The third row shows feature maps of other kernels, and causal RFA with a "
        "gate that forgets slowly and fast.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its pictures, or only check them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if anything is stale")
    check = parser.parse_args(arguments).check
    stale = list(_stale()) if check else []
    for path in stale:
        print(f"{path} is stale: run python docs/make_mechanisms.py")
    if not check:
        _write()
    return 1 if stale else 0


def make_pictures(axis: str) -> list[Picture]:
    """The panels of an axis: those of its figure, and an example of every other registered part."""
    pictures = FIGURES[axis].make()
    return [*pictures, *draw_examples(axis, pictures)]


def page() -> str:
    """The text of docs/mechanisms.md."""
    axes = [line for axis in AXES for line in _format_axis(axis)]
    return "\n".join([INTRO, *axes, *_format_combinations(), *_format_export()]) + "\n"


def picture_of(axis: str) -> Path:
    """The path of the picture of an axis."""
    return HERE / "images" / f"mechanisms-{axis}.png"


def _write() -> None:
    for axis, figure in FIGURES.items():
        pictures = make_pictures(axis)
        draw(pictures, figure.across, picture_of(axis), json.dumps(_fingerprint(pictures)))
    PAGE.write_text(page(), encoding="utf-8")


def _stale() -> Iterator[Path]:
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        yield PAGE
    for axis in FIGURES:
        if not _match(_read_fingerprint(picture_of(axis)), _fingerprint(make_pictures(axis))):
            yield picture_of(axis)


def _fingerprint(pictures: Sequence[Picture]) -> list[list]:
    return [[picture.title, picture.note, summarise(picture)] for picture in pictures]


def _read_fingerprint(path: Path) -> list[list]:
    if not path.exists():
        return []
    with Image.open(path) as image:
        return json.loads(image.info.get("Weights", "[]"))


def _match(old: list[list], new: list[list]) -> bool:
    if [panel[:2] for panel in old] != [panel[:2] for panel in new]:
        return False
    pairs = [(panel[2], other[2]) for panel, other in zip(old, new, strict=True)]
    return all(len(a) == len(b) for a, b in pairs) and all(
        abs(x - y) <= TOLERANCE for a, b in pairs for x, y in zip(a, b, strict=True)
    )


def _format_axis(axis: str) -> Iterator[str]:
    figure, registered = FIGURES[axis], list(AXES[axis].values())
    yield f"## {axis.capitalize()}: {QUESTIONS[axis]}\n"
    yield "| part | formula | paper | options |"
    yield "|---|---|---|---|"
    for kind in registered:
        cells = [kind.name, kind.formula, format_options(kind)]
        name, formula, options = (f"`{_cell(text)}`" if text else "" for text in cells)
        yield f"| {name} | {formula} | {_cell(kind.paper)} | {options} |"
    panels = "; ".join(f"{picture.title}, {picture.note}" for picture in make_pictures(axis))
    alt = f"Heat maps of weights for every {axis}: {panels}"
    yield f"\n![{alt}](images/{picture_of(axis).name})\n"
    yield f"{figure.text}\n"
    for kind in registered:
        yield from _format_part(kind)
    yield ""


def _format_part(kind: type[Part]) -> Iterator[str]:
    about, options = describe(kind)
    yield f"- **{kind.__name__}**: {about}"
    for name, meaning in options.items():
        yield f"  - `{format_options(kind, [name])}`: {meaning}"


def _format_combinations() -> Iterator[str]:
    across, rows = build_matrix()
    yield "## Combinations\n"
    yield ", ".join(f"{sign} {meaning}" for sign, meaning in LEGEND.items()) + ".\n"
    yield "| |" + "".join(f" {format_label(part)} |" for part in across)
    yield "|---|" + ":-:|" * len(across)
    for part, marks in rows:
        filled = [*marks, *[""] * (len(across) - len(marks))]
        yield f"| **{format_label(part)}** |" + "".join(f" {sign} |" for sign in filled)
    yield "\nCombinations that are not possible, and why:\n"
    yield from (f"- {one} and {other}: {why}." for (one, other), _, why in RULES)
    yield ""


def _format_export() -> Iterator[str]:
    yield "## Compiling and exporting\n"
    yield (
        "Tests compile and export each part in `qkv.Attention`, with the default parts on the other axes, at "
        "one length:\n"
    )
    for tool, name in (("torch.compile(fullgraph=True)", "NOT_COMPILED"), ("torch.export", "NOT_EXPORTED")):
        refused = sorted(_constant(name))
        accepted = f"all but {', '.join(refused)}" if refused else "all of them"
        yield f"- `{tool}` accepts {accepted}."
    yield (
        "\nA feature map chooses its route by the lengths and unrolls its chunks, so it is compiled again "
        "for every length, and exported for one; [torch's tools](torch.md) says how to export for all "
        "lengths. `qkv.attention` and `qkv.attend` compile as a whole too. Create their parts outside the "
        'compiled function, or pass them by name: `kernel="rfa"`.'
    )


def _constant(name: str) -> set[str]:
    """The value of a set in the tests of compilation and export."""
    for statement in ast.parse(TRANSPORT.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
            return ast.literal_eval(statement.value or "")
    raise LookupError(f"{TRANSPORT} does not define {name}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
