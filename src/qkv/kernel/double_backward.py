"""The computation of the backends with torch operators, for gradients that are differentiated again.

The backward pass of a backend is one operator, which has no derivative of its own.  Where autograd records
the backward pass (`create_graph=True`), that pass differentiates the functions of this module instead.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.kernel.causal_average import average_chunk_causally
from qkv.kernel.chunks import scan_chunks
from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAP_NUMBERS
from qkv.kernel.key_weights import LOG_ZERO, KeyWeights
from qkv.kernel.masking import promote_to_float32
from qkv.kernel.sums import (
    Features,
    MappedKeys,
    Sums,
    average_from_sums,
    create_empty_sums,
    decay_carry_and_add_keys,
)
from qkv.score.cosine import scale_to_unit_length
from qkv.tracing import is_transformed

MAP_NAMES = tuple(MAP_NUMBERS)

# The schema of the forward operators of the backends.  Its names stay, because they are part of exported
# programs; they stand for the fields of BackendInputs and BackendOptions, in order.
FORWARD_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? matrix, Tensor? keep, Tensor? written, Tensor? decay, "
    "Tensor? sums, Tensor? plain, Tensor? scale, SymInt map, bool unit, bool causal, float square, "
    "float floor) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


class BackendInputs(NamedTuple):
    """The tensors of a backend's call.

    Args:
        q: [B,H,T,D].
        k: [B,H,S,D].
        v: [B,H,S,E].
        matrix: W [H,R,D] of the feature map; None for a map without.
        keep: [B,S], True for real keys; None where all are real.
        log_weights: [B,H,S] of the keys, as in `key_weights.KeyWeights`; None for 0.
        log_decay: [B,H,S] of the keys, as in `key_weights.KeyWeights`; None without a gate.
        feature_sums: [B,H,F,E+1] over the earlier keys, as in `sums.Sums`; None where there are none.
        plain_sums: [B,H,1,E+2] over the earlier keys.
        log_scale: [B,H,1,1] of these sums.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    matrix: Tensor | None
    keep: Tensor | None
    log_weights: Tensor | None
    log_decay: Tensor | None
    feature_sums: Tensor | None
    plain_sums: Tensor | None
    log_scale: Tensor | None


class BackendOptions(NamedTuple):
    """The numbers of a backend's call.

    Args:
        map: The number of the feature map in `feature_map.MAP_NUMBERS`.
        scales_to_unit_length: As in `feature_map.MapDescription`.
        causal: Whether query t sees the earlier keys and keys 0 … t; otherwise it sees all keys.
        squared_length_factor: As in `feature_map.MapDescription`.
        floor: See `sums`.
    """

    map: int
    scales_to_unit_length: bool
    causal: bool
    squared_length_factor: float
    floor: float

    @property
    def map_name(self) -> str:
        """The name of the feature map."""
        return MAP_NAMES[self.map]


class ForwardResults(NamedTuple):
    """What the forward operators of the backends return.

    Args:
        out: [B,H,T,E] in the dtype of q.
        query_sums: Numbers of every query, for the backward pass.
        feature_sums: [B,H,F,E+1] after the last key, as in `sums.Sums`.
        plain_sums: [B,H,1,E+2] after the last key, as in `sums.Sums`.
        log_scale: [B,H,1,1] of these sums.
    """

    out: Tensor
    query_sums: Tensor
    feature_sums: Tensor
    plain_sums: Tensor
    log_scale: Tensor


class DifferentiableOutputs(NamedTuple):
    """What of a backend's results has a gradient.

    Args:
        out: [B,H,T,E] in the dtype of q.
        feature_sums: [B,H,F,E+1] after the last key, as in `sums.Sums`.
        plain_sums: [B,H,1,E+2] after the last key, as in `sums.Sums`.
    """

    out: Tensor
    feature_sums: Tensor
    plain_sums: Tensor


def is_backward_recorded_or_transformed() -> bool:
    """Whether the backward pass that is running will be differentiated again, or is batched by vmap."""
    return torch.is_grad_enabled() or is_transformed()


