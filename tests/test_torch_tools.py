"""Tools that change a layer: torch's encoder, pruning, quantisation, LoRA; and the table of docs/torch.md."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import qkv
import test_torch_creation
import test_torch_nested
import test_torch_programs
from qkv.errors import BadMask
from torch_tool_cases import ATTENTIONS, EVERY, HEADS, TOOL_MARKS, WIDTH, Model, close, inputs, twins

pytestmark = TOOL_MARKS


PAGE = Path(__file__).parent.parent / "docs" / "torch.md"


# ---- a boolean padding mask in torch's encoder, which hands on a float one ----


def encoder(**parts: Any) -> Any:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, 0.0, batch_first=True)
    torch_encoder: Any = nn.TransformerEncoder(layer, 2).eval()
    if parts.pop("ours", True):
        for inner in torch_encoder.layers:
            inner.self_attn = qkv.MultiheadAttention.from_torch(inner.self_attn, **parts)
    return torch_encoder


ENCODERS: dict[str, dict[str, Any]] = {
    "torch": {"ours": False},
    "softmax": {},
    "elu": {"kernel": qkv.Elu()},
    "rfa": {"kernel": qkv.RFA(8)},
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_compiled_and_exported(kind: str) -> None:
    torch.compiler.reset()
    model = encoder(**ENCODERS[kind])
    x, keep = inputs(2, 10)
    expected = model(x, src_key_padding_mask=~keep)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    close(compiled(x, src_key_padding_mask=~keep)[keep], expected[keep])
    exported = torch.export.export(model, (x,), {"src_key_padding_mask": ~keep}).module()
    close(exported(x, src_key_padding_mask=~keep)[keep], expected[keep])


def test_recorded_feature_map_asserts_that_the_mask_does_not_add() -> None:
    torch.compiler.reset()
    layer = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True, kernel=qkv.Elu()).eval()
    x, mask = torch.randn(2, 5, WIDTH), torch.zeros(2, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for call in (layer, compiled):
        call(x, x, x, mask)
        with pytest.raises((BadMask, RuntimeError), match="adds to the scores, but Elu"):
            call(x, x, x, mask + 1)


def test_encoders_do_not_go_around_the_parts() -> None:
    """torch's layer would compute with the weights in evaluation, and not call the attention."""
    x, keep = inputs(3, 6)
    plain = encoder(ours=False)
    for parts in ({"score": qkv.Cosine()}, {"kernel": qkv.Elu()}):
        model = encoder(**parts)
        assert model.layers[0].self_attn._qkv_same_embed_dim
        model.load_state_dict(plain.state_dict(), strict=False)
        expected = model(x, src_key_padding_mask=~keep)
        with torch.no_grad():
            close(model(x, src_key_padding_mask=~keep)[keep], expected[keep])
            assert (model(x) - plain(x)).abs().max() > 1e-3
            close(copy.deepcopy(model)(x), model(x))


# ---- weights that are not plain parameters ----


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_from_torch_of_a_pruned_module() -> None:
    theirs, _ = twins()
    prune.l1_unstructured(theirs, "in_proj_weight", 0.5)
    prune.random_unstructured(theirs.out_proj, "weight", 0.5)
    with torch.no_grad():
        theirs.in_proj_weight_orig.mul_(2)  # as an optimizer does: the mask is applied at the next call
    ours = qkv.MultiheadAttention.from_torch(theirs)
    x = torch.randn(2, 5, WIDTH)
    close(ours(x, x, x)[0], theirs(x, x, x)[0])
    assert (ours.in_proj_weight == 0).sum() == ours.in_proj_weight.numel() // 2
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_from_torch_of_a_parametrised_module() -> None:
    theirs, _ = twins()
    parametrize.register_parametrization(theirs, "in_proj_weight", Halved())
    parametrize.register_parametrization(theirs.out_proj, "weight", Halved())
    parametrize.register_parametrization(theirs, "in_proj_bias", Halved())
    theirs.parametrizations.in_proj_bias.original.requires_grad_(False)
    ours = qkv.MultiheadAttention.from_torch(theirs)
    x = torch.randn(2, 5, WIDTH)
    close(ours(x, x, x)[0], theirs(x, x, x)[0])
    frozen = [name for name, parameter in ours.named_parameters() if not parameter.requires_grad]
    assert frozen == ["in_proj_bias"]


@pytest.mark.parametrize("kind", EVERY)
def test_pruned_and_parametrised_layers_compute_with_the_new_weights(kind: str) -> None:
    model, given = Model(kind).eval(), inputs(2, 10)
    plain = copy.deepcopy(model)
    place = ("to_q", "weight") if kind in ATTENTIONS else ("", "in_proj_weight")
    module, other = (m.layer.get_submodule(place[0]) for m in (model, plain))
    prune.l1_unstructured(module, place[1], 0.5)
    last = "to_out" if place[0] else "out_proj"
    parametrize.register_parametrization(model.layer.get_submodule(last), "weight", Halved())
    with torch.no_grad():
        getattr(other, place[1]).copy_(getattr(module, place[1]))
        plain.layer.get_submodule(last).weight.div_(2)
        close(model(*given), plain(*given))


