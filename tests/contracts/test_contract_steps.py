"""Stepping equals reading all at once; a state is a value to be split, kept, reordered, looked into."""

from typing import Any

import pytest
import torch
from cases import OUTER, B, Case, T, all_masks, build, close, inputs, wild
from torch import Tensor

from qkv.errors import IncompatibleParts
from qkv.layer import Attention
from qkv.state import Shared, select_rows
from reference.loops import weights_of

STEPPED = [case for case in OUTER if case.choice.causal != case.cross]
stepped = pytest.mark.parametrize("case", STEPPED, ids=str)


def started(
    attention: Attention, memory: Tensor | None, keep: Tensor | None, return_weights: bool = False
) -> Any:
    if memory is None:
        return attention.start(batch=B, return_weights=return_weights)
    return attention.start(memory, keep=keep, return_weights=return_weights)


def in_parts(
    attention: Attention, x: Tensor, state: Any, keep: Tensor | None, sizes: tuple[int, ...]
) -> tuple[Tensor, Any]:
    """Every output of stepping through x in parts of these sizes, and the last state."""
    outs, begin = [], 0
    for size in sizes:
        now = slice(begin, begin + size)
        out, state = attention.step(x[:, now], state, keep=None if keep is None else keep[:, now])
        outs.append(out)
        begin += size
    assert begin == x.shape[1]
    return torch.cat(outs, 1), state


def copied(state: Any) -> Any:
    if isinstance(state, Shared):
        return None
    if isinstance(state, tuple):
        return tuple(map(copied, state))
    return state.clone() if isinstance(state, Tensor) else state


@stepped
def test_steps_equal_all_at_once_however_they_are_split(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    for keep, splits in ((None, ((1, 1, 1, 1, 1),)), (all_masks(case).keep, ((2, 3), (3, 1, 1), (5,)))):
        whole = attention(x, memory, keep=keep)
        of_steps = keep if memory is None else None
        for sizes in splits:
            stepwise, _ = in_parts(attention, x, started(attention, memory, keep), of_steps, sizes)
            close(stepwise, whole)


@stepped
def test_what_stands_in_padding_changes_no_step(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = all_masks(case).keep
    assert keep is not None
    expected = attention(x, memory, keep=keep)
    if memory is None:
        stepwise, _ = in_parts(attention, wild(x, keep), started(attention, None, None), keep, (1, 2, 2))
        close(stepwise[keep], expected[keep])
    else:
        stepwise, _ = in_parts(attention, x, started(attention, wild(memory, keep), keep), None, (1, 2, 2))
        close(stepwise, expected)


@stepped
def test_one_position_without_its_dimension_is_a_step_of_one(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    state = started(attention, memory, None)
    flat, _ = attention.step(x[:, 0], state)
    one, _ = attention.step(x[:, :1], state)
    close(flat, one[:, 0])


@stepped
def test_a_state_is_never_changed_in_place(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = all_masks(case).keep
    before = started(attention, memory, keep, return_weights=True)
    _, between = attention.step(x[:, :2], before)
    kept = copied(before), copied(between)
    first, _ = attention.step(x[:, 2:], between)
    second, _ = attention.step(x[:, 2:], between)
    close(second, first, 0)
    close((copied(before), copied(between)), kept, 0)


@pytest.mark.parametrize(
    ("case", "return_weights"),
    [*((case, True) for case in STEPPED), *((case, False) for case in STEPPED if not case.exact)],
    ids=str,
)
def test_reordered_rows_equal_rows_computed_again(case: Case, return_weights: bool) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = all_masks(case).keep
    of_steps = keep if memory is None else None
    rows = torch.tensor([1, 1, 0])
    state = started(attention, memory, keep, return_weights)
    _, state = attention.step(x[:, :2], state, keep=None if of_steps is None else of_steps[:, :2])
    later = None if of_steps is None else of_steps[rows, 2:]
    beam, _ = attention.attend_step(x[rows, 2:], select_rows(state, rows), keep=later)
    again = attention.attend(x[rows], None if memory is None else memory[rows], keep=keep[rows])  # pyright: ignore[reportOptionalSubscript]
    close(beam.out, again.out[:, 2:])
    if return_weights:
        close(weights_of(beam), weights_of(again)[:, :, 2:])


@stepped
def test_repeated_rows_stand_side_by_side(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    _, state = attention.step(x[:, :2], started(attention, memory, None))
    out, _ = attention.step(
        x[:, 2].repeat_interleave(3, 0), select_rows(state, torch.arange(B).repeat_interleave(3))
    )
    close(out, attention(x, memory)[:, 2].repeat_interleave(3, 0))


@stepped
def test_a_remembering_state_shows_the_weights(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = all_masks(case).keep
    expected = weights_of(attention.attend(x, memory, keep=keep))
    state, begin = started(attention, memory, keep, return_weights=True), 0
    for size in (1, 2, 2):
        now = slice(begin, begin := begin + size)
        of_step = None if keep is None or case.cross else keep[:, now]
        attended, state = attention.attend_step(x[:, now], state, keep=of_step)
        seen = expected.shape[-1] if case.cross else begin
        close(weights_of(attended), expected[:, :, now, :seen])


@stepped
def test_gradients_flow_through_steps(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    source = (x if memory is None else memory).requires_grad_()
    whole = torch.autograd.grad(attention(x, memory).square().sum(), source)
    parts, _ = in_parts(attention, x, started(attention, memory, None), None, (1, T - 1))
    close(torch.autograd.grad(parts.square().sum(), source), whole)


@pytest.mark.parametrize("case", [case for case in OUTER if case not in STEPPED], ids=str)
def test_what_cannot_be_stepped_says_so(case: Case) -> None:
    attention, (_, memory) = build(case), inputs(case)
    reason = "needs a layer with causal=False" if case.cross else "needs causal=True"
    with pytest.raises(IncompatibleParts, match=reason):
        started(attention, memory, None)
