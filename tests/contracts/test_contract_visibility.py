"""Who sees whom: padding, the future, empty rows, intersected masks, order and neighbours in the batch."""

import itertools

import pytest
import torch
from cases import (
    CASES,
    HOME,
    LAYOUTS,
    ONCE,
    OUTER,
    B,
    Case,
    S,
    T,
    all_masks,
    build,
    close,
    inputs,
    keys,
    queries,
    wild,
)
from torch import Tensor

from qkv.errors import BadMask
from reference.loops import Masks, reach, weights_of

every_case = pytest.mark.parametrize("case", CASES, ids=str)
outer_case = pytest.mark.parametrize("case", OUTER, ids=str)
# Left, interior and right padding in one batch: the first `length` of these columns.
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)


def in_grouped_heads(cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.layout == "grouped"]


@every_case
def test_padding_is_invisible_to_outputs_and_gradients(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case, batch=3)
    keep = PADDED[:, : keys(case)]
    real = torch.ones_like(x[..., :1]) if case.cross else keep[..., None].to(x)
    target = torch.randn_like(x)

    def seen(junk: float | None) -> list[Tensor]:
        source = x if memory is None else memory
        scaled = 0 if junk is None else junk * torch.randn_like(source)
        source = wild(source, keep) if junk is None else torch.where(keep[..., None], source, scaled)
        source.requires_grad_()
        leaves = [source, *attention.parameters()]
        out = attention(x, source, keep=keep) if case.cross else attention(source, keep=keep)
        out = torch.where(real > 0, out, 0)
        loss = ((out - target) ** 2 * real).sum()
        return [out, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]

    tidy, junk = seen(0.1), seen(30.0)
    for other in (junk, seen(None)):
        close(other, tidy, 1e-9)
        assert not other[1][~keep].any(), "padding gets a gradient"
    if case.dense and case.choice.scope.name == "global":
        assert junk[1][keep].all(), "a real position gets none"


