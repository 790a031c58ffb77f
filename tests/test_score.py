"""Scores: worked examples, how they follow from each other, and what location refuses."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv.catalogue import build_example
from qkv.errors import BadRecipe, BadShape, UnknownName
from qkv.part import from_dict
from qkv.score import SCORES, Additive, Cosine, Dot, General, Location, ScaledDot
from qkv.score.cosine import MIN_VECTOR_LENGTH
from qkv.shapes import Dims
from qkv.token_positions import TokenPositions, build_memory_positions
from reference import formulas

B, H, T, S, D, D2 = 2, 3, 5, 7, 11, 13
PARTS = [Dot(), ScaledDot(), General(), Additive(hidden=17), Cosine(strength=2.5), Location(length=S)]
PARTS += [build_example(kind) for name, kind in SCORES.items() if name not in {p.name for p in PARTS}]
every_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def rows(*vectors: Tensor) -> Tensor:
    """Vectors as the queries or keys of one row and one head."""
    return torch.stack(vectors)[None, None]


def dims(part: Any, heads: int = H) -> Dims:
    return Dims(heads, D, D2 if part.two_widths else D, 3)


def built(part: Any, sizes: Dims, **weights: Tensor) -> Any:
    """The score with these weights, the same for every head."""
    score = part.build(sizes)
    if not isinstance(score, nn.Module):
        return score
    with torch.no_grad():
        for name, value in weights.items():
            getattr(score.double(), name).copy_(value)
    return score.double()


def scores(score: Any, q: Tensor, k: Tensor, at: TokenPositions | None = None) -> Tensor:
    return score(q, score.prepare(k), at)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def random(part: Any, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, TokenPositions]:
    """q, k, keep and the places of a memory padded left, inside and right."""
    keep = torch.tensor([[0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
    q, k = (torch.randn(B, H, n, width, dtype=dtype) for n, width in ((T, D), (S, dims(part).key)))
    return q, k, keep, build_memory_positions(T, S, keep)


def test_dot_by_hand() -> None:
    q, k = rows(row(1, 2, 0, 0)), rows(row(3, 4, 9, 9), row(5, -1, 9, 9))
    close(scores(Dot(), q, k), rows(row(11, 3)))
    close(scores(ScaledDot(), q, k), rows(row(5.5, 1.5)))


def test_general_by_hand() -> None:
    w = torch.stack([row(1, 2, 0), row(0, 1, -1)])
    score = built(General(), Dims(1, 2, 3, 1), w=w)
    # W k = [1 + 2, 1 - 2] = [3, -1], and q·W k = 6 - 3.
    close(scores(score, rows(row(2, 3)), rows(row(1, 1, 2))), rows(row(3)))


@pytest.mark.parametrize(("twin", "scale"), [(Dot(), 1.0), (ScaledDot(), D**-0.5)])
def test_general_with_the_identity_is_the_dot_product(twin: Any, scale: float) -> None:
    q, k = torch.randn(B, H, T, D).double(), torch.randn(B, H, S, D).double()
    score = built(General(), Dims(H, D, D, 3), w=scale * torch.eye(D).double())
    close(scores(score, q, k), scores(twin, q, k))


def test_cosine_by_hand() -> None:
    # 3·4 + 4·3 = 24 of 5·5; the others are opposite, orthogonal, and zero.
    k = rows(row(4, 3), row(-6, -8), row(-4, 3), row(0, 0))
    close(scores(Cosine(strength=5), rows(row(3, 4)), Cosine().prepare(k)), rows(row(4.8, -5, 0, 0)))


def test_cosine_reads_directions_alone_and_stays_within_its_strength() -> None:
    part = Cosine(strength=2.5)
    q, k, _, _ = random(part)
    known = scores(part, q, k)
    close(scores(part, 100 * q, 0.01 * k), known)
    assert known.abs().max() <= 2.5
    close(scores(part, q, q).diagonal(dim1=-2, dim2=-1), torch.full((B, H, T), 2.5).double())
    assert (scores(part, -q, k) + known).abs().max() < 1e-10


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-6, MIN_VECTOR_LENGTH])
def test_gradients_of_short_vectors_are_bounded(length: float) -> None:
    q = (length * torch.eye(D).double()[None, None, :1]).requires_grad_()
    k = torch.randn(1, 1, S, D).double()
    for score in scores(Cosine(), q, k).flatten():
        (gradient,) = torch.autograd.grad(score, q, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.norm() <= 1 / MIN_VECTOR_LENGTH * (1 + 1e-9)


def test_location_by_hand() -> None:
    score = built(Location(3), Dims(1, 2, 5, 1), w=torch.stack([row(1, 2, 3), row(0, -1, 5)]))
    q, k = rows(row(2, 1), row(0, 1)), torch.randn(1, 1, 3, 5).double()
    # q W = [2, 4 - 1, 6 + 5], and [0, -1, 5].
    expected = rows(row(2, 3, 11), row(0, -1, 5))
    close(scores(score, q, k, build_memory_positions(2, 3, None)), expected)
    close(scores(score, q, k[:, :, :2], build_memory_positions(2, 2, None)), expected[..., :2])
    keep = torch.tensor([[0, 1, 0, 1, 1, 0]]).bool()
    padded = scores(score, q, torch.randn(1, 1, 6, 5).double(), build_memory_positions(2, 6, keep))
    close(padded[..., keep[0]], expected)


def test_location_refuses_keys_beyond_its_length(unchecked: None) -> None:
    score = built(Location(3), Dims(1, 2, 5, 1))
    q, k = torch.randn(2, 1, 1, 2).double(), torch.randn(2, 1, 4, 5).double()
    with pytest.raises(BadShape, match=r"Location\(length=3\) scores at most 3 keys, got 4: raise length"):
        scores(score, q, k, build_memory_positions(1, 4, None))
    keep = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    with pytest.raises(BadShape, match="got 4:"):
        scores(score, q, k, build_memory_positions(1, 4, keep))
    keep[1, 3] = False
    assert scores(score, q, k, build_memory_positions(1, 4, keep)).shape == (2, 1, 1, 4)


def test_location_learns_the_positions_that_have_keys() -> None:
    score = built(Location(9), Dims(H, D, D2, 3))
    q, k, _, _ = random(Location(9))
    scores(score, q, k, build_memory_positions(T, S, None)).square().sum().backward()
    assert (score.w.grad[..., :S].abs().amax((0, 1)) > 0).all()
    assert (score.w.grad[..., S:] == 0).all()


def test_additive_is_concat() -> None:
    q, k = torch.randn(1, 1, T, D).double(), torch.randn(1, 1, S, D2).double()
    m, v = torch.randn(17, D + D2).double(), torch.randn(17).double()
    score = built(Additive(17), Dims(1, D, D2, 3), w=m[:, :D].T, u=m[:, D:].T, v=v)
    concat = [[v @ torch.tanh(m @ torch.cat([s, h])) for h in k[0, 0]] for s in q[0, 0]]
    close(scores(score, q, k)[0, 0], torch.tensor(concat).double())


@every_part
def test_every_score_is_its_formula(part: Any) -> None:
    q, k, keep, at = random(part)
    score = built(part, dims(part))
    found = scores(score, q, k, at)
    for b, h, t, s in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        if keep[b, s]:
            place = int(keep[b, :s].sum())
            known = formulas.SCORES[part.name](q[b, h, t], k[b, h, s], score, h, place)
            close(found[b, h, t, s], known)


@every_part
def test_keys_can_be_prepared_in_pieces(part: Any) -> None:
    q, k, _, at = random(part)
    score = built(part, dims(part))
    cuts = (slice(0), slice(3), slice(3, S))
    pieces = torch.cat([score.prepare(k[:, :, cut]) for cut in cuts], 2)
    close(score(q, pieces, at), scores(score, q, k, at))


@every_part
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_keeps_its_type(part: Any, dtype: torch.dtype) -> None:
    q, k, _, at = random(part, dtype)
    score = built(part, dims(part))
    known = scores(score, q.double(), k.double(), at)
    if isinstance(score, nn.Module):
        score.to(dtype)
    found = scores(score, q, k, at)
    assert found.dtype == dtype
    close(found.double(), known, 1e-5 if dtype == torch.float32 else 0.1)


@every_part
def test_scores_of_unit_variance_inputs_start_at_order_one(part: Any) -> None:
    sizes = Dims(2, 256, 128 if part.two_widths else 256, 3)
    score = built(part, sizes)
    q, k = torch.randn(1, 2, 64, 256).double(), torch.randn(1, 2, S, sizes.key).double()
    found = scores(score, q, k, build_memory_positions(64, S, None))
    # The plain dot product has the standard deviation sqrt(256), which is why it is scaled.
    wanted = (10, 25) if part.name == "dot" else (0.1, 1.5)
    assert wanted[0] < found.std() < wanted[1]


@every_part
def test_facts_are_true(part: Any) -> None:
    score = built(part, dims(part))
    assert part.learns == isinstance(score, nn.Module)
    q, k, _, at = random(part)
    if not part.positional:
        assert scores(score, q, k, at).equal(scores(score, q, k, None))
    assert type(part) is SCORES[part.name]
    assert from_dict(SCORES, "score", part.to_dict()) == part


def test_the_suite_covers_every_score() -> None:
    assert {part.name for part in PARTS} == set(SCORES)


@pytest.mark.parametrize(
    ("kind", "values", "options", "error", "message"),
    [
        (Location, [], {}, BadRecipe, "score=location: 'length' is required"),
        (Location, [0], {}, BadRecipe, "score=location: 'length' is 0: .*greater than 0"),
        (Location, [], {"length": -3}, BadRecipe, "score=location: 'length' is -3: .*greater than 0"),
        (Cosine, [0], {}, BadRecipe, "score=cosine: 'strength' is 0: .*greater than 0"),
        (Cosine, [float("inf")], {}, BadRecipe, "score=cosine: 'strength' is inf: .*finite"),
        (Cosine, [1, 2], {}, BadRecipe, "score=cosine: '1' is 2: Unexpected positional argument"),
        (Cosine, [], {"beta": 2}, UnknownName, "option of score=cosine: 'beta'. Known: strength"),
        (Dot, [], {"scale": 2}, UnknownName, "option of score=dot: 'scale'; it has no options"),
        (dataclasses.replace, [Cosine()], {"strength": -1}, BadRecipe, "'strength' is -1"),
        (from_dict, [SCORES, "score", "location"], {}, BadRecipe, "score=location: 'length' is required"),
    ],
)
def test_mistakes_are_named(kind: Any, values: list, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        kind(*values, **options)
