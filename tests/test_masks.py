"""One mask convention, its intersection, and the converters from other conventions."""

import pytest
import torch

from qkv import masks
from qkv.errors import BadMask


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (3, 5), (5, 3), (4, 4), (2, 0)])
def test_causal_aligns_the_last_query_with_the_last_key(queries: int, keys: int) -> None:
    expected = [[s - (keys - 1) <= t - (queries - 1) for s in range(keys)] for t in range(queries)]
    assert masks.causal(queries, keys).tolist() == expected


def test_intersect_by_hand() -> None:
    one, two = torch.tensor([[True, True, False]]), torch.tensor([[True], [False]])
    met = masks.intersect(None, one, None, two)
    assert met is not None
    assert met.tolist() == [[True, True, False], [False, False, False]]
    assert masks.intersect(None, None) is None
    assert masks.intersect(one) is one


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (2, 4, 3, 5)], ids=len)
def test_allow_of_two_to_four_dimensions(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape) < 0.5
    allow = masks.as_allow(mask)
    assert allow is not None
    for row in range(2):
        for head in range(4):
            pairs = {2: mask, 3: mask[row], 4: mask[row, head] if len(shape) == 4 else mask}[len(shape)]
            assert torch.equal(allow.expand(2, 4, 3, 5)[row, head], pairs)


def test_keep_as_a_mask_over_keys() -> None:
    keep = torch.tensor([[True, False, True], [False, True, True]])
    over = masks.expand_keep(keep)
    assert over is not None
    assert over.shape == (2, 1, 1, 3)
    assert torch.equal(over[:, 0, 0], keep)
    assert masks.expand_keep(None) is None
    assert masks.as_allow(None) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), r"keep must be boolean.*keep.bool\(\).*from_huggingface"),
        (torch.ones(2, 3, dtype=torch.uint8), r"keep must be boolean.*torch.uint8"),
        (torch.zeros(2, 3), r"keep must be boolean.*bias=.*from_torch_mha"),
    ],
)
def test_other_types_are_refused_with_the_way_out(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(BadMask, match=message):
        masks.check_boolean(mask, "keep")


def test_converters_by_hand() -> None:
    real = [True, True, False]
    assert masks.from_torch_mha(torch.tensor([False, False, True])).tolist() == real
    assert masks.from_torch_mha(torch.tensor([0.0, -0.0, -torch.inf])).tolist() == real
    assert masks.from_huggingface(torch.tensor([1, 1, 0])).tolist() == real
    assert masks.from_huggingface(torch.tensor([1.0, 1.0, 0.0])).tolist() == real
    assert masks.from_fairseq(torch.tensor([0, 0, 1])).tolist() == real
    assert masks.from_fairseq(torch.tensor([False, False, True])).tolist() == real


def test_converters_refuse_what_holds_scores(unchecked: None) -> None:
    with pytest.raises(BadMask, match=r"scores other than 0 and -inf: pass it as bias="):
        masks.from_torch_mha(torch.tensor([0.0, -1.5]))
    with pytest.raises(BadMask, match="got additive scores"):
        masks.from_huggingface(torch.tensor([0.0, -10000.0]))
    with pytest.raises(BadMask, match=r"torch masks are boolean or float, got torch.int64"):
        masks.from_torch_mha(torch.tensor([0, 1]))


def test_a_converted_mask_means_the_same_to_torch_and_to_us() -> None:
    q = torch.randn(1, 2, 3, 4)
    theirs = torch.nn.Transformer.generate_square_subsequent_mask(3)
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, theirs)
    ours = torch.nn.functional.scaled_dot_product_attention(q, q, q, masks.from_torch_mha(theirs))
    torch.testing.assert_close(ours, expected)
