"""Known defects of the parts, kernels and layers, and the tests that should see each."""

from typing import NamedTuple

NEAR = "scaled_dot-global-soft or additive-global-soft or window-soft or predictive or rfa_gaussian"
FORMULA = ("tests/contracts/test_contract_formula.py", f"equals and ({NEAR})")
REACH = (
    "tests/contracts/test_contract_visibility.py",
    "(reaches or all_masks or before_the_first) and scaled_dot-global-soft",
)
EMPTY = (
    "tests/contracts/test_contract_visibility.py",
    "(empty or before_the_first) and scaled_dot-global-soft",
)
STEPS = ("tests/contracts/test_contract_steps.py", NEAR)
SDPA = ("tests/test_layer.py", "parity")
RANDOM = ("tests/test_rfa.py", "not root_of_the_features")
LINEAR = ("tests/test_linear.py tests/test_linear_state.py tests/test_linear_key_weights.py", "")
TILES = ("tests/test_tiles.py", "tiles_equal or hidden_cell")
ROUTES = ("tests/test_exact.py", "bands_equal or blocks or cache or futures or keeps_no_more")
SELECT = ("tests/test_select.py", "not compile")
DROP_IN = ("tests/test_multihead.py tests/test_multihead_parts.py", "not compile")
TRACED = ("tests/test_torch_programs.py", "traced")


class Mutant(NamedTuple):
    """In which file which text becomes which, and the tests (file, -k expression) that should see it."""

    defect: str
    file: str
    text: str
    broken: str
    tests: tuple[str, str]


