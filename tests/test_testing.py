"""`qkv.testing.check`: layers of the library pass, and a layer that breaks one contract is refused for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv.errors import UnknownName
from qkv.testing import CONTRACTS, ContractError

M = 8


PARTS: list[dict[str, Any]] = [
    {},
    {"score": qkv.Additive()},
    {"scope": qkv.Window(2)},
    {"kernel": qkv.RFA(8)},
]


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_attention_to_a_memory_passes(parts: dict[str, Any]) -> None:
    checked = qkv.testing.check(qkv.Attention(M, heads=2, d_memory=6, **parts), M, memory_width=6)
    assert checked.skipped == {"causal": "the layer is not causal"}
    assert {*checked.passed, "causal"} == set(CONTRACTS)


@pytest.mark.parametrize("parts", [*PARTS, {"kernel": qkv.RFA(8, gate=True)}], ids=str)
def test_causal_self_attention_passes(parts: dict[str, Any]) -> None:
    layer, is_gated = qkv.Attention(M, heads=2, causal=True, **parts), "gate=True" in str(parts)
    assert qkv.testing.check(layer, M, causal=True, normalised=not is_gated).passed == tuple(CONTRACTS)


class Broken(nn.Module):
    """A layer with one fault, in its output, its weights or its steps."""

    def __init__(self, change: Callable[..., Tensor], method: str = "forward", causal: bool = True) -> None:
        super().__init__()
        self.layer = qkv.Attention(M, heads=2, causal=causal)
        self.change, self.method = change, method

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        out = self.layer(x, keep=keep)
        return self.change(out, x, keep) if self.method == "forward" else out

    def attend(self, x: Tensor, keep: Tensor | None = None) -> Any:
        attended = self.layer.attend(x, keep=keep)
        assert attended.weights is not None
        out = self.change(attended.out, x, keep) if self.method == "forward" else attended.out
        changes = {"attend": {"out": 1.001 * out}, "weights": {"weights": 0.9 * attended.weights}}
        return attended._replace(**{"out": out, **changes.get(self.method, {})})

    def start(self, batch: int) -> Any:
        return self.layer.start(batch=batch)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        out, state = self.layer.step(x, state)
        return (1.001 * out if self.method == "step" else out), state


def zero_padding(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x.where(keep[..., None], 0)


@pytest.mark.parametrize(
    ("contract", "layer", "message"),
    [
        ("shape", Broken(lambda out, x, keep: out.float()), "torch.float32"),
        ("repeat", Broken(lambda out, x, keep: out + torch.rand(())), "differ"),
        ("batch", Broken(lambda out, x, keep: out - zero_padding(out, keep).mean(0, keepdim=True)), "alone"),
        ("masks", lambda x, keep=None: x, "int64"),
        ("padding", Broken(lambda out, x, keep: out + x.mean(1, keepdim=True)), "30.0 in padding"),
        ("empty", Broken(lambda out, x, keep: out + zero_padding(x, None)), "without any key"),
        ("causal", Broken(lambda out, x, keep: out + zero_padding(x, keep).mean(1, keepdim=True)), "query 0"),
        ("causal", Broken(lambda out, x, keep: x), "does not depend on any key before"),
        ("gradients", Broken(lambda out, x, keep: out.detach() + 0 * out), "gradcheck"),
        ("weights", Broken(lambda out, x, keep: out, "attend"), "changes the output"),
        ("weights", Broken(lambda out, x, keep: out, "weights"), "add up to between 0 and 0.9"),
        ("steps", Broken(lambda out, x, keep: out, "step"), "steps of 1"),
    ],
)
def test_a_broken_contract_is_named(contract: str, layer: Any, message: str) -> None:
    with pytest.raises(ContractError, match=f"{contract}: .*{message}"):
        qkv.testing.check(layer, M, causal=True)


def test_torch_multi_head_attention_is_checked_through_call() -> None:
    def call(layer: Any, x: Tensor, memory: Tensor | None, keep: Tensor | None) -> Tensor:
        return layer(x, x, x, key_padding_mask=None if keep is None else ~keep)[0]

    layer = nn.MultiheadAttention(M, 2, batch_first=True)
    with pytest.raises(ContractError) as caught:
        qkv.testing.check(layer, M, call=call, contracts=["shape", "padding", "empty"])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["padding", "empty"]


def test_the_layer_and_the_random_state_are_left_alone() -> None:
    layer, state = qkv.Attention(M), torch.get_rng_state()
    qkv.testing.check(layer, M)
    assert layer.training
    assert layer.to_q.weight.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_contract_is_refused() -> None:
    with pytest.raises(UnknownName, match="no contract 'speed': expected some of shape"):
        qkv.testing.check(qkv.Attention(M), M, contracts=["speed"])
