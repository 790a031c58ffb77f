"""The native additive score against the formula in float64: values, gradients, every instruction set."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qkv.kernel import native
from qkv.layer import Attention
from qkv.score import Additive
from qkv.score.additive import additive

needs_engine = pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")
SIZES = [
    (1, 1, 1, 1, 1),
    (2, 3, 5, 7, 11),
    (1, 2, 63, 65, 64),
    (1, 1, 130, 64, 33),
    (2, 2, 0, 3, 5),
    (2, 2, 3, 0, 5),
]


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def drawn(batch: int, heads: int, queries: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Projected queries and keys as a layer has them, whose rows of one head do not lie side by side."""
    q, k = (torch.randn(batch, n, heads, width).transpose(1, 2).requires_grad_() for n in (queries, keys))
    return q, k, (torch.randn(heads, width) / width).requires_grad_()


def with_gradients(score: Tensor, weight: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [score.detach(), *torch.autograd.grad((score * weight).sum(), inputs)]


def close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        largest = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5 * largest)


@needs_engine
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_equals_the_formula(threads: None, sizes: tuple[int, int, int, int, int]) -> None:
    inputs, weight = drawn(*sizes), torch.randn(sizes[0], sizes[1], sizes[2], sizes[3])
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = with_gradients(additive(*wide), weight.double(), *wide)
    close(with_gradients(native.compute_additive_scores(*inputs), weight, *inputs), expected)


@needs_engine
def test_large_sums_saturate() -> None:
    q = torch.tensor([-1e4, -50.0, -1e-4, 0.0, 1e-4, 50.0, 1e4]).view(1, 1, 7, 1)
    scores = native.compute_additive_scores(q, torch.zeros(1, 1, 1, 1), torch.ones(1, 1))
    torch.testing.assert_close(scores, q.tanh(), rtol=0, atol=2e-7)


@needs_engine
def test_results_repeat_with_threads_that_share_a_head() -> None:
    before, inputs = torch.get_num_threads(), drawn(1, 1, 40, 50, 16)
    torch.set_num_threads(3)
    first, second = (
        with_gradients(native.compute_additive_scores(*inputs), torch.ones(40, 50), *inputs) for _ in range(2)
    )
    torch.set_num_threads(before)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@needs_engine
@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(name: str) -> None:
    code = (
        "import torch; from qkv.kernel import native; torch.manual_seed(0);"
        "q, k, v = torch.randn(1, 2, 9, 21), torch.randn(1, 2, 35, 21), torch.randn(2, 21);"
        "x = [y.requires_grad_() for y in (q, k, v)]; s = native.compute_additive_scores(*x);"
        "s.square().sum().backward();"
        "print(native.describe_library()['instruction set'], float(s.abs().sum()),"
        "*(float(y.grad.abs().sum()) for y in x))"
    )
    environment = os.environ | {"QKV_NATIVE_ISA": name}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    ran, *sums = told.stdout.split()
    if ran != name:
        pytest.skip(f"this machine has no {name}")
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 9, 21), torch.randn(1, 2, 35, 21), torch.randn(2, 21)]
    wide = [x.double().requires_grad_() for x in inputs]
    scores = additive(*wide)
    scores.square().sum().backward()
    expected = [scores.abs().sum(), *(x.grad.abs().sum() for x in wide if x.grad is not None)]
    assert [float(x) for x in sums] == pytest.approx([x.item() for x in expected], rel=1e-5)


@needs_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_takes_it_and_nothing_else_changes(dtype: torch.dtype) -> None:
    layer = Attention(24, 2, score=Additive(9)).to(dtype)
    x, keep = torch.randn(2, 13, 24, dtype=dtype), torch.rand(2, 13) < 0.7
    assert "native backend" in layer.explain(13, 13)
    out = layer(x, keep=keep)
    assert out.dtype == dtype
    exact = Attention(24, 2, score=Additive(9)).double()
    exact.load_state_dict(layer.double().state_dict())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(out.double(), exact(x.double(), keep=keep), rtol=tolerance, atol=tolerance)


@needs_engine
def test_it_compiles_whole(unchecked: None) -> None:
    layer, x = Attention(12, score=Additive(5), project=False), torch.randn(2, 6, 12)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@needs_engine
def test_what_is_not_a_number_is_not_hidden() -> None:
    for hidden in range(3):
        inputs = [torch.randn(1, 1, 3, 20), torch.randn(1, 1, 4, 20), torch.randn(1, 20)]
        inputs[hidden].view(-1)[-1] = float("nan")
        assert native.compute_additive_scores(*inputs).isnan().any()
