"""The pictures of docs/mechanisms.md: the weights of every part on one toy input.

The input is a walk around a circle, seen through three harmonics: 24 positions, of which 16 make a round, so
that the last eight stand where the first eight stood.  All queries are equally long; keys grow and shrink on
the way, which tells scores that count a key's length from those that do not.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qkv.kernel import RFA, Elu, Favor, Softmax
from qkv.kernel.masking import Masking
from qkv.part import Part
from qkv.rules import Choice
from qkv.scope import Global, Predictive, Window
from qkv.score import Additive, Cosine, Dot, General, Location, ScaledDot
from qkv.select import Entmax, Hard, Soft, Sparsemax, TopK
from qkv.shapes import Dims
from qkv.view.colours import LIGHT, Scale, make_scale
from qkv.view.fonts import find_fonts
from qkv.view.page import DPI, Page

STEPS, ROUND, HARMONICS = 24, 16, 3
LENGTH = 2.8  # of every query
SEED = 8  # of random features and of draws
WIDTH, MARGIN, BETWEEN, LEFT, RIGHT, HEAD, FOOT = 7.2, 0.08, 0.22, 0.36, 0.48, 0.33, 0.28
NAME, NOTE, TICK = 7.6, 6.4, 6.0  # text sizes
TICKS = (1, 8, 16, 24)


class Picture(NamedTuple):
    """One panel: what it shows, a few words about it, the weights, and whether chance made them."""

    title: str
    note: str
    weights: Tensor
    drawn: bool = False


def walk() -> Tensor:
    """Unit vectors [24, 6] whose products fall smoothly with the distance along the circle."""
    phase = 2 * math.pi * torch.arange(STEPS, dtype=torch.float64)[:, None] / ROUND
    order = torch.arange(1, HARMONICS + 1)
    share = ((HARMONICS + 1 - order) / (HARMONICS + 1 - order).sum()).sqrt()
    return torch.stack([share * (phase * order).cos(), share * (phase * order).sin()], -1).flatten(1)


def queries() -> Tensor:
    """q [24, 6]."""
    return LENGTH * walk()


def keys() -> Tensor:
    """k [24, 6], from 0.75 to 1.25 times as long as the queries."""
    swell = 1 + 0.25 * torch.sin(2 * math.pi * torch.arange(STEPS) / STEPS)
    return LENGTH * swell[:, None] * walk()


def turned(steps: int) -> Tensor:
    """W [6, 6] with W k_s = k_(s + steps) but for its length."""
    matrix = torch.zeros(2 * HARMONICS, 2 * HARMONICS, dtype=torch.float64)
    for harmonic in range(HARMONICS):
        angle = torch.tensor(2 * math.pi * (harmonic + 1) * steps / ROUND)
        at = slice(2 * harmonic, 2 * harmonic + 2)
        matrix[at, at] = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )
    return matrix


def weights_of(
    parts: dict[str, Part], learned: dict[str, Tensor] | None = None, gate: float | None = None
) -> Tensor:
    """Weights [24, 24] of these parts, Softmax of ScaledDot where none is named, in evaluation.

    learned: values for the parameters of the core by name.  gate: the logit of a gate, for causal attention.
    """
    core = _core(parts, causal=gate is not None).eval()
    with torch.no_grad():
        for name, value in (learned or {}).items():
            parameter = core.get_parameter(name)
            parameter.copy_(value.reshape(parameter.shape))
        return _attended(core, gate)


def drawn(part: Hard) -> Tensor:
    """Weights [24, 24] of one draw, as in training."""
    core = _core({"select": part}).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _attended(core)


def _core(parts: dict[str, Part], causal: bool = False) -> Any:
    usual = {"score": ScaledDot(), "scope": Global(), "select": Soft(), "kernel": Softmax()}
    choice = Choice(**{**usual, **parts}, causal=causal)
    width = 2 * HARMONICS
    generator = torch.Generator().manual_seed(SEED)
    return choice.kernel.build_core(Dims(1, width, width, width), choice, generator).double()


def _attended(core: Any, gate: float | None = None) -> Tensor:
    logits = None if gate is None else torch.full((1, 1, STEPS), gate, dtype=torch.float64)
    q, k = queries()[None, None], keys()[None, None]
    return core.attend(q, k, k, Masking(is_self=True, gate=logits)).weights[0, 0]


def scores() -> list[Picture]:
    """Softmax over all keys of every score."""
    eye, width = torch.eye(2 * HARMONICS, dtype=torch.float64), 2 * HARMONICS
    near = {
        "score.w": torch.cat([eye, eye], 1),
        "score.u": -torch.cat([eye, eye], 1),
        "score.b": torch.cat([torch.ones(1, width), -torch.ones(1, width)], 1),
        "score.v": torch.cat([torch.ones(width), -torch.ones(width)]),
    }
    ahead = {"score.w": turned(-3) / width**0.5}
    mirrored = {"score.w": walk().flip(0).T * LENGTH / width**0.5}
    return [
        Picture("ScaledDot()", "longer keys get more", weights_of({"score": ScaledDot()})),
        Picture("Dot()", "not scaled: sharper", weights_of({"score": Dot()})),
        Picture("Cosine(3.0)", "length does not count", weights_of({"score": Cosine(3.0)})),
        Picture("General()", "W turned: looks 3 steps ahead", weights_of({"score": General()}, ahead)),
        Picture(
            "Additive(12)", "as a detector of small differences", weights_of({"score": Additive(12)}, near)
        ),
        Picture("Location(24)", "mirrored: reads no key", weights_of({"score": Location(24)}, mirrored)),
    ]


def scopes() -> list[Picture]:
    """Softmax of the scaled dot product in every scope."""
    side = torch.zeros(2 * HARMONICS, 1, dtype=torch.float64)
    side[1] = -0.4
    wave = {"scope.w": side, "scope.v": torch.full((1,), 2.4, dtype=torch.float64)}
    before, near = Window(8, right=0), Predictive(5, hidden=1)
    return [
        Picture("Global()", "every key", weights_of({"scope": Global()})),
        Picture("Window(3)", "3 to either side", weights_of({"scope": Window(3)})),
        Picture("Window(8, right=0)", "8 back, none ahead", weights_of({"scope": before})),
        Picture("Predictive(5)", "5 around a predicted place", weights_of({"scope": near}, wave)),
    ]


def selections() -> list[Picture]:
    """Every selection from the scaled dot product."""
    draw = Hard(expected=0.0)
    return [
        Picture("Soft()", "all keys", weights_of({"select": Soft()})),
        Picture("Entmax(1.5)", "a few keys", weights_of({"select": Entmax()})),
        Picture("Sparsemax()", "fewer keys", weights_of({"select": Sparsemax()})),
        Picture("TopK(3)", "3 keys", weights_of({"select": TopK(3)})),
        Picture("Hard()", "evaluation: the best key", weights_of({"select": Hard()})),
        Picture("Hard()", "training: a draw from Soft", drawn(draw), drawn=True),
    ]


def kernels() -> list[Picture]:
    """Random features beside the softmax they estimate, and the maps that estimate none."""
    rfa = [RFA(features, temperature=3**-0.5) for features in (16, 64, 256)]
    gated = RFA(256, gate=True, temperature=3**-0.5)
    return [
        Picture("Softmax()", "of Cosine(3.0)", weights_of({"score": Cosine(3.0)})),
        *(Picture(f"RFA({p.features})", "estimates that, τ² = 1/3", _mapped(p)) for p in rfa),
        Picture("Softmax()", "of ScaledDot()", weights_of({})),
        *(Picture(f"Favor({n})", "estimates that", _mapped(Favor(n))) for n in (16, 64, 256)),
        Picture("Elu()", "estimates nothing", _mapped(Elu())),
        Picture('RFA(256, "arccos")', "another kernel: flatter", _mapped(RFA(256, "arccos"))),
        Picture("RFA(256, gate=True)", "g = 0.95: forgets slowly", _mapped(gated, math.log(19))),
        Picture("RFA(256, gate=True)", "g = 0.7: forgets fast", _mapped(gated, math.log(7 / 3))),
    ]


def _mapped(kernel: Part, gate: float | None = None) -> Tensor:
    return weights_of({"kernel": kernel}, gate=gate)


def summary(picture: Picture) -> list[float]:
    """Means of 4×4 blocks, by which a picture is known again; nothing of what chance made."""
    if picture.drawn:
        return []
    blocks = picture.weights.unflatten(1, (6, 4)).unflatten(0, (6, 4)).mean((1, 3))
    return [round(mean, 4) for mean in blocks.flatten().tolist()]


def draw(pictures: Sequence[Picture], across: int, path: Path, about: str) -> None:
    """Draw panels, queries down and keys across, in rows of `across`; `about` is stored in the PNG."""
    side = (WIDTH - 2 * MARGIN - LEFT - RIGHT - (across - 1) * BETWEEN) / across
    rows = [pictures[start : start + across] for start in range(0, len(pictures), across)]
    texts = "".join(picture.title + picture.note for picture in pictures)
    page = Page(LIGHT, find_fonts("".join(sorted(set(texts)))))
    height = 2 * MARGIN + FOOT + len(rows) * (HEAD + side)
    page.figure.set_size_inches(WIDTH, height)
    scale = make_scale([picture.weights.numpy() for picture in pictures], LIGHT)
    for r, row in enumerate(rows):
        bottom = height - MARGIN - (r + 1) * (HEAD + side)
        for c, picture in enumerate(row):
            left = MARGIN + LEFT + c * (side + BETWEEN)
            _panel(page, picture, (left, bottom, side), scale)
            _ticks(page, (left, bottom, side), down=c == 0, across=r == len(rows) - 1)
    _bar(page, MARGIN + FOOT, side, scale)
    page.figure.savefig(path, dpi=DPI, facecolor=LIGHT.paper, metadata={"Software": "qkv", "Weights": about})


def _panel(page: Page, picture: Picture, place: tuple[float, float, float], scale: Scale) -> None:
    left, bottom, side = place
    page.axes(left, bottom, side, side).imshow(
        _root(picture.weights.numpy()),
        cmap=scale.colour_map,
        vmin=_root(scale.limits[0]),
        vmax=_root(scale.limits[1]),
        interpolation="nearest",
    )
    page.write(picture.title, left, bottom + side + 0.165, NAME)
    page.write(picture.note, left, bottom + side + 0.05, NOTE).set_color("#5b636d")


def _ticks(page: Page, place: tuple[float, float, float], *, down: bool, across: bool) -> None:
    left, bottom, side = place
    for tick in TICKS:
        at = (tick - 0.5) / STEPS * side
        if down:
            page.write(str(tick), left - 0.05, bottom + side - at, TICK, "right", 0, "center_baseline")
        if across:
            page.write(str(tick), left + at, bottom - 0.11, TICK, "center")
    if down:
        page.write("query", left - 0.26, bottom + side / 2, NOTE, "center", 90)
    if across:
        page.write("key", left + side / 2, bottom - 0.24, NOTE, "center")


def _bar(page: Page, bottom: float, height: float, scale: Scale) -> None:
    left = WIDTH - MARGIN - RIGHT + 0.14
    lowest, highest = _root(scale.lowest), _root(scale.highest)
    axes = page.axes(left, bottom, 0.09, height)
    axes.imshow(
        np.linspace(highest, lowest, 256)[:, None],
        cmap=scale.colour_map,
        vmin=_root(scale.limits[0]),
        vmax=_root(scale.limits[1]),
        aspect="auto",
    )
    for value in sorted({scale.lowest, scale.lowest / 4, 0.0, scale.highest / 4, scale.highest}):
        at = (_root(value) - lowest) / (highest - lowest) * height
        text = f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
        page.write(text, left + 0.13, bottom + at, TICK, "left", 0, "center_baseline")


def _root(weights: Any) -> Any:
    """Colours follow the root of a weight, so that the faint ones show too."""
    return np.sign(weights) * np.sqrt(np.abs(weights))
