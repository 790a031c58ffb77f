"""Every legal combination equals its formula, and its gradients are those of its outputs."""

import pytest
import torch
from cases import CASES, ONCE, OUTER, Case, all_masks, build, close, inputs

from qkv import rules
from qkv.kernel.masking import repeat_heads
from reference import formulas, loops
from reference.loops import Masks, weights_of

every_case = pytest.mark.parametrize("case", CASES, ids=str)
once = pytest.mark.parametrize("case", ONCE, ids=str)


@pytest.mark.parametrize("axis", rules.AXES)
def test_every_registered_part_has_a_formula(axis: str) -> None:
    assert set(formulas.AXES[axis]) == set(rules.AXES[axis])


@every_case
def test_equals_the_loop_formula(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    masks = all_masks(case)
    for given in (Masks(), Masks(masks.keep), masks)[: 3 if case.exact else 2]:
        expected = loops.layer(attention, x, memory, given)
        attended = attention.attend(x, memory, **given._asdict())
        close(attended.out, expected.out)
        close(weights_of(attended), expected.weights)
        close(attention(x, memory, **given._asdict()), expected.out)


@once
def test_float32_is_within_1e_5_of_the_formula(case: Case) -> None:
    attention, (x, memory) = build(case, torch.float32), inputs(case, torch.float32)
    # Of scores far from 1, float32 itself keeps less than the five digits that are asked for here.
    x, memory = x / 2, None if memory is None else memory / 2
    given = all_masks(case)
    expected = loops.layer(attention, x, memory, given).out
    close(attention(x, memory, **given._asdict()).double(), expected, 1e-5)


@once
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    given = all_masks(case)._asdict()
    parameters = dict(attention.named_parameters())
    memories = [] if memory is None else [memory]

    def run(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        values = dict(zip(parameters, rest[len(memories) :], strict=True))
        return torch.func.functional_call(attention, values, (x, *rest[: len(memories)]), given)

    leaves = [leaf.detach().requires_grad_() for leaf in (x, *memories, *parameters.values())]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True, check_undefined_grad=False)


@every_case
def test_shown_weights_make_the_output_and_change_nothing(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = all_masks(case).keep
    q, k, v, given = attention._prepare(x, memory, keep, None, None)
    shown = attention.core.attend(q, k, v, given)
    close(weights_of(shown) @ repeat_heads(v, attention.dims.heads), shown.out)
    close(attention.core(q, k, v, given), shown.out)
    close(attention.attend(x, memory, keep=keep).out, attention(x, memory, keep=keep))


@pytest.mark.parametrize("case", [case for case in OUTER if case.normalised], ids=str)
def test_constants_survive(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    q, k, v, given = attention._prepare(x, memory, None, None, None)
    for run in (attention.core, lambda *qkv: attention.core.attend(*qkv).out):
        out = run(q, k, torch.ones_like(v), given)
        visible = min(q.shape[2], k.shape[2]) if case.choice.causal else q.shape[2]
        close(out[:, :, -visible:], torch.ones_like(out[:, :, -visible:]))
    weights = weights_of(attention.core.attend(q, k, v, given))
    close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@once
def test_reads_its_queries_and_its_keys(case: Case) -> None:
    """A mechanism that averaged blindly would keep most other contracts."""
    attention, (x, memory) = build(case), inputs(case)
    source = x if memory is None else memory
    weights = weights_of(attention.attend(x, memory))
    assert weights.std(-1).max() > 1e-3
    assert (weights_of(attention.attend(x.roll(1, 0), source)) - weights).abs().max() > 1e-3