def compute_differentiable_gradients(
    inputs: BackendInputs, options: BackendOptions, output_grads: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """The gradients of `inputs`, computed with operators that autograd can differentiate.

    Args:
        inputs: The tensors of the forward pass.
        options: The numbers of the forward pass.
        output_grads: The gradients of out, feature sums and plain sums; None for zeros.

    Returns:
        One gradient for every tensor of `inputs`; None where a tensor has none.
    """
    # Views: if one input was computed from another, each gets only the gradient that reaches it directly.
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(inputs.q.device.type, enabled=False):
        inputs = BackendInputs._make(None if x is None else x.view_as(x) for x in inputs)
        outputs = compute_output_and_sums_with_operators(inputs, options)
    pairs = [
        (y, grad)
        for y, grad in zip(outputs, output_grads, strict=True)
        if grad is not None and y.requires_grad
    ]
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    if not pairs or not leaves:
        return [None] * len(inputs)
    ys, y_grads = zip(*pairs, strict=True)
    gradients = iter(torch.autograd.grad(ys, leaves, y_grads, create_graph=create_graph, allow_unused=True))
    return [next(gradients) if x is not None and x.requires_grad else None for x in inputs]


def compute_output_and_sums_with_operators(
    inputs: BackendInputs, options: BackendOptions
) -> DifferentiableOutputs:
    """Linear attention with operators that autograd can differentiate.

    Args:
        inputs: The tensors of the call.
        options: The numbers of the call.

    Returns:
        The output, and the sums after the last key.
    """
    q, k, v, log_weights, log_decay = inputs.q, inputs.k, inputs.v, inputs.log_weights, inputs.log_decay
    carry = _get_initial_or_empty_sums(inputs, options)
    if options.causal:

        def step(carry: Sums, positions: slice, q: Tensor, *keys: Any) -> tuple[Tensor, Sums]:
            query_features = _map_vectors_and_compute_log_factor(
                promote_to_float32(q), inputs.matrix, options
            )[0]
            return average_chunk_causally(
                query_features, _map_keys(inputs, options, positions, *keys), carry, options.floor
            )

        out, after = scan_chunks(step, carry, q, k, v, log_weights, log_decay)
    else:

        def accumulate(carry: Sums, positions: slice, *keys: Any) -> tuple[None, Sums]:
            return None, decay_carry_and_add_keys(_map_keys(inputs, options, positions, *keys), carry)

        _, after = scan_chunks(accumulate, carry, k, v, log_weights, log_decay)
        query_features = _map_vectors_and_compute_log_factor(promote_to_float32(q), inputs.matrix, options)[0]
        # [B,H,T,F] @ [B,H,F,E+1] -> [B,H,T,E+1]
        out = average_from_sums(query_features @ after.feature_sums, after.plain_sums, options.floor)
    return DifferentiableOutputs(out.to(q.dtype), after.feature_sums, after.plain_sums)


def _get_initial_or_empty_sums(inputs: BackendInputs, options: BackendOptions) -> Sums:
    """The sums over the earlier keys, or empty sums."""
    if inputs.feature_sums is not None and inputs.plain_sums is not None:
        has_weights = inputs.log_weights is not None or options.map in RESCALING_MAP_NUMBERS
        return Sums(inputs.feature_sums, inputs.plain_sums, inputs.log_scale if has_weights else None)
    logs = (None if x is None else x[:, :, :0] for x in (inputs.log_weights, inputs.log_decay))
    return create_empty_sums(
        _map_keys(inputs, options, slice(0), inputs.k[:, :, :0], inputs.v[:, :, :0], *logs)
    )


def _map_keys(
    inputs: BackendInputs,
    options: BackendOptions,
    positions: slice,
    k: Tensor,
    v: Tensor,
    log_weights: Tensor | None,
    log_decay: Tensor | None,
) -> MappedKeys:
    """Map the keys of these positions.  The content of padding is never read."""
    values = F.pad(promote_to_float32(v), (0, 1), value=1.0)
    k = promote_to_float32(k)
    if inputs.keep is None:
        features, log_factor = _map_vectors_and_compute_log_factor(k, inputs.matrix, options)
    else:
        padded = ~inputs.keep[:, None, positions, None]
        values = values.masked_fill(padded, 0)
        features, log_factor = _map_vectors_and_compute_log_factor(
            k.masked_fill(padded, 0), inputs.matrix, options
        )
        features = features.masked_fill(padded, 0)
        log_factor = None if log_factor is None else log_factor.masked_fill(padded[..., 0], LOG_ZERO)
    if log_factor is not None:
        log_weights = log_factor if log_weights is None else log_weights + log_factor
    return MappedKeys(features, values, None if log_weights is None else KeyWeights(log_weights, log_decay))


def _map_vectors_and_compute_log_factor(
    x: Tensor, matrix: Tensor | None, options: BackendOptions
) -> tuple[Features, Tensor | None]:
    """φ(x) [B,H,N,F], and log m [B,H,N] that a backend computes with it (FAVOR+ only)."""
    # Imported here, because these modules import the backends.
    from qkv.kernel.elu import compute_elu_features
    from qkv.kernel.favor import compute_positive_features_and_log_factor
    from qkv.kernel.rfa import compute_arccos_features, compute_fourier_features

    x = scale_to_unit_length(x) if options.scales_to_unit_length else x
    if matrix is None:
        return compute_elu_features(x), None
    if options.map_name == "favor":
        scale = (2 * options.squared_length_factor) ** 0.5
        return compute_positive_features_and_log_factor(x * scale, matrix / scale)
    return (compute_fourier_features if options.map_name == "gaussian" else compute_arccos_features)(
        x, matrix
    ), None
