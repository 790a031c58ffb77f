"""The pictures of docs/mechanisms.md: the weights of every part on one toy input.

The input moves around a circle, in three harmonics: 24 positions at 16 per round, so the last eight positions
repeat the first eight. All queries have the same length. The lengths of the keys grow and shrink, which
distinguishes scores that depend on the length of a key from those that do not.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qkv.catalogue import build_example
from qkv.kernel import RFA, Elu, Favor, Softmax
from qkv.kernel.masking import Masking
from qkv.part import Part, list_options
from qkv.rules import AXES, Choice
from qkv.scope import Global, Predictive, Window
from qkv.score import Additive, Cosine, Dot, General, Location, ScaledDot
from qkv.select import Entmax, Hard, Soft, Sparsemax, TopK
from qkv.shapes import Dims
from qkv.view.canvas import DPI, Page
from qkv.view.colours import LIGHT, Scale, make_scale
from qkv.view.fonts import find_fonts

STEPS, ROUND, HARMONICS = 24, 16, 3
LENGTH = 2.8  # of every query
SEED = 8  # of random features and of draws
WIDTH, MARGIN, BETWEEN, LEFT, RIGHT, HEAD, FOOT = 7.2, 0.08, 0.22, 0.36, 0.48, 0.33, 0.28
NAME, NOTE, TICK = 7.6, 6.4, 6.0  # text sizes
TICKS = (1, 8, 16, 24)


class Picture(NamedTuple):
    """One panel.

    title: the part.  note: a few words about it.  weights: [24, 24].  is_sample: whether they are random.
    """

    title: str
    note: str
    weights: Tensor
    is_sample: bool = False


def unit_vectors() -> Tensor:
    """Unit vectors [24, 6] whose products fall smoothly with the distance along the circle."""
    phase = 2 * math.pi * torch.arange(STEPS, dtype=torch.float64)[:, None] / ROUND
    order = torch.arange(1, HARMONICS + 1)
    amplitude = ((HARMONICS + 1 - order) / (HARMONICS + 1 - order).sum()).sqrt()
    return torch.stack([amplitude * (phase * order).cos(), amplitude * (phase * order).sin()], -1).flatten(1)


def make_queries() -> Tensor:
    """q [24, 6]."""
    return LENGTH * unit_vectors()


def make_keys() -> Tensor:
    """k [24, 6], from 0.75 to 1.25 times as long as the queries."""
    swell = 1 + 0.25 * torch.sin(2 * math.pi * torch.arange(STEPS) / STEPS)
    return LENGTH * swell[:, None] * unit_vectors()


def make_rotation(steps: int) -> Tensor:
    """W [6, 6] with W k_s = k_(s + steps), up to the length of the key."""
    matrix = torch.zeros(2 * HARMONICS, 2 * HARMONICS, dtype=torch.float64)
    for harmonic in range(HARMONICS):
        angle = torch.tensor(2 * math.pi * (harmonic + 1) * steps / ROUND)
        at = slice(2 * harmonic, 2 * harmonic + 2)
        matrix[at, at] = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )
    return matrix


def compute_weights(
    parts: dict[str, Part], learned: dict[str, Tensor] | None = None, gate: float | None = None
) -> Tensor:
    """Weights [24, 24] of these parts in evaluation; the defaults are Softmax and ScaledDot.

    Args:
        parts: axis -> part.
        learned: name of a parameter of the core -> value.
        gate: the logit of a gate, for causal attention.
    """
    core = _build_core(parts, causal=gate is not None).eval()
    with torch.no_grad():
        for name, value in (learned or {}).items():
            parameter = core.get_parameter(name)
            parameter.copy_(value.reshape(parameter.shape))
        return _attend(core, gate)


def sample_weights(part: Hard) -> Tensor:
    """Weights [24, 24] of one sample, as in training."""
    core = _build_core({"select": part}).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _attend(core)


def _build_core(parts: dict[str, Part], causal: bool = False) -> Any:
    usual = {"score": ScaledDot(), "scope": Global(), "select": Soft(), "kernel": Softmax()}
    choice = Choice(**{**usual, **parts}, causal=causal)
    width = 2 * HARMONICS
    generator = torch.Generator().manual_seed(SEED)
    return choice.kernel.build_core(Dims(1, width, width, width), choice, generator).double()


def _attend(core: Any, gate: float | None = None) -> Tensor:
    logits = None if gate is None else torch.full((1, 1, STEPS), gate, dtype=torch.float64)
    q, k = make_queries()[None, None], make_keys()[None, None]
    return core.attend(q, k, k, Masking(is_self=True, gate=logits)).weights[0, 0]


def scores() -> list[Picture]:
    """The softmax over all keys of every score."""
    eye, width = torch.eye(2 * HARMONICS, dtype=torch.float64), 2 * HARMONICS
    near = {
        "score.w": torch.cat([eye, eye], 1),
        "score.u": -torch.cat([eye, eye], 1),
        "score.b": torch.cat([torch.ones(1, width), -torch.ones(1, width)], 1),
        "score.v": torch.cat([torch.ones(width), -torch.ones(width)]),
    }
    ahead = {"score.w": make_rotation(-3) / width**0.5}
    mirrored = {"score.w": unit_vectors().flip(0).T * LENGTH / width**0.5}
    return [
        Picture("ScaledDot()", "longer keys get more", compute_weights({"score": ScaledDot()})),
        Picture("Dot()", "not scaled: sharper", compute_weights({"score": Dot()})),
        Picture("Cosine(3.0)", "length does not count", compute_weights({"score": Cosine(3.0)})),
        Picture("General()", "W turned: looks 3 steps ahead", compute_weights({"score": General()}, ahead)),
        Picture(
            "Additive(12)",
            "as a detector of small differences",
            compute_weights({"score": Additive(12)}, near),
        ),
        Picture("Location(24)", "mirrored: reads no key", compute_weights({"score": Location(24)}, mirrored)),
    ]


def scopes() -> list[Picture]:
    """The softmax of the scaled dot product in every scope."""
    side = torch.zeros(2 * HARMONICS, 1, dtype=torch.float64)
    side[1] = -0.4
    wave = {"scope.w": side, "scope.v": torch.full((1,), 2.4, dtype=torch.float64)}
    before, near = Window(8, right=0), Predictive(5, hidden=1)
    return [
        Picture("Global()", "every key", compute_weights({"scope": Global()})),
        Picture("Window(3)", "3 to either side", compute_weights({"scope": Window(3)})),
        Picture("Window(8, right=0)", "8 back, none ahead", compute_weights({"scope": before})),
        Picture("Predictive(5)", "5 around a predicted place", compute_weights({"scope": near}, wave)),
    ]


def selections() -> list[Picture]:
    """Every selection from the scaled dot product."""
    draw = Hard(expected=0.0)
    return [
        Picture("Soft()", "all keys", compute_weights({"select": Soft()})),
        Picture("Entmax(1.5)", "a few keys", compute_weights({"select": Entmax()})),
        Picture("Sparsemax()", "fewer keys", compute_weights({"select": Sparsemax()})),
        Picture("TopK(3)", "3 keys", compute_weights({"select": TopK(3)})),
        Picture("Hard()", "evaluation: the best key", compute_weights({"select": Hard()})),
        Picture("Hard()", "training: a draw from Soft", sample_weights(draw), is_sample=True),
    ]


def kernels() -> list[Picture]:
    """Random features beside the softmax that they estimate, and other feature maps."""
    rfa = [RFA(features, temperature=3**-0.5) for features in (16, 64, 256)]
    gated = RFA(256, gate=True, temperature=3**-0.5)
    return [
        Picture("Softmax()", "of Cosine(3.0)", compute_weights({"score": Cosine(3.0)})),
        *(Picture(f"RFA({p.features})", "estimates that, τ² = 1/3", _linear_weights(p)) for p in rfa),
        Picture("Softmax()", "of ScaledDot()", compute_weights({})),
        *(Picture(f"Favor({n})", "estimates that", _linear_weights(Favor(n))) for n in (16, 64, 256)),
        Picture("Elu()", "estimates nothing", _linear_weights(Elu())),
        Picture('RFA(256, "arccos")', "another kernel: flatter", _linear_weights(RFA(256, "arccos"))),
        Picture("RFA(256, gate=True)", "g = 0.95: forgets slowly", _linear_weights(gated, math.log(19))),
        Picture("RFA(256, gate=True)", "g = 0.7: forgets fast", _linear_weights(gated, math.log(7 / 3))),
    ]


def draw_examples(axis: str, pictures: Sequence[Picture]) -> list[Picture]:
    """A panel for every registered part of the axis that has none in `pictures`: its example."""
    missing = [
        part_class
        for part_class in AXES[axis].values()
        if not any(picture.title.startswith(f"{part_class.__name__}(") for picture in pictures)
    ]
    return [_draw_example(build_example(part_class)) for part_class in missing]


def _draw_example(part: Part) -> Picture:
    values = {option: getattr(part, option) for option in list_options(type(part))}
    title = f"{type(part).__name__}({', '.join(map(repr, values.values()))})"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        weights = compute_weights({part.axis: part})
    return Picture(title, ", ".join(f"{option}={value!r}" for option, value in values.items()), weights)


def _linear_weights(kernel: Part, gate: float | None = None) -> Tensor:
    return compute_weights({"kernel": kernel}, gate=gate)


def summarise(picture: Picture) -> list[float]:
    """Means of 4×4 blocks, which identify a picture; empty for random weights."""
    if picture.is_sample:
        return []
    blocks = picture.weights.unflatten(1, (6, 4)).unflatten(0, (6, 4)).mean((1, 3))
    return [round(mean, 4) for mean in blocks.flatten().tolist()]


def draw(pictures: Sequence[Picture], across: int, path: Path, about: str) -> None:
    """Draw panels with queries from top to bottom and keys from left to right.

    Args:
        pictures: the panels.
        across: panels per row.
        path: the PNG to write.
        about: text that is stored in the PNG.
    """
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
            _draw_panel(page, picture, (left, bottom, side), scale)
            _draw_ticks(page, (left, bottom, side), down=c == 0, across=r == len(rows) - 1)
    _draw_bar(page, MARGIN + FOOT, side, scale)
    page.figure.savefig(path, dpi=DPI, facecolor=LIGHT.paper, metadata={"Software": "qkv", "Weights": about})


def _draw_panel(page: Page, picture: Picture, place: tuple[float, float, float], scale: Scale) -> None:
    left, bottom, side = place
    page.axes(left, bottom, side, side).imshow(
        _signed_root(picture.weights.numpy()),
        cmap=scale.colour_map,
        vmin=_signed_root(scale.limits[0]),
        vmax=_signed_root(scale.limits[1]),
        interpolation="nearest",
    )
    page.write(picture.title, left, bottom + side + 0.165, NAME)
    page.write(picture.note, left, bottom + side + 0.05, NOTE).set_color("#5b636d")


def _draw_ticks(page: Page, place: tuple[float, float, float], *, down: bool, across: bool) -> None:
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


def _draw_bar(page: Page, bottom: float, height: float, scale: Scale) -> None:
    left = WIDTH - MARGIN - RIGHT + 0.14
    lowest, highest = _signed_root(scale.lowest), _signed_root(scale.highest)
    axes = page.axes(left, bottom, 0.09, height)
    axes.imshow(
        np.linspace(highest, lowest, 256)[:, None],
        cmap=scale.colour_map,
        vmin=_signed_root(scale.limits[0]),
        vmax=_signed_root(scale.limits[1]),
        aspect="auto",
    )
    for value in sorted({scale.lowest, scale.lowest / 4, 0.0, scale.highest / 4, scale.highest}):
        at = (_signed_root(value) - lowest) / (highest - lowest) * height
        text = f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
        page.write(text, left + 0.13, bottom + at, TICK, "left", 0, "center_baseline")


def _signed_root(weights: Any) -> Any:
    """The root of a weight, with its sign: small weights get visible colours too."""
    return np.sign(weights) * np.sqrt(np.abs(weights))