MUTANTS = (
    Mutant(
        "causal sees one key too many",
        "masks.py",
        ".tril(keys - queries)",
        ".tril(keys - queries + 1)",
        REACH,
    ),
    Mutant(
        "causal sees one key too few", "masks.py", ".tril(keys - queries)", ".tril(keys - queries - 1)", REACH
    ),
    Mutant("causal aligned upper left", "masks.py", ".tril(keys - queries)", ".tril()", REACH),
    Mutant(
        "the caller's allow is dropped", "kernel/masking.py", "masking.allow, reach)", "None, reach)", FORMULA
    ),
    Mutant(
        "the fused route drops keep",
        "kernel/exact.py",
        "if masking.keep is None and not _may_differ_in_length(q, k):",
        "if not _may_differ_in_length(q, k):",
        FORMULA,
    ),
    Mutant(
        "the fused route drops the window",
        "kernel/exact.py",
        "masking.allow is None and positions is None",
        "masking.allow is None",
        FORMULA,
    ),
    Mutant(
        "a step forgets how many went before",
        "kernel/exact.py",
        "state._replace(steps=state.steps + q.shape[2])",
        "state",
        STEPS,
    ),
    Mutant(
        "head groups interleaved",
        "kernel/masking.py",
        "x.repeat_interleave(heads // x.shape[1], dim=1)",
        "x.repeat(1, heads // x.shape[1], 1, 1)",
        FORMULA,
    ),
    Mutant(
        "heads merged without transpose",
        "layer.py",
        "out.transpose(1, 2).flatten(2)",
        "out.reshape(len(out), out.shape[2], -1)",
        FORMULA,
    ),
    Mutant("additive maps queries as keys", "score/additive.py", "q, self.w)", "q, self.u)", FORMULA),
    Mutant("the dot product is not scaled", "score/dot.py", "* q.shape[-1] ** -0.5", "* 1.0", SDPA),
    Mutant(
        "the window is one key too narrow", "scope/window.py", "(ahead <= right)", "(ahead < right)", FORMULA
    ),
    Mutant("a band is one key too narrow", "kernel/bands.py", "(ahead <= right)", "(ahead < right)", ROUTES),
    Mutant(
        "every run of blocks meets the keys of the first",
        "kernel/bands.py",
        "bands.first_slot + begin * size",
        "bands.first_slot",
        ROUTES,
    ),
    Mutant(
        "a neighbourhood has all columns",
        "scope/neighbourhood.py",
        "(columns.abs() <= radius)",
        "(columns.abs() <= width)",
        TILES,
    ),
    Mutant("a tile is off by its radius", "kernel/tiles.py", "* side - radius", "* side", TILES),
    Mutant(
        "a hidden cell moves the others",
        "kernel/exact.py",
        "masking = Masking(None, masking.allow",
        "masking = Masking(masking.keep, masking.allow",
        TILES,
    ),
    Mutant(
        "padding changes the scale of the dot product",
        "kernel/fused_attention.py",
        "return compute_fused_attention(q, k, v, allow, causal, scale, dropout)",
        "return compute_fused_attention(q, k, v, allow, causal, None, dropout)",
        ("tests/test_exact.py", "another_width"),
    ),
    Mutant("bands count padding", "kernel/bands.py", "if keep is not None:", "if False:", ROUTES),
    Mutant(
        "a block misses its last key",
        "kernel/query_blocks.py",
        "+ rows.stop, 0)",
        "+ rows.stop - 1, 0)",
        ROUTES,
    ),
    Mutant(
        "room is given away twice",
        "kernel/cache.py",
        "self.used += new.shape[2]",
        "self.used += 0",
        ROUTES,
    ),
    Mutant(
        "a window forgets what a padded query sees",
        "kernel/exact_state.py",
        "reach[0] + 1",
        "reach[0]",
        ROUTES,
    ),
    Mutant(
        "positions count padding",
        "token_positions.py",
        "keep.cumsum(1) - 1",
        "keep.new_ones(keep.shape).cumsum(1) - 1",
        FORMULA,
    ),
    Mutant(
        "local-p is renormalised unasked",
        "scope/predictive.py",
        "    if renormalise:",
        "    if True:",
        FORMULA,
    ),
    Mutant(
        "the Gaussian is twice as wide", "scope/predictive.py", "torch.exp(-2 *", "torch.exp(-0.5 *", FORMULA
    ),
    Mutant(
        "an empty row averages what it may not see",
        "select/soft.py",
        ".softmax(-1) * has_keys",
        ".softmax(-1)",
        EMPTY,
    ),
    Mutant(
        "hidden keys get a finite score",
        "select/soft.py",
        ".masked_fill(has_keys, -torch.inf)",
        ".masked_fill(has_keys, torch.finfo(logits.dtype).min)",
        SELECT,
    ),
    Mutant(
        "padded queries keep what is no number",
        "masks.py",
        "return torch.where(usable[..., None], x, 0)",
        "return x",
        ("tests/test_padding.py", "fast_routes"),
    ),
    Mutant(
        "1.5-entmax keeps a key too few",
        "select/sparse.py",
        "threshold <= ordered",
        "threshold + 0.1 <= ordered",
        SELECT,
    ),
    Mutant(
        "sparsemax does not square", "select/sparse.py", ".clamp_min(0).square()", ".clamp_min(0)", SELECT
    ),
    Mutant(
        "prefix sums forget the newest key",
        "kernel/causal_average.py",
        "(query_features @ features.mT) * pairs",
        "(query_features @ features.mT) * pairs.tril(-1)",
        LINEAR,
    ),
    Mutant(
        "keep forgotten in the denominator",
        "kernel/linear_operators.py",
        "features, values = (x * masking.keep[:, None, :, None] for x in (features, values))",
        "values = torch.cat([values[..., :-1] * masking.keep[:, None, :, None], values[..., -1:]], -1)",
        STEPS,
    ),
    Mutant(
        "gaps are not filled",
        "kernel/sums.py",
        "(floor * torch.where(squares > 0, squares, 1).sqrt() - total).clamp_min(0)",
        "0 * total",
        FORMULA,
    ),
    Mutant(
        "gaps are clamped, not filled",
        "kernel/sums.py",
        "query_sums[..., :-1] + deficit * mean",
        "query_sums[..., :-1]",
        RANDOM,
    ),
    Mutant(
        "the plain sums have no cumsum",
        "kernel/causal_average.py",
        "values[..., -1:].cumsum(2)",
        "values[..., -1:].sum(2, keepdim=True)",
        LINEAR,
    ),
    Mutant(
        "tiles forget those before them",
        "kernel/causal_average.py",
        "*prefix_sums[:-1]",
        "*[carry] * (len(prefix_sums) - 1)",
        LINEAR,
    ),
    Mutant(
        "nothing decays from tile to tile",
        "kernel/sums.py",
        "decayed = earlier.log_scale if log_decay is None else earlier.log_scale + log_decay",
        "decayed = earlier.log_scale",
        LINEAR,
    ),
    Mutant("sums in half precision", "kernel/masking.py", "else x.float()", "else x", LINEAR),
    Mutant(
        "the state is changed in place",
        "kernel/sums.py",
        "earlier.feature_sums + later.feature_sums",
        "earlier.feature_sums.add_(later.feature_sums)",
        STEPS,
    ),
    Mutant(
        "keys and queries drawn apart",
        "kernel/linear.py",
        "self._map_keys(k, v, masking, projections)\n            keep",
        "self._map_keys(k, v, masking, self.features.choose_projections())\n            keep",
        RANDOM,
    ),
    Mutant(
        "the bandwidth is ignored",
        "kernel/rfa.py",
        "(self.bandwidth.to(like.dtype) / self.temperature) * projections.to(like.dtype)",
        "projections.to(like.dtype) / self.temperature",
        FORMULA,
    ),
    Mutant(
        "vectors are not normalised",
        "kernel/rfa.py",
        "scale_to_unit_length(x) if self.normalise else x",
        "x",
        FORMULA,
    ),
    Mutant(
        "the gate forgets on padding",
        "kernel/key_weights.py",
        "log_decay.masked_fill(padded, 0)",
        "log_decay",
        FORMULA,
    ),
    Mutant(
        "the gate writes everything",
        "kernel/key_weights.py",
        "logs.append(F.logsigmoid(-gate_logits))",
        "logs.append(0 * gate_logits)",
        FORMULA,
    ),
    Mutant(
        "the gate is not applied to the past",
        "kernel/causal_average.py",
        "log_scale + key_weights.log_decay.cumsum(2)[..., None]",
        "log_scale + 0 * key_weights.log_decay[..., None]",
        LINEAR,
    ),
    Mutant(
        "memory is lent while it is in use",
        "kernel/memory_pool.py",
        "weakref.finalize(view, _return_block_and_trim_pool, block).atexit = False",
        "_return_block_and_trim_pool(block)",
        ("tests/test_memory_pool.py", ""),
    ),
    Mutant(
        "reordering forgets a field",
        "state.py",
        "[map_part(part) for part in state]",
        "[p if len(state) > 2 and i == 1 else map_part(p) for i, p in enumerate(state)]",
        STEPS,
    ),
    Mutant(
        "the drop-in reads torch's masks upside down",
        "multihead_masks.py",
        "return ~mask, None",
        "return mask, None",
        DROP_IN,
    ),
    Mutant(
        "tiles of a recorded program do not decay",
        "kernel/causal_average.py",
        "compute_causal_log_weights_at_queries(KeyWeights(log_scales, log_decay), log_scales.shape[2])",
        "compute_causal_log_weights_at_queries(KeyWeights(log_scales, None), log_scales.shape[2])",
        TRACED,
    ),
    Mutant(
        "a trace holds what the example's mask was",
        "multihead_masks.py",
        "is_zero = can_read(added) and not",
        "is_zero = not",
        TRACED,
    ),
)
