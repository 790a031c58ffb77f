"""Writes docs/mechanisms.md and its pictures; with --check, only says which of them are stale."""

import argparse
import ast
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mechanism_pictures import Picture, draw, kernels, scopes, scores, selections, summary
from PIL import Image

from qkv.catalogue import QUESTIONS, describe, format_label, format_options
from qkv.compatibility import LEGEND, build_matrix
from qkv.part import Part
from qkv.rules import AXES, RULES

HERE = Path(__file__).parent
PAGE = HERE / "mechanisms.md"
TRANSPORT = HERE.parent / "tests/contracts/test_contract_transport.py"
CLOSE = 2e-3  # how far means of blocks of weights may differ between machines

INTRO = """\
# Mechanisms

<!-- Written by `python docs/make_mechanisms.py`; change the parts or that script, not this page. -->

An attention is one choice on each of four axes. This page shows every choice: what it computes, where it
comes from and how it looks. `qkv parts NAME` says the same of one part, and what it cannot go with.

In formulas, q and k are a query and a key of width D, v a value, e the scores, s the position of a key. An
option without a value has no default and must be given.

All pictures show weights on one toy input, 24 queries down and 24 keys across. The input is a walk around a
circle, 16 steps to a round, so that a query finds itself on the diagonal and again one round away; keys get
longer and shorter along the way. Colours follow the square root of a weight, so that faint ones show too;
white is 0. Learned parameters are set by hand to something typical.
"""


class Figure(NamedTuple):
    """The pictures of an axis: how they are made, how many stand side by side, and what to say of them."""

    make: Callable[[], list[Picture]]
    across: int
    text: str


FIGURES = {
    "score": Figure(
        scores,
        3,
        "Softmax of each score. The dot product favours longer keys, and is much sharper without the scale. "
        "The cosine ignores length. What learned scores can do: General looks three steps ahead, Additive "
        "detects small differences, Location reads from last to first without looking at a key.",
    ),
    "scope": Figure(
        scopes,
        4,
        "Softmax of the scaled dot product in each scope. Predictive's window follows a position that the "
        "query predicts, and the Gaussian around it makes the weights sum to less than 1.",
    ),
    "select": Figure(
        selections,
        3,
        "From the same scores to weights. Hard takes the best key in evaluation and samples one in training "
        "(the last panel is one draw).",
    ),
    "kernel": Figure(
        kernels,
        4,
        "The first two rows: exact attention, then the weights that 16, 64 and 256 random features imply. "
        "Those of RFA scatter around it and may be negative (orange); those of Favor are positive. The third "
        "row: feature maps that stand for other kernels, and causal RFA with a gate that forgets slowly and "
        "fast.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its pictures, or only check them; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if anything is stale")
    check = parser.parse_args(arguments).check
    stale = list(_stale()) if check else []
    for path in stale:
        print(f"{path} is stale: run python docs/make_mechanisms.py")
    if not check:
        _write()
    return 1 if stale else 0


def page() -> str:
    """The text of docs/mechanisms.md."""
    axes = [line for axis in AXES for line in _axis(axis)]
    return "\n".join([INTRO, *axes, *_together(), *_transport()]) + "\n"


def picture_of(axis: str) -> Path:
    """Where the picture of an axis is."""
    return HERE / "images" / f"mechanisms-{axis}.png"


def _write() -> None:
    for axis, figure in FIGURES.items():
        pictures = figure.make()
        draw(pictures, figure.across, picture_of(axis), json.dumps(_known_by(pictures)))
    PAGE.write_text(page(), encoding="utf-8")


def _stale() -> Iterator[Path]:
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        yield PAGE
    for axis, figure in FIGURES.items():
        if not _same(_stored(picture_of(axis)), _known_by(figure.make())):
            yield picture_of(axis)


def _known_by(pictures: Sequence[Picture]) -> list[list]:
    return [[picture.title, picture.note, summary(picture)] for picture in pictures]


def _stored(path: Path) -> list[list]:
    if not path.exists():
        return []
    with Image.open(path) as image:
        return json.loads(image.info.get("Weights", "[]"))


def _same(old: list[list], new: list[list]) -> bool:
    if [panel[:2] for panel in old] != [panel[:2] for panel in new]:
        return False
    pairs = [(panel[2], other[2]) for panel, other in zip(old, new, strict=True)]
    return all(len(a) == len(b) for a, b in pairs) and all(
        abs(x - y) <= CLOSE for a, b in pairs for x, y in zip(a, b, strict=True)
    )


def _axis(axis: str) -> Iterator[str]:
    figure, registered = FIGURES[axis], list(AXES[axis].values())
    yield f"## {axis.capitalize()}: {QUESTIONS[axis]}\n"
    yield "| part | formula | paper | options |"
    yield "|---|---|---|---|"
    for kind in registered:
        cells = [kind.name, kind.formula, format_options(kind)]
        name, formula, options = (f"`{_cell(text)}`" if text else "" for text in cells)
        yield f"| {name} | {formula} | {_cell(kind.paper)} | {options} |"
    panels = "; ".join(f"{picture.title}, {picture.note}" for picture in figure.make())
    alt = f"Heat maps of weights for every {axis}: {panels}"
    yield f"\n![{alt}](images/{picture_of(axis).name})\n"
    yield f"{figure.text}\n"
    for kind in registered:
        yield from _about(kind)
    yield ""


def _about(kind: type[Part]) -> Iterator[str]:
    about, options = describe(kind)
    yield f"- **{kind.__name__}**: {about}"
    for names, meaning in options:
        if meaning not in about:
            yield f"  - `{format_options(kind, names)}`: {meaning}"


def _together() -> Iterator[str]:
    across, rows = build_matrix()
    yield "## What goes together\n"
    yield ", ".join(f"{sign} {meaning}" for sign, meaning in LEGEND.items()) + ".\n"
    yield "| |" + "".join(f" {format_label(part)} |" for part in across)
    yield "|---|" + ":-:|" * len(across)
    for part, marks in rows:
        filled = [*marks, *[""] * (len(across) - len(marks))]
        yield f"| **{format_label(part)}** |" + "".join(f" {sign} |" for sign in filled)
    yield "\nWhat does not, and why:\n"
    yield from (f"- {one} and {other}: {why}." for (one, other), _, why in RULES)
    yield ""


def _transport() -> Iterator[str]:
    yield "## Compiling and exporting\n"
    yield "Each part in `qkv.Attention`, tried with the usual ones on the other axes, at one length:\n"
    for what, name in (("torch.compile(fullgraph=True)", "NOT_COMPILED"), ("torch.export", "NOT_EXPORTED")):
        refused = sorted(_constant(name))
        rest = f"all but {', '.join(refused)}" if refused else "all of them"
        yield f"- `{what}` takes {rest}."
    yield (
        "\nA feature map chooses its route by the lengths and unrolls its chunks, so that it is compiled "
        "anew for every length, and exported for one. `qkv.attention` and `qkv.attend` compile as a whole "
        'too; make their parts outside the compiled function, or write them by name: `kernel="rfa"`.'
    )


def _constant(name: str) -> set[str]:
    """A set that the tests of compilation and export keep."""
    for statement in ast.parse(TRANSPORT.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
            return ast.literal_eval(statement.value or "")
    raise LookupError(f"{TRANSPORT} names no {name}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
