"""Self-attention over the cells of a feature map, as loops over cells, in float64."""

import math
from typing import Any

import torch
from torch import Tensor

from reference import loops
from reference.loops import Looped, Masks, Place


@torch.no_grad()
def self_attention_2d(module: Any, x: Tensor, keep: Tensor | None = None) -> Looped:
    """What `module.attend(x, keep=keep)` should return: out [B,C,Y,X], weights [B,H,N,S].

    Every cell (y, x) is the vector of its channels.  A key is the maximum over the real cells of a square.
    """
    batch, _, height, width = x.shape
    keep = torch.ones(batch, height, width, dtype=torch.bool) if keep is None else keep
    cells = [(y, x) for y in range(height) for x in range(width)]
    corners = [(y, x) for y in range(0, height, module.pool) for x in range(0, width, module.pool)]
    x, out = x.double(), x.double().clone()
    weights = torch.zeros(batch, module.heads, len(cells), len(corners), dtype=torch.float64)
    for row in range(batch):
        pixels = {cell: x[row, :, *cell] for cell in cells}
        squares = [_real_cells(corner, module.pool, keep[row]) for corner in corners]
        keys = [_maximum(module.to_k, [pixels[cell] for cell in square]) for square in squares]
        values = [_maximum(module.to_v, [pixels[cell] for cell in square]) for square in squares]
        hidden = torch.tensor([bool(square) for square in squares])[None].expand(batch, -1)
        for n, cell in enumerate(cells):
            if not keep[row, *cell]:
                out[row, :, *cell] = 0
                continue
            query, heads = project(module.to_q, pixels[cell]), []
            for head in range(module.heads):
                part = _rows(head, module.dims.query)
                place = Place(row, head, n, len(cells), len(corners), module.pool == 1)
                k = [key[part] for key in keys]
                found = loops._weights(module, place, Masks(hidden), query[part], k, None)
                mixed = torch.zeros(module.dims.value, dtype=torch.float64)
                for s, weight in found.items():
                    weights[row, head, n, s] = weight
                    mixed += weight * values[s][_rows(head, module.dims.value)]
                heads.append(mixed)
            gamma = 1.0 if module.gamma is None else float(module.gamma)
            out[row, :, *cell] += gamma * project(module.to_out, torch.cat(heads))
    return Looped(out, weights)


def project(convolution: Any, pixel: Tensor) -> Tensor:
    """W pixel + b; with a spectral norm, W is divided by its largest singular value."""
    weights = dict(convolution.named_parameters())
    normed = "parametrizations.weight.original" in weights
    matrix = weights["parametrizations.weight.original" if normed else "weight"].double()[:, :, 0, 0]
    if normed:
        matrix = matrix / math.sqrt(float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1]))
    return matrix @ pixel + (0 if convolution.bias is None else convolution.bias.double())


def _real_cells(corner: tuple[int, int], side: int, keep: Tensor) -> list[tuple[int, int]]:
    height, width = keep.shape
    square = [(corner[0] + i, corner[1] + j) for i in range(side) for j in range(side)]
    return [(y, x) for y, x in square if y < height and x < width and keep[y, x]]


def _maximum(convolution: Any, pixels: list[Tensor]) -> Tensor:
    if not pixels:
        return torch.zeros(convolution.out_channels, dtype=torch.float64)
    return torch.stack([project(convolution, pixel) for pixel in pixels]).max(0).values


def _rows(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)
