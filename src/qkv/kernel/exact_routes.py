"""Which route exact attention takes, in words."""

from typing import Any

from qkv.kernel import native
from qkv.kernel.bands import are_bands_cheaper, describe_bands
from qkv.kernel.query_blocks import compute_queries_per_block
from qkv.kernel.tiles import are_tiles_cheaper, describe_tiles

OPERATOR = "torch.nn.functional.scaled_dot_product_attention, as softmax of a dot product"


def explain_route(core: Any, queries: int, keys: int) -> str:
    """Which route an evaluator takes for T queries and S keys, and why.

    Args:
        core: The evaluator, an `Exact`.
        queries: T.
        keys: S.

    Returns:
        One sentence or two.
    """
    blocks = _describe_blocks(core, queries, keys)
    if blocks is not None:
        route = f"each through {OPERATOR}" if core.is_fused else "each explicitly"
        exceptions = "Returning weights, and passing allow= or bias=, take all pairs."
        return f"exact, {blocks}, {route}. {exceptions}"
    if core.is_fused:
        mask = f", with a mask of {queries}×{keys} for the window" if core.positional else ""
        return (
            f"exact, through {OPERATOR}{mask}; a mask of all pairs is applied in blocks of queries. "
            "Returning weights and passing bias= take the explicit route."
        )
    return _explain_explicit_route(core, queries, keys)


def _describe_blocks(core: Any, queries: int, keys: int) -> str | None:
    """The bands of a window or the tiles of a grid; None where they do not apply or have more pairs."""
    reach = core.get_reach_back_and_ahead()
    if core.reach is not None and are_bands_cheaper(queries, keys, *reach):
        return describe_bands(queries, *reach)
    if core.tiling is not None and are_tiles_cheaper(core.tiling, queries, keys):
        return describe_tiles(core.tiling)
    return None


def _explain_explicit_route(core: Any, queries: int, keys: int) -> str:
    is_native = core.has_native_scores and native.is_available()
    numbers = 1 if is_native else core.score.numbers_per_pair
    block_size, details = compute_queries_per_block(1, core.heads, keys, numbers), ""
    if block_size < queries:
        details += f", {block_size} queries at a time (batch size 1), recomputed for gradients"
    if is_native:
        details += ", scored by the native backend if these are float32 or bfloat16 on a CPU"
    weights = f"forms {queries}×{keys} weights per head{details}"
    return f"exact, explicit: {weights}, because no fused operator computes these parts"
