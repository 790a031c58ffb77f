"""Meta tensors have no memory: the native library must not read them, also without gradients."""

import pytest
import torch

from native_cases import pytestmark  # noqa: F401 -- pytest reads it
from qkv.kernel import RFA, Elu
from qkv.spec import AttentionSpec
from qkv.tracing import use_backends_of


@pytest.mark.parametrize("kernel", [RFA(8), RFA(8, gate=True), Elu()], ids=str)
def test_layers_on_the_meta_device_run_as_on_a_cpu(kernel: object) -> None:
    with torch.no_grad(), use_backends_of("cpu"), torch.device("meta"):
        layer = AttentionSpec(16, heads=2, causal=True, kernel=kernel).build().eval()
        assert layer(torch.empty(1, 40, 16)).shape == (1, 40, 16)
        out, state = layer.step(torch.empty(1, 1, 16), layer.start())
        out, _ = layer.step(torch.empty(1, 1, 16), state)
    assert out.is_meta
    assert out.shape == (1, 1, 16)
