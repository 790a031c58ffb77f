"""Neighbourhood attention in tiles of a grid: blocks of queries, each with the keys of a larger rectangle.

A tile of a × b queries, whose neighbourhoods have the radius r, sees (a + 2r) × (b + 2r) keys:

    . . . . . . . .
    . o o o o o o .         # queries of the tile, which are keys too
    . o # # # # o .         o the other keys, here for r = 1
    . o # # # # o .
    . o o o o o o .
    . . . . . . . .

The tiles form a batch of small attentions, as the bands of a window do (`bands`).  In raster order, a band of
2r + 1 rows would hold all columns; a tile holds few keys that no query of it may see.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import BadShape
from qkv.kernel.bands import AttendBlocks, Bands, Vectors, attend_in_bands
from qkv.shapes import Keep
from qkv.tracing import holds_for_all_sizes

TileOrder = Float[Tensor, "B H N2 D"]

# Smaller tiles have fewer pairs outside of the neighbourhoods; larger ones copy each key fewer times.
TILE_SIDE = 8


class Tiling(NamedTuple):
    """A grid that is cut into tiles.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        radius: How many rows and columns a neighbourhood reaches to every side.
        rows: Rows of a tile.
        columns: Columns of a tile.
    """

    height: int
    width: int
    radius: int
    rows: int
    columns: int

    @property
    def cells(self) -> int:
        """The number of cells of the grid."""
        return self.height * self.width

    @property
    def tiles(self) -> tuple[int, int]:
        """The numbers of tiles below and beside each other; the last ones may reach over the border."""
        return -(-self.height // self.rows), -(-self.width // self.columns)

    @property
    def keys_per_tile(self) -> int:
        """The number of keys of a tile."""
        return (self.rows + 2 * self.radius) * (self.columns + 2 * self.radius)


class KeyCoordinates(NamedTuple):
    """The keys of every tile in one direction.

    Args:
        index: The row or column of each key; any of them where the key is outside of the grid.
        is_in_grid: Which of the keys are in the grid.
    """

    index: Int[Tensor, "n W"]
    is_in_grid: Bool[Tensor, "n W"]


def cut_into_tiles(grid: tuple[int, int, int]) -> Tiling:
    """Choose the size of the tiles.

    Args:
        grid: Height, width and radius.

    Returns:
        The tiling.
    """
    height, width, radius = grid
    return Tiling(height, width, radius, min(TILE_SIDE, height), min(TILE_SIDE, width))


def check_key_count(grid: tuple[int, int, int], keys: int, causal: bool) -> None:
    """Check that the keys are the cells of the grid; causal ones may still lack the last cells.

    Args:
        grid: Height, width and radius.
        keys: S, the number of keys.
        causal: Whether the queries see no later keys.

    Raises:
        BadShape: Their number is another.
    """
    height, width, _ = grid
    if keys > height * width or (keys < height * width and not causal):
        raise BadShape(
            f"Neighbourhood(height={height}, width={width}) needs {height}·{width} = {height * width} keys, "
            f"one for every cell, got {keys}: set height and width to the size of the grid"
        )


def are_tiles_cheaper(tiling: Tiling, queries: int, keys: int) -> bool:
    """Whether queries and keys are all cells, and tiles have fewer pairs than half of all pairs.

    Args:
        tiling: The tiling.
        queries: T.
        keys: S.

    Returns:
        True if so; in a recorded program, only if it is so for all lengths.
    """
    is_whole = holds_for_all_sizes(queries == tiling.cells) and holds_for_all_sizes(keys == tiling.cells)
    return is_whole and 2 * tiling.keys_per_tile < tiling.cells


def describe_tiles(tiling: Tiling) -> str:
    """The tiles in words, for `explain`."""
    down, across = tiling.tiles
    tile = f"{tiling.rows}×{tiling.columns}"
    return f"in {down}×{across} tiles of {tile} queries with {tiling.keys_per_tile} keys in reach"


def build_tiles(tiling: Tiling, keep: Keep | None, causal: bool, device: torch.device) -> Bands:
    """The keys and the mask of every tile.

    Args:
        tiling: The tiling, of n tiles.
        keep: [B,S], True for real keys; None where all are real.
        causal: Whether a query sees no later cell.
        device: Where to create them.

    Returns:
        The tiles as blocks: key_index [1,n,W], allow [B or 1,n,C,W].
    """
    down, across = tiling.tiles
    y, has_y = _compute_coordinates_of_keys_in_one_direction(
        down, tiling.rows, tiling.radius, tiling.height, device
    )
    x, has_x = _compute_coordinates_of_keys_in_one_direction(
        across, tiling.columns, tiling.radius, tiling.width, device
    )
    # [down,1,h,1] and [1,across,1,w] -> [1,n,h·w]
    index = (y[:, None, :, None] * tiling.width + x[None, :, None, :]).flatten(2).flatten(0, 1)[None]
    has_key = (has_y[:, None, :, None] & has_x[None, :, None, :]).flatten(2).flatten(0, 1)[None]
    if keep is not None:
        has_key = has_key & keep[:, index[0]]
    return Bands(index, has_key[:, :, None] & _build_neighbourhood_mask_of_tile(tiling, causal, device), None)


def attend_in_tiles(
    attend: AttendBlocks, q: Tensor, k: Tensor, v: Tensor, tiling: Tiling, tiles: Bands
) -> Vectors:
    """Neighbourhood attention [B,H,T,E].

    Args:
        attend: `attend(q, k, v, allow)` computes the output of a batch of blocks.
        q: Queries [B,H,T,D].
        k: Keys [B,Hk,S,D].
        v: Values [B,Hk,S,E].
        tiling: The tiling.
        tiles: What `build_tiles` returned for it.

    Returns:
        out [B,H,T,E].
    """
    return _reorder_outputs_by_rows_and_drop_padding(
        attend_in_bands(attend, _pad_and_reorder_queries_by_tiles(q, tiling), k, v, tiles), tiling
    )


def _compute_coordinates_of_keys_in_one_direction(
    tiles: int, side: int, radius: int, length: int, device: torch.device
) -> KeyCoordinates:
    """The rows or columns of the keys of every tile."""
    begin = torch.arange(tiles, device=device)[:, None] * side - radius
    slots = begin + torch.arange(side + 2 * radius, device=device)
    return KeyCoordinates(slots.clamp(0, length - 1), (slots >= 0) & (slots < length))


def _build_neighbourhood_mask_of_tile(tiling: Tiling, causal: bool, device: torch.device) -> Tensor:
    """The neighbourhoods [C,W] of the queries of one tile; they are the same in all tiles."""
    down = _compute_distances_of_keys_from_queries(tiling.rows, tiling.radius, device)[:, None, :, None]
    across = _compute_distances_of_keys_from_queries(tiling.columns, tiling.radius, device)[None, :, None, :]
    allow = (down.abs() <= tiling.radius) & (across.abs() <= tiling.radius)
    if causal:
        allow = allow & ((down < 0) | ((down == 0) & (across <= 0)))
    return allow.flatten(2).flatten(0, 1)


def _compute_distances_of_keys_from_queries(
    side: int, radius: int, device: torch.device
) -> Int[Tensor, "C W"]:
    """How far each key is behind each query in one direction."""
    keys = torch.arange(side + 2 * radius, device=device) - radius
    return keys - torch.arange(side, device=device)[:, None]


def _pad_and_reorder_queries_by_tiles(q: Vectors, tiling: Tiling) -> TileOrder:
    """Queries [B,H,T,D] row by row -> [B,H,n·C,D] tile by tile; cells over the border are zeros."""
    (down, across), (batch, heads, _, width) = tiling.tiles, q.shape
    grid = q.unflatten(2, (tiling.height, tiling.width))
    below, beside = down * tiling.rows - tiling.height, across * tiling.columns - tiling.width
    grid = F.pad(grid, (0, 0, 0, beside, 0, below)) if below or beside else grid
    blocks = grid.unflatten(3, (across, -1)).unflatten(2, (down, -1)).permute(0, 2, 4, 3, 5, 1, 6)
    return blocks.reshape(batch, -1, heads, width).transpose(1, 2)


def _reorder_outputs_by_rows_and_drop_padding(out: TileOrder, tiling: Tiling) -> Vectors:
    """Outputs [B,H,n·C,E] tile by tile -> [B,H,T,E] row by row."""
    (down, across), (batch, heads, _, width) = tiling.tiles, out.shape
    blocks = out.transpose(1, 2).unflatten(1, (down, across, tiling.rows, tiling.columns))
    grid = blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : tiling.height, : tiling.width]
    return grid.reshape(batch, -1, heads, width).transpose(1, 2)
