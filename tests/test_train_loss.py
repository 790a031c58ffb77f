"""sum_linear_cross_entropy equals the two steps it replaces; the objective of translation counts rightly."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from qkv.train import sum_linear_cross_entropy
from test_train_toy import CLASSES, collate, toy


def problem(dtype, rows=23, width=6, classes=11, bias=True, scale=1.0) -> Any:
    """([hidden, weight, bias], target)."""
    torch.manual_seed(3)
    hidden = (scale * torch.randn(rows, width, dtype=dtype)).requires_grad_()
    weight = torch.randn(classes, width, dtype=dtype, requires_grad=True)
    offset = torch.randn(classes, dtype=dtype, requires_grad=True) if bias else None
    return [hidden, weight, offset], torch.randint(0, classes, (rows,))


def ours(tensors, target, smoothing, rows=None):
    hidden, weight, bias = tensors
    return sum_linear_cross_entropy(hidden, weight, bias, target, smoothing=smoothing, rows=rows)


def reference(tensors, target, smoothing):
    hidden, weight, bias = tensors
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum")


def gradients(loss, tensors):
    return torch.autograd.grad(loss, [tensor for tensor in tensors if tensor is not None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [5, 23, None])
def test_equals_cross_entropy_of_the_logits(dtype, smoothing, bias, rows):
    tensors, target = problem(dtype, bias=bias)
    total, nll, _ = ours(tensors, target, smoothing=smoothing, rows=rows)
    expected = reference(tensors, target, smoothing)
    assert_close(total, expected)
    assert_close(nll, F.cross_entropy(F.linear(*tensors), target, reduction="none").detach())
    assert not nll.requires_grad
    assert_close(gradients(0.3 * total, tensors), gradients(0.3 * expected, tensors))


def test_gradcheck():
    tensors, target = problem(torch.float64, rows=5, width=3, classes=4)
    assert torch.autograd.gradcheck(lambda *inputs: ours(inputs, target, smoothing=0.1, rows=2)[0], tensors)


@pytest.mark.parametrize(
    "ask",
    [
        lambda loss, hidden: torch.autograd.functional.hessian(loss, hidden),
        lambda loss, hidden: torch.autograd.grad(loss(hidden), hidden, create_graph=True),
        lambda loss, hidden: loss(hidden).backward(create_graph=True),
    ],
    ids=["hessian", "grad", "backward"],
)
def test_second_derivatives_are_refused(ask):
    (hidden, weight, bias), target = problem(torch.float64, rows=5, width=3, classes=4)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        ask(lambda hidden: ours((hidden, weight, bias), target, smoothing=0.1)[0], hidden)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0])
def test_stays_exact_where_the_model_is_sure_or_knows_nothing(scale):
    tensors, target = problem(torch.float32, scale=scale)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    total, _, _ = ours(tensors, target, smoothing=0.1, rows=4)
    expected = reference(wide, target, 0.1)
    assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    for got, want in zip(gradients(total, tensors), gradients(expected, wide), strict=True):
        assert (got - want).norm() <= 2e-6 * want.norm()


def test_counts_rows_whose_target_is_on_top():
    tensors, target = problem(torch.float32, rows=200)
    _, _, correct = ours(tensors, target, smoothing=0.1)
    assert correct.item() == (F.linear(*tensors).argmax(1) == target).sum().item() > 0


def test_bfloat16_loses_no_more_than_autocast_of_the_two_steps():
    tensors, target = problem(torch.float32, rows=300, width=32, classes=500)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        total = ours(tensors, target, smoothing=0.1, rows=64)[0]
        theirs = reference(tensors, target, 0.1)
    want = gradients(reference(exact, target, 0.1), exact)
    assert total.dtype == torch.float32
    for mine, other, right in zip(gradients(total, tensors), gradients(theirs, tensors), want, strict=True):
        assert mine.dtype == torch.float32
        assert 1e-4 * right.norm() < (mine - right).norm() < 1.1 * (other - right).norm()


def test_bfloat16_keeps_the_small_gradient_of_a_sure_row():
    """p(target) = 0.99; rounding e before subtracting z would be off by a quarter."""
    hidden: Any = torch.eye(32, requires_grad=True)
    weight = (8 * torch.eye(32)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total, _, _ = sum_linear_cross_entropy(hidden, weight, None, torch.arange(32), smoothing=0.0)
    got = gradients(total, (hidden, weight))
    want = gradients(reference([hidden, weight, None], torch.arange(32), 0.0), (hidden, weight))
    assert_close(got, want, rtol=0.01, atol=1e-4)


def test_float16_products_run_in_float32():
    tensors, target = problem(torch.float32)
    with torch.autocast("cpu", torch.float16):
        total, _, _ = ours(tensors, target, smoothing=0.1)
    assert_close(total, reference(tensors, target, 0.1))


def test_needs_no_gradient_where_none_is_asked():
    tensors, target = problem(torch.float64)
    with torch.no_grad():
        total, _, _ = ours(tensors, target, smoothing=0.1, rows=4)
    assert not total.requires_grad
    assert_close(total, reference(tensors, target, 0.1).detach())


def test_no_rows_are_no_loss():
    tensors, target = problem(torch.float64, rows=0)
    total, nll, correct = ours(tensors, target, smoothing=0.1)
    assert (total.item(), nll.shape, correct.item()) == (0.0, (0,), 0.0)
    assert all(not gradient.any() for gradient in gradients(total, tensors))


def test_never_holds_all_logits(monkeypatch):
    """The largest tensor that is made has the size of a block."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    tensors, target = problem(torch.float32, rows=640, classes=50)
    with Watch():
        ours(tensors, target, smoothing=0.1, rows=16)[0].backward()
    assert largest == 640 * 6


def test_translation_sums_over_real_labels_only():
    objective: Any = toy().eval()
    batch = collate([[4, 5, 6], [7]])
    loss = objective(batch)
    hidden = objective.model(batch.source, batch.source_keep, batch.target[:, :-1])
    logits = objective.model.output(hidden).flatten(0, 1)
    expected = F.cross_entropy(
        logits, batch.target[:, 1:].flatten(), ignore_index=0, label_smoothing=0.1, reduction="sum"
    )
    assert loss.count == 6
    assert_close(loss.total, expected)
    assert logits.shape[1] == CLASSES


def test_translation_ignores_junk_under_padding():
    objective: Any = toy().eval()
    batch = collate([[4, 5, 6], [7]])
    junk = batch._replace(target=batch.target.masked_fill(~batch.target_keep, 9))
    assert_close(objective(junk).total, objective(batch).total)
