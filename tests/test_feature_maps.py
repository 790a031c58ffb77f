"""Feature maps that no backend knows: `Linear` evaluates them with torch's operators."""

import pytest
import torch
from torch import Tensor, nn

from qkv.kernel import native
from qkv.kernel.linear import Linear
from qkv.shapes import Dims


class Squares(nn.Module):
    """φ(x) = x², with nothing but what every feature map has."""

    width = 4

    def choose_projections(self) -> None:
        """Nothing is random."""

    def map_queries(self, x: Tensor, projections: None) -> Tensor:
        """φ(q) [B,H,T,D]."""
        return x.square()

    def map_keys(self, x: Tensor, projections: None) -> tuple[Tensor, None]:
        """φ(k) [B,H,S,D]."""
        return x.square(), None


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [3, 150])
def test_a_map_that_no_backend_knows_runs_with_torch_operators(causal: bool, length: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, length, 4) for _ in range(3))
    linear = Linear(Dims(2, 4, 4, 4), Squares(), 1e-20, causal)
    weights = q.square() @ k.square().mT
    weights = weights.tril() if causal else weights
    expected = weights @ v / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(linear(q, k, v), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(linear.attend(q, k, v).out, expected, rtol=1e-4, atol=1e-5)


def test_steps_of_a_map_that_no_backend_knows() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 6, 4) for _ in range(3))
    linear = Linear(Dims(2, 4, 4, 4), Squares(), 1e-20, causal=True)
    state, outs = linear.start(k[:, :, :0], v[:, :, :0]), []
    for t in range(6):
        now = slice(t, t + 1)
        attended, state = linear.extend(state, q[:, :, now], k[:, :, now], v[:, :, now])
        outs.append(attended.out)
    torch.testing.assert_close(torch.cat(outs, 2), linear(q, k, v))
    assert linear.attend_to_state(q, state)[0].out.shape == q.shape


@pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")
def test_explain_does_not_promise_a_backend_that_does_not_know_the_map() -> None:
    linear = Linear(Dims(2, 4, 4, 4), Squares(), 1e-20, causal=False)
    assert "no backend knows this feature map" in linear.explain(500, 500)
