"""Scopes: what may be seen, worked by hand, and the position that local-p predicts."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv.catalogue import build_example
from qkv.errors import BadRecipe, UnknownName
from qkv.part import from_dict
from qkv.scope import SCOPES, Global, Neighbourhood, Predictive, Window
from qkv.shapes import Dims
from qkv.token_positions import TokenPositions, build_memory_positions, build_self_positions
from reference import formulas

B, H, T, S, D = 2, 3, 5, 7, 11
DIMS = Dims(H, D, 13, 3)
KEEP = torch.tensor([[0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
PARTS = [
    Global(),
    Window(2),
    Window(1, left=2, right=0),
    Predictive(2, hidden=17),
    Predictive(1, renormalise=True),
    Neighbourhood(2, 4, 1),
]
PARTS += [build_example(kind) for name, kind in SCOPES.items() if name not in {p.name for p in PARTS}]
every_part = pytest.mark.parametrize("part", PARTS, ids=repr)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def built(part: Any, dims: Dims = DIMS) -> Any:
    """The scope with parameters large enough to predict positions all over the memory."""
    scope = part.build(dims)
    if not isinstance(scope, nn.Module):
        return scope
    with torch.no_grad():
        for parameter in scope.double().parameters():
            parameter.normal_()
    return scope


def seen(part: Any, at: TokenPositions) -> list[list[int]]:
    """The keys that every query of the first row sees."""
    allow, _ = part.build(DIMS)(torch.randn(len(at.key_counts), H, at.queries.shape[1], D), at)
    return [row.nonzero().flatten().tolist() for row in allow[0, 0]]


def weights(scope: Any, q: Tensor, logits: Tensor, at: TokenPositions, keep: Tensor | None = None) -> Tensor:
    """Softmax over what may be seen, then what the scope makes of it."""
    allow, reweight = scope(q, at)
    if keep is not None:
        allow = keep[:, None, None] if allow is None else allow & keep[:, None, None]
    if allow is not None:
        logits = logits.masked_fill(~allow, -1e300)
    shares = logits.softmax(-1) if allow is None else logits.softmax(-1) * allow
    return shares if reweight is None else reweight(shares)


def random() -> tuple[Tensor, Tensor]:
    return torch.randn(B, H, T, D).double(), torch.randn(B, H, T, S).double()


def test_global_hides_nothing() -> None:
    assert Global().build(DIMS)(torch.randn(B, H, T, D), None) == (None, None)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Window(1), [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4]]),
        (Window(1, left=2), [[0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4]]),
        (Window(1, right=0), [[0], [0, 1], [1, 2], [2, 3], [3, 4]]),
        (Window(9, left=0, right=1), [[0, 1], [1, 2], [2, 3], [3, 4], [4]]),
        (Window(9), [[0, 1, 2, 3, 4]] * 5),
    ],
    ids=repr,
)
def test_window_by_hand(part: Any, expected: list[list[int]]) -> None:
    assert seen(part, build_self_positions(5, 5, None)) == expected


def test_a_neighbourhood_by_hand() -> None:
    """Three rows of four cells; radius 1 is cut off at the borders."""
    rows = seen(Neighbourhood(3, 4, 1), build_self_positions(12, 12, None))
    assert rows[0] == [0, 1, 4, 5]
    assert rows[3] == [2, 3, 6, 7]
    assert rows[4] == [0, 1, 4, 5, 8, 9]
    assert rows[6] == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert rows[11] == [6, 7, 10, 11]
    assert seen(Neighbourhood(3, 4, 3), build_self_positions(12, 12, None)) == [list(range(12))] * 12


def test_window_over_a_memory_follows_the_query_and_stops_at_the_end() -> None:
    assert seen(Window(1, right=0), build_memory_positions(5, 3, None)) == [
        [0],
        [0, 1],
        [1, 2],
        [1, 2],
        [1, 2],
    ]
    assert seen(Window(1), build_memory_positions(2, 5, None, first=2)) == [[1, 2, 3], [2, 3, 4]]
    # The second, fourth and fifth key are real; the third query and all later ones stand at the last.
    at = build_memory_positions(4, 6, keep := torch.tensor([[0, 1, 0, 1, 1, 0]]).bool())
    real = [[s for s in row if keep[0, s]] for row in seen(Window(1), at)]
    assert real == [[1, 3], [1, 3, 4], [3, 4], [3, 4]]


@every_part
@pytest.mark.parametrize("own", [True, False], ids=["self", "memory"])
def test_padding_moves_nothing(part: Any, own: bool) -> None:
    """Four words, bare and with padding put left of, between and right of them."""
    keep, scope = KEEP[:1], built(part)
    words = keep[0].nonzero().flatten()
    q, logits = torch.randn(1, H, S, D).double(), torch.randn(1, H, S, S).double()
    if own:
        padded = weights(scope, q, logits, build_self_positions(S, S, keep), keep)[:, :, words]
        bare = weights(
            scope, q[:, :, words], logits[:, :, words][..., words], build_self_positions(4, 4, None)
        )
    else:
        padded = weights(scope, q, logits, build_memory_positions(S, S, keep), keep)
        bare = weights(scope, q, logits[..., words], build_memory_positions(S, 4, None))
    close(padded[..., words], bare)
    assert (padded[..., ~keep[0]] == 0).all()


@every_part
def test_every_scope_is_its_formula(part: Any) -> None:
    q, logits = random()
    scope, at = built(part), build_memory_positions(T, S, KEEP)
    found = weights(scope, q, logits, at, KEEP)
    formula = formulas.SCOPES[part.name]
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in (B, H, T))).tolist():
        count = int(KEEP[b].sum())
        known, total = torch.zeros(S).double(), 0.0
        for s in KEEP[b].nonzero().flatten().tolist():
            place = int(KEEP[b, :s].sum())
            factor = formula(q[b, h, t], min(t, count - 1), place, count, part, scope, h)
            if factor is not None:
                total += math.exp(logits[b, h, t, s])
                known[s] = factor * math.exp(logits[b, h, t, s])
        close(found[b, h, t], known / (known.sum() if formulas.renormalised(part) else total))


def test_predictive_by_hand() -> None:
    """With v = 0 the middle is predicted."""
    scope = Predictive(half_width=2).build(Dims(1, D, D, 1)).double()
    nn.init.zeros_(scope.v)
    q = torch.randn(1, 1, 1, D).double()
    allow, reweight = scope(q, build_memory_positions(1, 6, None))
    # p = 3 and σ = 1.
    assert allow.flatten().tolist() == [False, True, True, True, True, True]
    distances = torch.tensor([3.0, 2, 1, 0, 1, 2]).double()
    close(reweight(torch.ones(1, 1, 1, 6).double())[0, 0, 0], torch.exp(-0.5 * distances**2))
    allow, reweight = scope(q, build_memory_positions(1, 3, None))
    # p = 1.5: the window stands at 1, the bell between 1 and 2.
    distances = torch.tensor([1.5, 0.5, 0.5]).double()
    close(reweight(torch.ones(1, 1, 1, 3).double())[0, 0, 0], torch.exp(-0.5 * distances**2))


def test_hidden_is_the_width_of_the_layer_that_predicts() -> None:
    assert Predictive(hidden=17).build(DIMS).w.shape == (H, D, 17)
    assert Predictive().build(DIMS).w.shape == (H, D, D)


def test_predictive_favours_the_predicted_position_and_loses_weight() -> None:
    q, logits = random()
    scope, at = built(Predictive(2)), build_memory_positions(T, S, None)
    allow, reweight = scope(q, at)
    plain = logits.masked_fill(~allow, -1e300).softmax(-1)
    bell = reweight(torch.ones_like(plain))
    found = weights(scope, q, logits, at)
    close(found, plain * bell)
    assert (found.sum(-1) < 1).all()
    assert allow.sum(-1).max() <= 5
    assert allow.float().std((0, 2)).max() > 0


def test_what_predicts_the_position_learns_through_the_bell_alone() -> None:
    q, logits = random()
    scope, at = built(Predictive(2)), build_memory_positions(T, S, None)
    values = torch.randn(S).double()
    learned = [scope.w, scope.v]
    for gradient in torch.autograd.grad((weights(scope, q, logits, at) @ values).sum(), learned):
        assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()
    allow, _ = scope(q, at)
    windowed = logits.requires_grad_().masked_fill(~allow, -1e300).softmax(-1) @ values
    assert torch.autograd.grad(windowed.sum(), learned, allow_unused=True) == (None, None)


def test_renormalised_weights_sum_to_one() -> None:
    q, logits = random()
    keep = KEEP.clone()
    keep[0] = False
    scope, at = built(Predictive(2, renormalise=True)), build_memory_positions(T, S, keep)
    leaves = [logits.requires_grad_(), scope.w, scope.v]
    found = weights(scope, q, logits, at, keep)
    close(found[1].sum(-1), torch.ones(H, T).double())
    assert (found[0] == 0).all()
    for gradient in torch.autograd.grad((found @ torch.randn(S).double()).sum(), leaves):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("renormalise", [False, True])
def test_a_row_without_keys_has_weights_zero_and_finite_gradients(renormalise: bool) -> None:
    keep = torch.zeros(1, S).bool()
    scope = Predictive(2, renormalise=renormalise).build(DIMS)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        q = torch.randn(1, H, T, D, dtype=dtype, requires_grad=True)
        allow, reweight = scope.to(dtype)(q, build_memory_positions(T, S, keep))
        nothing = torch.zeros(1, H, T, S, dtype=dtype, requires_grad=True)
        found = reweight(nothing * (allow & keep))
        assert (found == 0).all()
        for gradient in torch.autograd.grad(found.sum(), [q, nothing, scope.w, scope.v]):
            assert gradient.isfinite().all()


def test_the_position_is_predicted_in_float32_at_least() -> None:
    """Among two thousand keys bfloat16 would step by eight."""
    far = 2000
    scope = Predictive(3).build(DIMS).bfloat16()
    q, at = torch.randn(B, H, T, D).bfloat16(), build_memory_positions(T, far, None)
    allow, reweight = scope(q, at)
    found = reweight(torch.ones(B, H, T, far).bfloat16())
    assert found.dtype == torch.bfloat16
    known_allow, known = scope.float()(q.float(), at)
    assert allow.equal(known_allow)
    close(found.float(), known(torch.ones(B, H, T, far)), 1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scope(q.float(), at)[0].equal(known_allow)


@every_part
def test_facts_are_true(part: Any) -> None:
    scope = built(part)
    assert part.learns == isinstance(scope, nn.Module)
    q, logits = random()
    found = weights(scope, q, logits, build_memory_positions(T, S, None)).sum(-1)
    assert part.normalised == bool((found - 1).abs().max() < 1e-10)
    assert type(part) is SCOPES[part.name]
    assert from_dict(SCOPES, "scope", part.to_dict()) == part


def test_the_suite_covers_every_scope() -> None:
    assert {part.name for part in PARTS} == set(SCOPES)


@pytest.mark.parametrize(
    ("kind", "values", "options", "error", "message"),
    [
        (Window, [], {}, BadRecipe, "scope=window: 'half_width' is required"),
        (Window, [0], {}, BadRecipe, "scope=window: 'half_width' is 0: .*greater than 0"),
        (Window, [2], {"left": -1}, BadRecipe, "'left' is -1: .*greater than or equal to 0"),
        (Window, [2, 1], {}, BadRecipe, "'left' is 1: Unexpected positional argument"),
        (Window, [2], {"rigth": 1}, UnknownName, "scope=window: 'rigth'. Did you mean 'right'"),
        (dataclasses.replace, [Window(2)], {"right": 1.5}, BadRecipe, "'right' is 1.5: .*integer"),
        (Neighbourhood, [3, 4], {}, BadRecipe, "scope=neighbourhood: 'radius' is required"),
        (Neighbourhood, [3, 4, 0], {}, BadRecipe, "'radius' is 0: .*greater than 0"),
        (Neighbourhood, [0, 4, 1], {}, BadRecipe, "'height' is 0: .*greater than 0"),
        (Predictive, [-1], {}, BadRecipe, "scope=predictive: 'half_width' is -1"),
        (Predictive, [], {"hidden": 0}, BadRecipe, "scope=predictive: 'hidden' is 0"),
        (from_dict, [SCOPES, "scope", {"name": "window"}], {}, BadRecipe, "'half_width' is required"),
        (from_dict, [SCOPES, "scope", {"name": "window", 3: 1}], {}, UnknownName, "scope=window: '3'"),
    ],
)
def test_mistakes_are_named(kind: Any, values: list, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        kind(*values, **options)