@pytest.mark.parametrize("case", ONCE, ids=str)
def test_what_stands_in_padding_changes_no_shown_weight(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = PADDED[1:, : keys(case)]
    real = torch.ones(B, queries(case), dtype=torch.bool) if case.cross else keep
    source = x if memory is None else memory
    junk = wild(source, keep)
    shown = attention.attend(*((x, junk) if case.cross else (junk,)), keep=keep)
    expected = attention.attend(x, memory, keep=keep)
    close(shown.out[real], expected.out[real], 1e-9)
    close(weights_of(shown).transpose(1, 2)[real], weights_of(expected).transpose(1, 2)[real], 1e-9)


@outer_case
@pytest.mark.parametrize(("rows", "memories"), [(5, 7), (7, 3)], ids=["T<S", "T>S"])
def test_reaches_exactly_what_it_may_see(case: Case, rows: int, memories: int) -> None:
    """No future leaks, the past reaches forward, and the last query is aligned with the last key."""
    attention, width = build(case), LAYOUTS[case.layout]["heads"] * 11
    if case.cells:
        memories = min(memories, case.cells) if case.choice.causal else case.cells
        rows = rows if case.cross else memories
    x = torch.randn(1, rows, width, dtype=torch.float64, requires_grad=True)
    if case.cross:
        memory = inputs(case)[1][:1, :1].repeat(1, memories, 1)  # pyright: ignore[reportOptionalSubscript]
        source = (memory + torch.randn_like(memory)).requires_grad_()
        out = attention(x, source)
    else:
        source, out = x, attention(x)
    slopes = [torch.autograd.grad(row.sum(), source, retain_graph=True)[0][0].abs().sum(-1) for row in out[0]]
    reached = [set(row.nonzero().flatten().tolist()) for row in slopes]
    heads = reach(attention, x, None if source is x else source, Masks())[0]
    for t in range(rows):
        expected = set().union(*(head[t] for head in heads))
        own = {t} if source is x and expected else set()  # the query itself
        assert reached[t] <= expected | own
        assert reached[t] == expected | own if case.dense else bool(reached[t]) >= bool(expected)


@pytest.mark.parametrize(
    ("dtype", "case"),
    [*itertools.product((torch.float64, torch.bfloat16), OUTER), *((torch.float32, case) for case in HOME)],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_empty_rows_give_zero_and_finite_gradients(dtype: torch.dtype, case: Case) -> None:
    attention, (x, memory) = build(case, dtype), inputs(case, dtype)
    keep = torch.ones(B, keys(case), dtype=torch.bool)
    keep[0] = False
    source = (x if memory is None else memory).requires_grad_()
    bias = attention.to_out.bias if attention.spec.project else None
    nothing = torch.zeros_like(x[0, 0]) if bias is None else bias
    shown = attention.attend(x, memory, keep=keep)
    assert not weights_of(shown)[0].any()
    for out in (shown.out, attention(x, memory, keep=keep)):
        torch.testing.assert_close(out[0], nothing.expand_as(out[0]))
        assert out[1].isfinite().all()
        leaves = [source, *attention.parameters()]
        gradients = torch.autograd.grad(
            out.square().sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("case", [case for case in OUTER if case.cross and case.choice.causal], ids=str)
def test_queries_before_the_first_key_see_nothing(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    assert memory is not None
    shown = attention.attend(x, memory[:, :2])
    assert not weights_of(shown)[:, :, : T - 2].any()
    assert (weights_of(shown)[:, :, T - 2 :].sum(-1) > 0.1).all()
    close(attention(x, memory[:, :2]), shown.out)


@pytest.mark.parametrize("case", in_grouped_heads(CASES), ids=str)
def test_all_masks_intersect(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    masks = all_masks(case)
    weights = weights_of(attention.attend(x, memory, **masks._asdict()))
    expected = reach(attention, x, memory, masks)
    for row in range(B):
        for head in range(attention.dims.heads):
            for t in range(queries(case)):
                assert set(weights[row, head, t].nonzero().flatten().tolist()) <= set(expected[row][head][t])


@pytest.mark.parametrize("case", [case for case in CASES if case.layout == "three"], ids=str)
@pytest.mark.parametrize("name", ["allow", "bias"])
def test_masks_of_pairs_are_honoured_or_refused(case: Case, name: str) -> None:
    attention, (x, memory) = build(case), inputs(case)
    mask = torch.ones(queries(case), keys(case), dtype=torch.bool)
    mask[:, 0] = False
    given = {name: mask if name == "allow" else torch.where(mask, 0.0, -80.0).double()}
    if case.exact:
        # The first causal query may see the first key alone, which a finite bias cannot hide.
        assert weights_of(attention.attend(x, memory, **given))[:, :, 1:, 0].max() < 1e-9
        if not case.positional:  # whose positions count the keys that keep= leaves
            hidden = attention(x, memory, keep=mask[:1].expand(B, -1))
            close(attention(x, memory, **given)[:, 1:], hidden[:, 1:], 1e-9)
        return
    for run in (attention, attention.attend):
        with pytest.raises(BadMask, match=rf"{name}= was passed to a feature map.*kernel=Softmax\(\)"):
            run(x, memory, **given)


@pytest.mark.parametrize("case", in_grouped_heads(CASES), ids=str)
def test_order_of_keys_matters_only_when_causal_or_positional(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    order = torch.randperm(keys(case)).roll(1)
    assert order.tolist() != sorted(order.tolist())
    if memory is None:
        shuffled, expected = attention(x[:, order]), attention(x)[:, order]
    else:
        keep = all_masks(case).keep
        assert keep is not None
        shuffled, expected = (
            attention(x, memory[:, order], keep=keep[:, order]),
            attention(x, memory, keep=keep),
        )
    if case.choice.causal or case.positional:  # though a hard choice may fall on the same key
        assert (shuffled - expected).abs().max() > 1e-3 or case.choice.select.name == "hard"
    else:
        close(shuffled, expected)


@pytest.mark.parametrize("case", in_grouped_heads(CASES), ids=str)
def test_rows_of_a_batch_are_independent(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    keep = all_masks(case).keep
    assert keep is not None
    for row in range(B):
        alone = slice(row, row + 1)
        lonely = attention(x[alone], None if memory is None else memory[alone], keep=keep[alone])
        close(lonely, attention(x, memory, keep=keep)[alone])


# One key is not a grid.
AVERAGES = [case for case in OUTER if not case.choice.causal and case.normalised and not case.cells]


@pytest.mark.parametrize("case", AVERAGES, ids=str)
def test_one_key_or_identical_keys_give_their_value(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    if memory is None:
        x = x[:, :1].expand(-1, T, -1)
        close(attention(x), attention(x[:, :1]).expand(-1, T, -1))
    else:
        one = attention(x, memory[:, :1])
        close(attention(x, memory[:, :1].expand(-1, S, -1)), one)
        close(one, one[:, :1].expand_as(one))