def test_dynamically_quantised() -> None:
    """torch does not quantise a layer's own projections; qkv.Attention has linear layers, which it does."""
    x, keep = inputs(3, 6)
    model = encoder(ours=False)
    ours = copy.deepcopy(model)
    for layer in ours.layers:
        layer.self_attn = qkv.MultiheadAttention.from_torch(layer.self_attn)
    both = [torch.ao.quantization.quantize_dynamic(m, {nn.Linear}, torch.qint8) for m in (model, ours)]
    for layer in both[1].layers:
        assert type(layer.self_attn.out_proj) is type(both[0].layers[0].self_attn.out_proj)
    torch.backends.mha.set_fastpath_enabled(False)  # torch's own would read the packed weights as tensors
    try:
        close(*(m(x, src_key_padding_mask=~keep)[keep] for m in both))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    attention = Model("softmax").eval()
    quantised = torch.ao.quantization.quantize_dynamic(attention, {nn.Linear}, torch.qint8)
    assert "quantized" in type(quantised.layer.to_q).__module__
    close(quantised(x, keep), attention(x, keep), 0.05)


def test_quantised_layers_are_those_of_torch() -> None:
    x = torch.randn(2, 5, WIDTH)
    outs = []
    for layer in twins():
        quantised = torch.ao.quantization.quantize_dynamic(layer.eval(), {nn.Linear}, torch.qint8)
        outs.append(quantised(x, x, x)[0])
        close(outs[-1], layer(x, x, x)[0], 0)
    close(*outs)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_dropout_of_everything(dropout: float) -> None:
    x = torch.randn(2, 5, WIDTH)
    for need_weights in (True, False):
        theirs, ours = twins(dropout=dropout)
        close(ours(x, x, x, need_weights=need_weights)[0], theirs(x, x, x, need_weights=need_weights)[0])
    layer = qkv.Attention(WIDTH, HEADS, dropout=dropout)
    assert layer(x).any() == (dropout == 0)
    layer(x).sum().backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in layer.parameters() if parameter.grad is not None
    )


# ---- PEFT ----


@pytest.mark.parametrize("parts", [{}, {"kernel": qkv.RFA(8, redraw=False)}, {"score": qkv.Additive()}])
def test_lora_adapts_and_merges(parts: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    x = torch.randn(2, 5, WIDTH)
    theirs, _ = twins()
    ours = qkv.MultiheadAttention.from_torch(theirs, **parts)
    config = peft.LoraConfig(r=2, target_modules=["attention"], init_lora_weights=False)
    outs = []
    for layer in (theirs, ours):
        torch.manual_seed(1)
        model = peft.get_peft_model(nn.ModuleDict({"attention": layer}), config).base_model.model
        adapted = model["attention"]
        before = layer(x, x, x)[0]
        out = adapted(x, x, x)[0]
        assert (out - before).abs().max() > 1e-3
        out.square().sum().backward()
        learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert learns
        assert all("lora_" in name for name in learns)
        outs.append(out)
        merged = adapted.unload_and_optionally_merge_module(True, True, None)
        assert merged is layer
        close(merged(x, x, x)[0], out)
    if not parts:
        close(*outs)


def test_lora_on_the_linear_layers_of_attention() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_kv", "to_out"], init_lora_weights=False)
    model, given = Model("causal elu").eval(), inputs(2, 10)
    plain = model(*given)
    adapted = peft.get_peft_model(model, config)
    out = adapted(*given)
    assert (out - plain).abs().max() > 1e-3
    with torch.no_grad():
        close(adapted.merge_and_unload()(*given), out)


# ---- what cannot work, and the page ----


def test_what_reads_the_source_of_forward_fails_as_the_page_says() -> None:
    layer: Any = qkv.MultiheadAttention(WIDTH, HEADS)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever torch finds first
        torch.jit.script(layer)
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.fx.symbolic_trace(layer)
    layer.qconfig = torch.ao.quantization.get_default_qconfig()
    with pytest.raises(AssertionError, match="Expected type"):
        torch.ao.nn.quantizable.MultiheadAttention.from_float(layer)


WORKS = {
    "torch.jit.trace": test_torch_programs.test_traced_by_jit,
    "torch.export": test_torch_programs.test_exported_with_any_batch_and_length,
    "torch.compile(fullgraph=True)": test_encoder_compiled_and_exported,
    "make_fx": test_torch_programs.test_recorded_by_make_fx,
    "FakeTensorMode": test_torch_programs.test_fake_tensors,
    "torch.fx, as a leaf": test_torch_programs.test_leaf_of_an_fx_graph,
    "the meta device": test_torch_creation.test_meta_device,
    "to_empty, load_state_dict": test_torch_creation.test_meta_then_loaded,
    "reset_parameters": test_torch_creation.test_meta_then_reset,
    "torch.set_default_dtype": test_torch_creation.test_default_dtypes,
    "prune, parametrize": test_pruned_and_parametrised_layers_compute_with_the_new_weights,
    "quantize_dynamic": test_dynamically_quantised,
    "nn.TransformerEncoder": test_encoders_do_not_go_around_the_parts,
    "nested tensors": test_torch_nested.test_nested,
    "peft.LoraConfig": test_lora_adapts_and_merges,
}
FAILS = ["torch.jit.script", "torch.fx.symbolic_trace", "torch.ao.nn.quantizable"]


def test_the_page_lists_the_tools_that_are_tested() -> None:
    cells = [
        line.split("|")[1:3] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    listed = {name.strip().replace("`", ""): answer.strip() for name, answer in cells}
    assert listed == dict.fromkeys(WORKS, "yes") | dict.fromkeys(FAILS, "no")
